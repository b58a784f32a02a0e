"""Files as documents: text, JSON lines, JSON arrays and parquet, plain or compressed, a bounded piece at a time.

A text file is one document. A line of JSON lines, an element of an array and a row of parquet are one each. A byte
order mark is no text, wherever it stands.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlrs.data.unpacking import BYTE_ORDER_MARK, CHUNK, COMPRESSED, DamagedError, Hash, first_line, unpack
from rlrs.extras import install

PIECE = 2**16
"""Characters of text handed on at once; a longer document comes in pieces (see `_cut`). The `tokenizers` library needs
a hundred bytes and more for each character that it is at work on, and its threads share pieces, not parts of one."""

ELEMENT = 2**28
"""Characters that one element of a JSON array may have; a longer one is taken for the end of what is whole."""

Format = Literal["text", "jsonl", "json", "parquet", "chat"]

BadRecord = Callable[[str, str], None]
"""Is told of a record that holds no document (where, such as `line 3`; why); raises `DamagedError` or not."""

_SHARD = re.compile(r"-\d+-of-\d+$")
_NOT_READ = {
    (".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar"): "an archive: unpack it and name the files in it",
    (".lz4", ".lz", ".lzma", ".lzo", ".br", ".z", ".sz", ".snappy", ".zstd"): (
        "compressed in a way that is not read; .gz, .zst, .bz2 and .xz are"
    ),
    (".csv", ".tsv"): "a table: write its text as .jsonl or .parquet; or say data.format: text",
    (".xls", ".xlsx", ".ods"): "a table: write its text as .jsonl or .parquet",
    (".arrow", ".feather", ".orc", ".avro", ".h5", ".hdf5", ".sqlite", ".db"): (
        "a table: write it as .parquet, or name its folder as data.source: hf:FOLDER"
    ),
    (".geojson", ".topojson", ".json5", ".jsonc", ".bson"): (
        "a kind of JSON that is not read: write its text as .jsonl; or say data.format: text"
    ),
    (".html", ".htm", ".xhtml", ".xml", ".ipynb", ".rtf"): (
        "markup around text: take the text out of it; or say data.format: text"
    ),
    (".pdf", ".ps", ".doc", ".docx", ".odt", ".epub", ".warc"): "no plain text: take the text out of it",
}
"""Ends of names that say more than "text", and what to do."""


class Piece(NamedTuple):
    """A part of a document's text; `last` is true for its last part."""

    text: str
    last: bool


def guess_format(path: Path) -> Format:
    """Kind of a file by the end of its name; text, if it says nothing."""
    name = _bare(path)
    if name.endswith((".jsonl", ".ndjson", ".jsonlines", ".jl")):
        return "jsonl"
    if name.endswith(".json"):
        return "json"
    return "parquet" if name.endswith(".parquet") else "text"


def why_not_read(path: Path) -> str | None:
    """Why a file is not taken for text by the end of its name; None if it is, or is of another kind that is read."""
    name = _bare(path)
    why = next((why for endings, why in _NOT_READ.items() if name.endswith(endings)), None)
    return why and f"its name says that it is {why}"


def read_text(path: Path, digest: Hash | None = None) -> Iterator[str]:
    """The text of a file in pieces; nothing of an empty file.

    Args:
        path: the file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.
        digest: takes in the file's bytes as they are on disk.

    Raises:
        DamagedError: not UTF-8 text, or the compressed stream is broken.
        OSError: it cannot be read.
    """
    held = ""
    for text in _decoded(unpack(path, digest)):
        if "\0" in text:  # decodes, but is no text
            raise DamagedError("not UTF-8 text")
        held += text.replace(BYTE_ORDER_MARK, "")
        while len(held) > PIECE:
            cut = _cut(held, 0)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def split_pieces(text: str) -> Iterator[Piece]:
    """A document that is in memory, in pieces; one empty piece of an empty one."""
    start = 0
    while len(text) - start > PIECE:
        end = _cut(text, start)
        yield Piece(text[start:end], last=False)
        start = end
    yield Piece(text[start:], last=True)


def read_jsonl(path: Path, field: str, bad_record: BadRecord, digest: Hash | None = None) -> Iterator[str]:
    """The documents of JSON lines; one without text (null) is an empty text.

    Args:
        path: the file.
        field: of the text; `a.b` is the field b of the object in the field a, if there is no field `a.b`.
        bad_record: is told of lines that hold no document.
        digest: takes in the file's bytes as they are on disk.

    Raises:
        DamagedError: the compressed stream is broken, or by `bad_record`.
        OSError: it cannot be read.
    """
    return _of_lines(unpack(path, digest), field, bad_record, "not JSON")


