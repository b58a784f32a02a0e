"""Text to tokens: read, split, tokenize, write; in memory that does not grow with the corpus.

The way: find the parts, take stock of them (`stock`), learn the vocabulary from a sample, then one pass over the text
that writes both streams (`shards`) and every few seconds how far it is. A killed preparation goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlrs.data import shards
from rlrs.data.chat import chat_encoder
from rlrs.data.facts import FORMAT, GENERAL, DataSummary, Facts, read_facts, write_facts
from rlrs.data.hub_datasets import is_local, open_hub
from rlrs.data.sealed import Sealed, read_sealed, write_sealed
from rlrs.data.shards import STREAMS, ShardWriter, digests
from rlrs.data.sources import HUB, Part, find_files, hash_order
from rlrs.data.split import Labelled, labelled, split_corpus
from rlrs.data.stock import Entry, Notes, Stock, take_stock
from rlrs.data.tokenizer import BPE, BYTES, Encoder, from_path, identity, learn, make_encoder, of_bytes
from rlrs.data.tokens import TokenData
from rlrs.data.unpacking import DamagedError
from rlrs.files import locked, write_atomic
from rlrs.messages import printable
from rlrs.records import RecordError
from rlrs.settings import ConfigError, DataConfig

log = logging.getLogger("rlrs.data")

BATCH = 2**21
"""Characters tokenized at once, on all cores; 256 documents at most. Bounds the memory that a preparation needs."""

BATCH_PIECES = 256

COMMIT_TOKENS = 2**23
"""Tokens between two writes of progress.json: what a killed preparation does again. Seconds of work."""

SPREAD = 256
"""A sample for the vocabulary takes at most this share of what is still missing from one part."""

Tell = Callable[[int, int | None], None]
"""Is told how many bytes of text are done, and of how many; None where that is not known."""


def prepare(config: DataConfig, folder: str | Path, tell: Tell | None = None) -> TokenData:
    """Read, split, tokenize and write a corpus; or take what the folder already holds, if it is just that.

    Files and their layout are in `rlrs.data.shards`. They are used again only if the settings, the text and every file
    are as data.json says; otherwise they are made anew. Another sequence length is no reason to. A process that was
    killed goes on from its last commit; a second process waits for the first.

    Args:
        config: settings.
        folder: of the study; made if missing. The tokens are there, or in a folder of `config.folder`.
        tell: is told how far it is, every second or so.

    Raises:
        ConfigError: no such text or tokenizer, something damaged, or too little text for one sequence.
        ImportError: an extra is not installed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.txt").write_text("A line of text.\\n" * 200)
    >>> config = DataConfig(source=f"files:{folder}/*.txt", tokenizer="bytes", sequence_length=16)
    >>> data = prepare(config, folder / "data")
    >>> data.vocab_size, data.summary["bytes"]
    (257, 3200)
    """
    folder = Path(folder)
    _prepare(config, folder, tell)
    place = folder / GENERAL
    if config.general is None:
        shutil.rmtree(place, ignore_errors=True)  # of a preparation that was given up
        return TokenData.load(folder)
    facts = read_facts(folder)
    assert facts is not None, "it has just been made"
    learnt = config.tokenizer == BPE
    general = config.of_general(str(facts.place(folder) / "tokenizer.json") if learnt else config.tokenizer)
    assert general is not None
    try:
        _prepare(general, place, tell)
    except ConfigError as error:
        raise ConfigError(f"data.general: {error}") from None
    return TokenData.load(folder)


def _prepare(config: DataConfig, folder: Path, tell: Tell | None) -> None:
    """Make the tokens of one corpus, or find them made."""
    root = folder if config.folder is None else Path(config.folder).expanduser()
    notes = Notes.load(root / "notes.json")
    settings = _settings(config)
    stock = None
    text = _known_text(config, settings, root)
    if text is None:
        stock = take_stock(*_open(config), config, notes)
        text = stock.hash
    home = root if config.folder is None else root / _key({**settings, "text": text})
    with _held(home):
        if not _is_whole(home, {**settings, "text": text}, notes):
            stock = stock or take_stock(*_open(config), config, notes)
            settings["text"] = stock.hash
            _Preparation(config, home, stock, settings, notes, tell or (lambda done, total: None)).run()
        (home / "progress.json").unlink(missing_ok=True)
        _describe(config, home, folder)
        notes.save()


def _settings(config: DataConfig) -> dict[str, Any]:
    """What decides the tokens beside the text itself."""
    plain: dict[str, Any] = {"tokenizer": identity(config), "valid_fraction": config.valid_fraction}
    plain["text_field"] = config.text_field
    plain["format"] = config.format
    if config.format == "chat":
        plain["template"] = chat_encoder(config).template
    if _is_hub(config):
        names = ("source", "config_name", "split", "valid_split", "revision", "max_bytes")
        plain["hub"] = {name: getattr(config, name) for name in names}
    return plain


def _open(config: DataConfig) -> tuple[list[Part], str | None]:
    if _is_hub(config):
        parts, version = open_hub(config)
        return list(parts), version
    return list(find_files(config)), None


def _is_whole(folder: Path, settings: dict[str, Any], notes: Notes) -> bool:
    facts = _facts(folder)
    if facts is None or facts.home is not None or facts.settings != settings:
        return False
    return facts.sha256 == digests(folder, facts.sha256, notes)


def _facts(folder: Path) -> Facts | None:
    """What data.json says; None if there is none that can be used, which is said."""
    try:
        return read_facts(folder)
    except RecordError as error:
        log.warning("made anew: %s", error)
        return None


def _known_text(config: DataConfig, settings: dict[str, Any], root: Path) -> str | None:
    """Hash of the text of a data set on the hub that is prepared here, so that the hub is not asked again.

    A study stays with the data that it began with. Files and local folders are looked at anew.
    """
    if not _is_hub(config) or is_local(config):
        return None
    for folder in [root] if config.folder is None else sorted(root.glob("*/")):
        facts = _facts(folder)
        if facts is not None and facts.settings == {**settings, "text": facts.settings.get("text")}:
            return facts.settings["text"]
    return None


def _is_hub(config: DataConfig) -> bool:
    return isinstance(config.source, str) and config.source.startswith(HUB)


def _key(settings: dict[str, Any]) -> str:
    """Hash of settings and text: what the tokens are of."""
    text = json.dumps([FORMAT, shards.SHARD_TOKENS, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(config: DataConfig, home: Path, folder: Path) -> None:
    """Let the study's data.json speak of its name of the source and sequence length, on which no token depends."""
    whole = read_facts(home)
    assert whole is not None, "it has just been found or made whole"
    summary = whole.summary.model_copy(
        update={"source": config.source, "hash": shards.identity(whole.sha256, config.sequence_length)}
    )
    facts = whole.model_copy(update={"sequence_length": config.sequence_length, "summary": summary})
    if home != folder:
        folder.mkdir(parents=True, exist_ok=True)
        facts = facts.model_copy(update={"home": str(home.resolve())})
    if facts.sealed() != _facts_there(folder):
        write_facts(folder, facts)


