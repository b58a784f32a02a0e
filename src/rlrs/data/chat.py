"""Conversations as tokens: a model's own chat template, and a loss on what the assistant says alone.

On disk a token that is only context has the size of the vocabulary added to its number, so that a stream says by itself
what is learnt. `TokenData` takes it off again, and gives such targets as `IGNORED`.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlrs.data.reading import BadRecord, read_records
from rlrs.data.tokenizer import Encoder, from_path, tokenizer_folder
from rlrs.data.unpacking import Hash, first_line
from rlrs.extras import install
from rlrs.messages import shown
from rlrs.settings import ConfigError, DataConfig

MESSAGES = "messages"
"""Field of a conversation, where `data.text_field` names no other."""
ROLES = ("system", "user", "assistant", "tool", "developer")

Messages = list[dict[str, Any]]


def read_chat(path: Path, field: str, bad_record: BadRecord, digest: Hash | None = None) -> Iterator[str]:
    """The conversations of JSON lines, each as JSON of its messages.

    Args:
        path: the file; every line has a list of messages, each with `role` and `content`.
        field: of the list.
        bad_record: is told of lines that hold no conversation.
        digest: takes in the file's bytes as they are on disk.

    Raises:
        DamagedError: the compressed stream is broken, or by `bad_record`.
        OSError: it cannot be read.
    """
    for where, record in read_records(path, bad_record, digest):
        messages = record.get(field) if isinstance(record, dict) else None
        if (why := _why_no_conversation(messages, field)) is not None:
            bad_record(where, why)
        else:
            yield json.dumps(messages, ensure_ascii=False, sort_keys=True)


def _why_no_conversation(messages: Any, field: str) -> str | None:
    if not isinstance(messages, list) or not messages:
        return f"no list of messages in the field {field!r} (data.text_field)"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            return f"message {number} should have a role of {', '.join(ROLES)}"
        if not isinstance(message.get("content"), str):
            return f"message {number} should have a content that is text"
        try:
            message["content"].encode()
        except UnicodeEncodeError:
            return f"message {number} holds half of a surrogate pair"
    if not any(message["role"] == "assistant" for message in messages):
        return "the assistant says nothing"
    return None


@dataclass(frozen=True)
class ChatEncoder(Encoder):
    """A tokenizer that takes conversations, as `read_chat` gives them.

    Args:
        render: messages, and whether the assistant is to speak next -> text.
        template: that does it, a part of what decides the tokens.
    """

    render: Callable[[Messages, bool], str] = lambda messages, speaks: ""
    template: str = ""

    @property
    def stored(self) -> int:
        """Numbers on disk: tokens that are learnt, and tokens that are context."""
        return 2 * self.size

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Tokens of each conversation, those that the assistant does not say with the size of the vocabulary added."""
        conversations = [self._rendered(json.loads(text)) for text in texts]
        self.tokenizer.encode_special_tokens = False
        encodings = self.tokenizer.encode_batch([text for text, _ in conversations], add_special_tokens=False)
        found = []
        for encoding, (_, said) in zip(encodings, conversations, strict=True):
            ids = np.frombuffer(array("I", encoding.ids), dtype=np.uint32)
            starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
            learnt = np.zeros(len(ids), dtype=bool)
            for first, stop in said:
                learnt |= (starts >= first) & (starts < stop)
            found.append(np.where(learnt, ids, ids + np.uint32(self.size)))
        return found

    def ending(self) -> NDArray[Any]:
        """The end of text is context: a template says itself what ends a turn."""
        return super().ending() + np.uint32(self.size)

    def _rendered(self, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
        """A conversation as text, and where in it the assistant speaks, the marks that end its turns included."""
        whole, said = self.render(messages, False), []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = self.render(messages[:number], True), self.render(messages[: number + 1], False)
            if not (after.startswith(before) and whole.startswith(after)):
                raise ConfigError(
                    "data.format: chat: the tokenizer's chat template writes earlier turns otherwise once later ones "
                    f"are there, so what the assistant says cannot be told; message {number + 1} is {shown(message)}"
                )
            said.append((len(before), len(after)))
        return whole, said


def chat_encoder(config: DataConfig) -> ChatEncoder:
    """The tokenizer of a folder with its chat template.

    Raises:
        ConfigError: there is none, or it has no template.
        ImportError: the extra `transformers` is not installed.
    """
    encoder = from_path(config.tokenizer, config.end_token)
    try:
        import transformers
    except ImportError:
        raise ImportError(f"data.format: chat needs transformers: {install('transformers')}") from None
    folder = tokenizer_folder(config.tokenizer)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of many kinds, by what is missing
        problem = f"no tokenizer of transformers: {first_line(error)}"
        raise ConfigError(f"data.tokenizer={config.tokenizer!r}: {problem}") from None
    if not tokenizer.chat_template:
        raise ConfigError(
            f"data.tokenizer={config.tokenizer!r}: has no chat template, which data.format: chat needs; name the "
            "folder of a model that is for chat, or put a chat_template.jinja into it"
        )

    def render(messages: Messages, speaks: bool) -> str:
        if not messages:
            return ""
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=speaks)
        except Exception as error:  # a template raises what it likes
            raise ConfigError(
                f"data.format: chat: the tokenizer's chat template refuses a conversation: {first_line(error)}"
            ) from None

    return ChatEncoder(encoder.tokenizer, encoder.end, template=str(tokenizer.chat_template), render=render)