def read_objects(path: Path, bad_record: BadRecord) -> Iterator[tuple[str, Any]]:
    """What JSON lines, or the array of a `.json` file, hold, with where it stands.

    Raises:
        DamagedError: the compressed stream or the array is broken, or by `bad_record`.
        OSError: it cannot be read.
    """
    head, chunks = _head(unpack(path))
    if _unmarked(head).lstrip().startswith(b"["):
        yield from ((f"element {number}", record) for number, record in enumerate(_elements(_decoded(chunks)), start=1))
    else:
        yield from _parsed(chunks, bad_record, "not JSON")


def read_json(path: Path, field: str, bad_record: BadRecord, digest: Hash | None = None) -> Iterator[str]:
    """The documents of a `.json` file: JSON lines, or one array of objects; see `read_jsonl`.

    Raises:
        DamagedError: the compressed stream or the array is broken, or by `bad_record`.
        OSError: it cannot be read.
    """
    head, chunks = _head(unpack(path, digest))
    if not _unmarked(head).lstrip().startswith(b"["):
        not_json = "no JSON by itself (a .json file should hold one object a line, or an array)"
        yield from _of_lines(chunks, field, bad_record, not_json)
        return
    for number, record in enumerate(_elements(_decoded(chunks)), start=1):
        yield from _document(record, field, f"element {number}", bad_record)


def read_parquet(path: Path, field: str) -> Iterator[str]:
    """The documents of a parquet file; one without text (null) is an empty text.

    Args:
        path: the file.
        field: column of text: strings of any kind, also categories, and bytes of UTF-8; see `read_jsonl` for `a.b`.

    Raises:
        DamagedError: not a whole parquet file, or it has no such column of text.
        OSError: it cannot be read.
        ImportError: the extra `datasets` is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute as compute
        import pyarrow.parquet as parquet
    except ImportError:
        raise ImportError(f"{path}: parquet needs the library pyarrow: {install('datasets')}") from None
    struct_field: Any = vars(compute)["struct_field"]  # made at import, unseen by type checkers
    row = 0
    try:
        # Without pre-buffering and with a small buffer, a row group of any size is read page by page.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            names = [field] if field in file.schema_arrow.names else field.split(".")
            _check_text(file.schema_arrow, names, field)
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                column: Any = batch.column(0)
                if names[1:]:
                    column = struct_field(column, names[1:])
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                for value in column:
                    row += 1
                    text = value.as_py() or ""
                    text = text if isinstance(text, str) else text.decode()
                    yield text.replace(BYTE_ORDER_MARK, "")
    except UnicodeDecodeError:
        raise DamagedError(f"row {row}: not UTF-8 text") from None
    except pa.ArrowInvalid as error:
        raise DamagedError(f"not whole parquet: {first_line(error)}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise DamagedError(f"not whole parquet: {first_line(error)}") from None  # arrow's own


def _check_text(schema: Any, names: list[str], field: str) -> None:
    """Raise if a column, or a field of structs in one, is not there or is no text."""
    import pyarrow as pa

    kind: Any = pa.struct(list(schema))
    for name in names:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            raise DamagedError(f"no column {_named(field)} (data.text_field); it has {_listed(schema.names)}")
        kind = kind.field(name).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    if not any(getattr(pa.types, f"is_{test}")(value) for test in tests):
        raise DamagedError(f"the column {_named(field)} (data.text_field) is {str(kind)[:80]}, not text")


def read_records(path: Path, bad_record: BadRecord, digest: Hash | None = None) -> Iterator[tuple[str, Any]]:
    """What each line of JSON lines holds, with its place; see `read_jsonl`."""
    return _parsed(unpack(path, digest), bad_record, "not JSON")


def _head(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """What a file begins with, up to its first character that is no white space; and all of it."""
    head = b""
    for chunk in chunks:
        head += chunk
        if _unmarked(head).strip():
            break
    return head, chain([head], chunks)


def _of_lines(chunks: Iterator[bytes], field: str, bad_record: BadRecord, not_json: str) -> Iterator[str]:
    for where, record in _parsed(chunks, bad_record, not_json):
        yield from _document(record, field, where, bad_record)


def _parsed(chunks: Iterator[bytes], bad_record: BadRecord, not_json: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_lines(chunks), start=1):
        line = _unmarked(line)
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError:
            bad_record(f"line {number}", "not UTF-8 text")
        except ValueError:
            bad_record(f"line {number}", not_json)
        except RecursionError:
            bad_record(f"line {number}", "nested too deeply")
        else:
            yield f"line {number}", record


def _document(record: Any, field: str, where: str, bad_record: BadRecord) -> Iterator[str]:
    """A record's text, if it has one."""
    try:
        text = _value(record, field)
    except (KeyError, TypeError, IndexError):
        has = f"it has {_listed(record)}" if isinstance(record, dict) else "it is no object"
        bad_record(where, f"no field {_named(field)} (data.text_field); {has}")
        return
    if not (text is None or isinstance(text, str)):
        bad_record(where, f"the field {_named(field)} is {type(text).__name__}, not text")
        return
    text = (text or "").replace(BYTE_ORDER_MARK, "")
    if (why := why_no_text(text)) is not None:
        bad_record(where, why)
    else:
        yield text