def _facts_there(folder: Path) -> Facts | None:
    try:
        return read_facts(folder)
    except RecordError:
        return None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder of tokens for one process; wait for the one that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(
        folder / "lock", waiting=lambda: log.warning("%s: waiting for another process that prepares these data", folder)
    ):
        yield


@dataclass
class _Done:
    """How far a preparation is: parts that are read to the end, pieces of the next one, tokens that are on disk."""

    part: int = 0
    piece: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    skipped: list[str] = field(default_factory=list)


class _Progress(Sealed):
    """Content of progress.json."""

    key: str
    """Of settings and text."""
    tokenizer: str
    """SHA-256 of tokenizer.json."""
    end: int
    """Number of the token after every document."""
    itemsize: Literal[2, 4]
    """Bytes of a token on disk."""
    done: _Done


class _Preparation:
    def __init__(
        self, config: DataConfig, folder: Path, stock: Stock, settings: dict[str, Any], notes: Notes, tell: Tell
    ) -> None:
        self.config, self.folder, self.stock, self.settings = config, folder, stock, settings
        self.notes, self.tell = notes, tell
        self.split = split_corpus(stock, config)
        self.path = folder / "progress.json"

    def run(self) -> None:
        """From wherever it is to whole tokens and their data.json."""
        found = self._resumed()
        if found is None:
            for path in shards.leftovers(self.folder):
                path.unlink()
            done = _Done()
            encoder = self._tokenizer()
            write_atomic(self.folder / "tokenizer.json", encoder.tokenizer.to_str())
            self._commit(encoder, done)
        else:
            encoder, done = found
        dtype = np.dtype("<u2" if encoder.stored <= 2**16 else "<u4")
        writers = {
            stream: ShardWriter(self.folder, stream, dtype, done.tokens[stream], shards.SHARD_TOKENS)
            for stream in STREAMS
        }
        try:
            self._tokenize(encoder, writers, done)
            for writer in writers.values():
                writer.finish()
        finally:
            for writer in writers.values():
                writer.close()
        self._conclude(encoder, done, dtype)

    def _resumed(self) -> tuple[Encoder, _Done] | None:
        """Tokenizer and progress of a preparation of just these data that was killed."""
        try:
            found = read_sealed(self.path, _Progress, "the preparation begins again")
        except FileNotFoundError:
            return None
        except RecordError as error:
            log.warning("%s", error)
            return None
        done = found.done
        try:
            tokenizer = (self.folder / "tokenizer.json").read_bytes()
            same = found.key == _key(self.settings) and found.tokenizer == hashlib.sha256(tokenizer).hexdigest()
            on_disk = same and all(self._has(stream, done.tokens[stream], found.itemsize) for stream in STREAMS)
        except OSError:
            return None
        if not on_disk:
            return None
        if self.config.tokenizer == BYTES:
            return of_bytes(), done
        if self.config.format == "chat":
            return chat_encoder(self.config), done
        from tokenizers import Tokenizer

        return make_encoder(Tokenizer.from_str(tokenizer.decode()), found.end), done

    def _has(self, stream: str, tokens: int, itemsize: int) -> bool:
        """Whether at least so many tokens of a stream are on disk."""
        for name in shards.shard_names(stream, tokens, shards.SHARD_TOKENS):
            path = self.folder / name
            path = path if path.exists() else path.with_name(name + shards.PARTIAL)
            if path.stat().st_size < min(tokens, shards.SHARD_TOKENS) * itemsize:
                return False
            tokens -= shards.SHARD_TOKENS
        return True

    def _commit(self, encoder: Encoder, done: _Done) -> None:
        progress = _Progress(
            key=_key(self.settings),
            tokenizer=hashlib.sha256((self.folder / "tokenizer.json").read_bytes()).hexdigest(),
            end=encoder.end,
            itemsize=2 if encoder.stored <= 2**16 else 4,
            done=done,
        )
        write_sealed(self.path, progress)

    def _tokenizer(self) -> Encoder:
        if self.config.format == "chat":
            return chat_encoder(self.config)
        if self.config.tokenizer == BPE:
            return learn(self._sample(), self.config.vocab_size)
        if self.config.tokenizer == BYTES:
            return of_bytes()
        return from_path(self.config.tokenizer, self.config.end_token)

    def _sample(self) -> list[str]:
        """Training text to learn the vocabulary from: all of it, or else the beginnings of parts in hash order."""
        most = self.config.vocab_sample
        texts: list[str] = []
        size = 0
        for part, entry in self._parts():
            for piece in self._pieces(part, entry):
                if not piece.valid:
                    texts.append(piece.text)
                    size += len(piece.text.encode())
                if size > most:
                    break
            if size > most:
                break
        else:
            return texts
        texts.clear()
        left = most
        parts = sorted(self._parts(), key=lambda pair: hash_order(pair[0].name))
        for number, (part, entry) in enumerate(parts):
            share = left // min(len(parts) - number, SPREAD)
            for piece in self._pieces(part, entry):
                if piece.valid:
                    continue
                text = piece.text[:share]
                texts.append(text)
                used = len(text.encode())
                share, left = share - used, left - used
                if share <= 0:
                    break
            if left < most // 100:
                break
        return texts

    def _parts(self) -> list[tuple[Part, Entry]]:
        return list(zip(self.stock.parts, self.stock.entries, strict=True))

    def _pieces(self, part: Part, entry: Entry, skipped: list[str] | None = None) -> Iterator[Labelled]:
        """A part's pieces; one that turns out damaged ends there, if that is allowed."""
        before = part.stamp()
        try:
            yield from labelled(part, entry, self.split, self.config)
        except DamagedError as error:
            if self.config.damaged == "refuse":
                remedy = "mend it, or leave such out with data.damaged: skip; what is prepared is kept"
                raise ConfigError(f"{part.where}: {error}; {remedy}") from None
            if skipped is not None:
                log.warning("left out from there on: %s: %s", part.where, error)
                skipped.append(f"{printable(part.name)}: from there on: {error}")
        if part.stamp() != before:
            raise ConfigError(f"{part.where}: changed while it was read; start again when nothing writes to it")

    def _tokenize(self, encoder: Encoder, writers: dict[str, ShardWriter], done: _Done) -> None:
        """The pass over the text, from `done` on."""
        committed = sum(done.tokens.values())
        end = encoder.ending()
        for batch, part, piece in self._batches(done):
            for item, tokens in zip(batch, encoder.encode([item.text for item in batch]), strict=True):
                stream = "valid" if item.valid else "train"
                writers[stream].write(tokens)
                done.bytes[stream] += len(item.text.encode())
                if item.last:
                    writers[stream].write(end)
                    done.documents[stream] += not item.cut
            done.part, done.piece = part, piece
            done.tokens = {stream: writer.position for stream, writer in writers.items()}
            self.tell(sum(done.bytes.values()), self.stock.bytes)
            if sum(done.tokens.values()) - committed >= COMMIT_TOKENS:
                for writer in writers.values():
                    writer.sync()
                self._commit(encoder, done)
                committed = sum(done.tokens.values())

    def _batches(self, done: _Done) -> Iterator[tuple[list[Labelled], int, int]]:
        """Pieces to tokenize together, with the number of the part and of the piece in it that come after them."""
        batch: list[Labelled] = []
        size = 0
        first, skip = done.part, done.piece
        for number, (part, entry) in enumerate(self._parts()[first:], start=first):
            start = skip if number == first else 0
            pieces = self._pieces(part, entry, done.skipped)
            for place, piece in enumerate(islice(pieces, start, None), start=start + 1):
                batch.append(piece)
                size += len(piece.text)
                if size >= BATCH or len(batch) == BATCH_PIECES:
                    yield batch, number, place
                    batch, size = [], 0
        if batch:
            yield batch, len(self.stock.parts), 0

    def _conclude(self, encoder: Encoder, done: _Done, dtype: np.dtype[Any]) -> None:
        names = ["tokenizer.json"]
        for stream in STREAMS:
            names += shards.shard_names(stream, done.tokens[stream], shards.SHARD_TOKENS)
        sha256 = digests(self.folder, names, self.notes)
        total = sum(done.bytes.values())
        summary = DataSummary(
            source=None,
            files=len(self.stock.parts),
            bytes=total,
            hash=None,
            vocab_size=encoder.size,
            train_tokens=done.tokens["train"],
            valid_tokens=done.tokens["valid"],
            bytes_per_token=total / sum(done.tokens.values()),
            valid_bytes_per_token=done.bytes["valid"] / max(done.tokens["valid"], 1),
            documents=sum(done.documents.values()),
            valid_documents=done.documents["valid"],
            end_token=encoder.end,
            skipped=(*self.stock.skipped, *done.skipped),
        )
        facts = Facts(
            settings=self.settings,
            sequence_length=None,
            summary=summary,
            dtype="<u2" if dtype.itemsize == 2 else "<u4",
            shard_tokens=shards.SHARD_TOKENS,
            sizes={name: (self.folder / name).stat().st_size for name in names},
            sha256=sha256,
        )
        write_facts(self.folder, facts)
