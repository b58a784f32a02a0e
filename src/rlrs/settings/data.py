"""Settings of text and tokens."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rlrs.settings.base import Count, Settings, number


class GeneralConfig(Settings):
    """General text: a second held-out set, whose loss fine-tuning should leave about as it was."""

    source: str | tuple[str, ...]
    """As `data.source`: often the kind of text that the weights were trained on."""
    may_rise: Annotated[float, BeforeValidator(number), Field(ge=0)] = 0.1
    """Nats per token by which its loss may rise from before a run to its end; an arm that raises it more is no gain.
    Chosen here, not studied."""
    text_field: Annotated[str, Field(min_length=1)] = "text"
    """As in `data`, and so are those below."""
    format: Literal["text", "jsonl", "json", "parquet"] | None = None
    config_name: str | None = None
    split: Annotated[str, Field(min_length=1)] = "train"
    valid_split: str | None = None
    revision: str | None = None
    valid_fraction: Annotated[float, BeforeValidator(number), Field(gt=0, lt=1)] = 0.05
    """Share of it that is measured on: the same documents as those that a study of this text kept for validation."""
    max_bytes: Count | None = None


class DataConfig(Settings):
    """Where the text comes from and how it becomes tokens (docs/data.md)."""

    source: str | tuple[str, ...] = "stdlib"
    """`stdlib` (the Python standard library's own source), `files:GLOB` or a list of such globs (text, jsonl, json and
    parquet, plain or compressed), or `hf:NAME` (a data set by name, or a local folder)."""
    text_field: Annotated[str, Field(min_length=1)] = "text"
    """Field of a document's text, in jsonl, parquet and data sets."""
    format: Literal["text", "jsonl", "json", "parquet", "chat"] | None = None
    """What `files:` are, whatever their names end in; by the end of each name if not set. `chat` is JSON lines with a
    list of `messages`, of which the loss is on what the assistant says."""
    config_name: str | None = None
    """Configuration of an `hf:` data set (its subset)."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """Split of an `hf:` data set that is read."""
    valid_split: str | None = None
    """Split of an `hf:` data set to validate on; if not set, a share of `split` is kept for it."""
    revision: str | None = None
    """Commit, tag or branch of an `hf:` data set on the hub."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """Files and lines that are damaged or empty: stop and name them, or leave them out and name them."""
    folder: str | None = None
    """Where tokens are kept, each kind in a folder of its own, for all studies that name it; the run directory if not
    set. Changes no result."""
    tokenizer: Annotated[str, Field(min_length=1)] = "bpe"
    """`bpe` (learnt from the training text), `bytes` (one token a byte), or a path: a tokenizer.json, or a folder with
    one or with a transformers tokenizer; or a name on the hub (`ORGANISATION/NAME`)."""
    end_token: str | None = None
    """End-of-text mark of a tokenizer that is given by path; as its own files say, if not set."""
    vocab_size: Annotated[Count, Field(ge=257, le=2**24)] = 1024
    """Entries of the `bpe` vocabulary, the 256 bytes and the end-of-text mark included."""
    vocab_sample: Count = 64_000_000
    """Bytes of training text that the `bpe` vocabulary is learnt from, spread over the corpus."""
    sequence_length: Annotated[Count, Field(ge=2, le=2**24)] = 128
    """Tokens per training sequence."""
    valid_fraction: Annotated[float, BeforeValidator(number), Field(gt=0, lt=1)] = 0.05
    """Share that is kept for validation: of the text files by bytes, of documents in jsonl, parquet and data sets."""
    max_bytes: Count | None = None
    """Use only about this many bytes of text (whole files in hash order, the first documents of jsonl, parquet and data
    sets); all of it if not set."""

    general: GeneralConfig | None = None
    """Text whose loss fine-tuning may not raise by more than is stated; not watched if not set."""

    def of_general(self, tokenizer: str) -> DataConfig | None:
        """The settings of the general text as a corpus of its own; None if there is none.

        Args:
            tokenizer: of the tokens, as `tokenizer` takes it.
        """
        if self.general is None:
            return None
        own = self.general.model_dump(exclude={"may_rise"})
        end = self.end_token if tokenizer == self.tokenizer else None
        common = {"damaged": self.damaged, "folder": self.folder, "sequence_length": self.sequence_length}
        return DataConfig(**own, **common, tokenizer=tokenizer, end_token=end)

    @model_validator(mode="after")
    def _general(self) -> Self:
        self.of_general("bytes")  # what is wrong with its source is said at once
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sources = [self.source] if isinstance(self.source, str) else list(self.source)
        if not sources:
            raise ValueError(
                "source is an empty list; it should be 'stdlib', 'files:GLOB', 'hf:NAME' or a list of globs"
            )
        for source in sources:
            kind, colon, rest = source.partition(":")
            known = source == "stdlib" or (colon and rest and kind in ("files", "hf"))
            if not known or (kind != "files" and not isinstance(self.source, str)):
                raise ValueError(f"{source=} should be 'stdlib', 'files:GLOB', 'hf:NAME' or a list of 'files:' globs")
        if not sources[0].startswith("hf:"):
            for name in ("config_name", "valid_split", "revision"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(f"{name}={value!r} is for 'hf:' sources only")
        elif self.format is not None:
            raise ValueError(f"format={self.format!r} is for 'files:' only; a data set knows its own")
        if self.format == "chat" and self.tokenizer in ("bpe", "bytes"):
            raise ValueError(
                f"format=chat needs the tokenizer of a model, with its chat template, not {self.tokenizer}"
            )
        if self.tokenizer in ("bpe", "bytes") and self.end_token is not None:
            raise ValueError(
                f"end_token={self.end_token!r} is for a tokenizer given by path; {self.tokenizer} has its own"
            )
        if self.tokenizer != "bpe" and self.vocab_size != type(self).model_fields["vocab_size"].default:
            raise ValueError(
                f"vocab_size={self.vocab_size} is for tokenizer 'bpe'; {self.tokenizer!r} has its own size"
            )
        return self