def why_no_text(text: str) -> str | None:
    """Why a string of Python is no text of Unicode: half of a surrogate pair; None if it is."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        return f"half of a surrogate pair (\\u{ord(text[error.start]):04x}) at character {error.start + 1} of the text"
    return None


def _value(record: Any, field: str) -> Any:
    if isinstance(record, dict) and field in record:
        return record[field]
    for name in field.split("."):
        record = record[name]
    return record


def _elements(texts: Iterator[str]) -> Iterator[Any]:
    """The elements of a JSON array, one after another."""
    scan = json.JSONDecoder().raw_decode
    held, at, number = "", 0, 0

    def fill(least: int) -> bool:
        """Have `least` more characters, if there are as many; whether there were any."""
        nonlocal held, at
        parts, size = [held[at:]], 0
        while size < least and (text := next(texts, None)) is not None:
            parts.append(text)
            size += len(text)
        if size:
            held, at = "".join(parts), 0
        return size > 0

    def sign() -> str:
        """The next character that is not white space or a mark; nothing at the end."""
        nonlocal at
        while True:
            while at < len(held) and (held[at].isspace() or held[at] == BYTE_ORDER_MARK):
                at += 1
            if at < len(held):
                return held[at]
            if not fill(1):
                return ""

    assert sign() == "[", "the caller has looked"
    at += 1
    while sign() != "]":
        if number:
            if sign() != ",":
                raise DamagedError(f"after element {number}: not JSON, or the array does not end")
            at += 1
            sign()
        while True:
            try:
                value, end = scan(held, at)
                if end < len(held) or not fill(1):  # at the end of what is read, a number may go on
                    break
            except RecursionError:
                raise DamagedError(f"element {number + 1}: nested too deeply") from None
            except ValueError:
                if len(held) - at > ELEMENT or not fill(max(1, len(held) - at)):
                    raise DamagedError(f"element {number + 1}: not JSON, or the array does not end") from None
        at, number = end, number + 1
        yield value
    at += 1
    if sign():
        raise DamagedError(f"something follows the array of {number} elements")


def _decoded(chunks: Iterator[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in chunks:
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise DamagedError("not UTF-8 text") from None


def _cut(text: str, start: int) -> int:
    """Where the piece that begins at `start` ends: before its last single space, or else after its last line.

    Between a word and the space before the next one all common pre-tokenizers have a border (GPT-2's, GPT-4's, Llama's,
    white space), so that the tokens of the pieces are those of the whole text.
    """
    at = text.rfind(" ", start, start + PIECE)
    while at > start:
        if not text[at + 1].isspace():
            return at
        at = text.rfind(" ", start, at)
    last = text.rfind("\n", start, start + PIECE)
    return last + 1 if last >= start else start + PIECE


def borders(data: bytes, least: int, most: int) -> tuple[int, int, int]:
    """The last bytes from `least` to `most` of UTF-8 at which a line begins, a space stands, a character begins.

    -1 for a line or a space that is not there.
    """
    line = data.rfind(b"\n", max(least - 1, 0), most)
    turn = data.rfind(b"\r", max(least - 1, 0), most)
    if turn > line and data[turn + 1 : turn + 2] not in (b"", b"\n"):
        line = turn
    character = min(most, len(data))
    while character < len(data) and data[character] & 0xC0 == 0x80:
        character -= 1
    return line + 1 if line >= 0 else -1, data.rfind(b" ", least, most + 1), character


def border(data: bytes, least: int, most: int) -> int:
    """Where to cut text of UTF-8 between two bytes: at a line; else before a word; else between two characters."""
    line, space, character = borders(data, least, most)
    return next((at for at in (line, space) if at >= 0), character)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []  # of a line whose end has not come yet
    for chunk in chunks:
        first, *more = chunk.split(b"\n")
        held.append(first)
        for line in more:
            yield b"".join(held)
            held = [line]
    yield b"".join(held)


def _unmarked(line: bytes) -> bytes:
    return line.removeprefix(codecs.BOM_UTF8)


def _bare(path: Path) -> str:
    """The name without the end that says how it is compressed, or which shard of how many it is."""
    name = _SHARD.sub("", path.name.lower())
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name


def _named(field: str) -> str:
    return repr(field if len(field) <= 40 else field[:37] + "...")


def _listed(names: Any) -> str:
    return ", ".join(_named(str(name)) for name in list(names)[:8]) or "none"
