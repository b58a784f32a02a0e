"""Every format gives the same documents, in pieces, and a broken file is not taken for a short one."""

import bz2
import json
import lzma
from pathlib import Path

import pytest
from corpora import write_jsonl, write_packed, write_parquet

from rlrs.data import reading, unpacking
from rlrs.data.reading import guess_format, read_json, read_jsonl, read_parquet, read_text, split_pieces
from rlrs.data.unpacking import DamagedError


def refuse(where, why):
    raise DamagedError(f"{where}: {why}")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a.py", "a"])
def test_a_text_file_is_its_text_whatever_its_compression(tmp_path, name):
    text = "".join(f"line {number} of äöü\r\n" for number in range(20_000))
    write_packed(tmp_path / name, text.encode())
    assert "".join(read_text(tmp_path / name)) == text


@pytest.mark.parametrize(("suffix", "packed"), [(".bz2", bz2.compress), (".xz", lzma.compress)])
def test_other_compressions_of_the_standard_library_are_read(tmp_path, suffix, packed):
    (tmp_path / f"a.txt{suffix}").write_bytes(packed(b"some text\n" * 100))
    assert "".join(read_text(tmp_path / f"a.txt{suffix}")) == "some text\n" * 100


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.ndjson"])
def test_jsonl_gives_a_document_a_line(tmp_path, stories, name):
    write_jsonl(tmp_path / name, stories, "content")
    assert list(read_jsonl(tmp_path / name, "content", refuse)) == stories


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonlines", "a.JL.gz", "c4.jsonl-00001-of-00512"])
def test_json_lines_are_known_by_every_usual_end_of_a_name(name):
    assert guess_format(Path(name)) == "jsonl"


def test_parquet_gives_a_document_a_row(tmp_path, stories):
    write_parquet(tmp_path / "a.parquet", [*stories, None], "content")
    assert list(read_parquet(tmp_path / "a.parquet", "content")) == [*stories, ""]


def test_several_frames_and_members_are_one_file(tmp_path):
    for name in ("a.txt.gz", "a.txt.zst"):
        write_packed(tmp_path / name, b"one\n")
        first = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(first * 3)
        assert "".join(read_text(tmp_path / name)) == "one\n" * 3


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.txt.bz2", "a.txt.xz"])
@pytest.mark.parametrize("damage", ["cut", "not at all"])
def test_a_broken_compressed_file_is_no_short_one(tmp_path, name, damage):
    data = "".join(f"{number * number}\n" for number in range(30_000)).encode()
    packed = {".bz2": bz2.compress, ".xz": lzma.compress}
    path = tmp_path / name
    path.write_bytes(packed[path.suffix](data)) if path.suffix in packed else write_packed(path, data)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"<html>not found</html>")
    with pytest.raises(DamagedError, match=f"broken {path.suffix} file: ."):
        list(read_text(path))


@pytest.mark.parametrize("binary", [b"\x89PNG\r\n\x1a\n\xff", b"text\0with a zero", b"a character that is cut \xc3"])
def test_a_file_that_is_not_text_is_damaged(tmp_path, binary):
    (tmp_path / "a.txt").write_bytes(b"text\n" * 100_000 + binary)
    with pytest.raises(DamagedError, match="not UTF-8 text"):
        list(read_text(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": "cut', "not JSON"),
        ('{"body": "x", "id": 3}', r"no field 'text' \(data.text_field\); it has 'body', 'id'"),
        ("[1, 2]", "it is no object"),
        ("7", "it is no object"),
        ('{"text": 7}', "the field 'text' is int, not text"),
        ('{"text": "\xff"}', "not UTF-8 text"),
    ],
)
def test_a_line_without_a_document_is_told_with_its_number(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n' + line.encode("latin-1") + b'\n{"text": null}\n')
    with pytest.raises(DamagedError, match=f"line 3: .*{why}"):
        list(read_jsonl(path, "text", refuse))
    told = []
    assert list(read_jsonl(path, "text", lambda where, why: told.append(where))) == ["one", ""]
    assert told == ["line 3"]


def test_parquet_that_is_cut_or_has_no_such_text_is_damaged(tmp_path, stories):
    path = write_parquet(tmp_path / "a.parquet", stories)
    for field, why in (("body", "no column 'body'.*it has 'id', 'text'"), ("id", "column 'id'.* is int64, not text")):
        with pytest.raises(DamagedError, match=why):
            list(read_parquet(path, field))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match="not whole parquet"):
        list(read_parquet(path, "text"))
    path.write_bytes(whole[:100] + bytes(1_000) + whole[1_100:])  # the end is whole, a page is not
    with pytest.raises(DamagedError, match="not whole parquet"):
        list(read_parquet(path, "text"))


def test_long_documents_come_in_pieces_cut_before_a_space_or_after_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PIECE", 100)
    monkeypatch.setattr(unpacking, "CHUNK", 37)
    lines = "".join(f"line{number}ü\n" for number in range(200))
    words = "".join(f"word {number}  and\n\n   more\n" for number in range(200))
    for text, borders in ((words, " "), (lines, "l"), ("x" * 250, "x"), ("x" * 100, ""), ("", "")):
        (tmp_path / "a.txt").write_text(text)
        from_file = list(read_text(tmp_path / "a.txt"))
        from_memory = list(split_pieces(text))
        assert "".join(from_file) == text
        assert [piece.text for piece in from_memory] == (from_file or [""])
        assert [piece.last for piece in from_memory] == [False] * (len(from_memory) - 1) + [True]
        assert max(map(len, from_file), default=0) <= 100
        assert {piece[0] for piece in from_file[1:]} == set(borders)


MARKS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_byte_order_mark_says_how_to_read_and_is_no_text(tmp_path, encoding, ending, stories, monkeypatch):
    monkeypatch.setattr(unpacking, "CHUNK", 37)
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    text = "猫 and 😀 words\n" * 200
    write_packed(tmp_path / f"a.txt{ending}", (mark + text).encode(encoding))
    assert "".join(read_text(tmp_path / f"a.txt{ending}")) == text
    write_jsonl(tmp_path / "a.jsonl", stories)
    lines = (tmp_path / "a.jsonl").read_text()
    write_packed(tmp_path / f"b.jsonl{ending}", (mark + lines).encode(encoding))
    assert list(read_jsonl(tmp_path / f"b.jsonl{ending}", "text", refuse)) == stories


def test_marks_within_a_text_are_no_text_either(tmp_path, stories):
    (tmp_path / "a.txt").write_bytes("one\n".encode("utf-8-sig") * 3)  # as `cat` joins files
    assert "".join(read_text(tmp_path / "a.txt")) == "one\n" * 3
    lines = json.dumps({"text": "\ufeffone\ufeff two"}) + "\n"
    (tmp_path / "a.jsonl").write_bytes(lines.encode("utf-8-sig") * 3)
    assert list(read_jsonl(tmp_path / "a.jsonl", "text", refuse)) == ["one two"] * 3
    write_parquet(tmp_path / "a.parquet", ["\ufeffone"])
    assert list(read_parquet(tmp_path / "a.parquet", "text")) == ["one"]


def test_text_that_only_begins_as_another_encoding_is_damaged(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfea\x00b")
    with pytest.raises(DamagedError, match="not UTF-8 text, nor UTF-16, though it begins as such"):
        list(read_text(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    "record", [r'{"text": "cut \ud83d"}', r'{"text": "\ude00\ud83d"}', b'{"text": "\xed\xa0\xbd"}']
)
def test_half_an_emoji_is_no_text(tmp_path, record):
    record = record if isinstance(record, bytes) else record.encode()
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + record + b'\n{"text": "\\ud83d\\ude00"}\n')
    with pytest.raises(DamagedError, match=r"line 2: (half of a surrogate pair \(\\u|not UTF-8 text)"):
        list(read_jsonl(tmp_path / "a.jsonl", "text", refuse))
    assert list(read_jsonl(tmp_path / "a.jsonl", "text", lambda where, why: None)) == ["fine", "😀"]


@pytest.mark.parametrize("chunk", [3, 64, 2**17])
@pytest.mark.parametrize("ending", [".json", ".json.gz", ".json.zst"])
def test_json_is_read_as_lines_or_as_an_array(tmp_path, stories, ending, chunk, monkeypatch):
    stories = [*stories[:20], 'a "quoted" ]},{ 猫', ""]
    monkeypatch.setattr(unpacking, "CHUNK", chunk)
    write_jsonl(tmp_path / f"lines{ending}", stories)
    records = [{"id": {"n": [1, 2]}, "text": story} for story in stories]
    for name, space in (("compact", None), ("pretty", 2)):
        write_packed(tmp_path / f"{name}{ending}", b" \n" + json.dumps(records, indent=space).encode() + b"\n")
    for name in ("lines", "compact", "pretty"):
        assert list(read_json(tmp_path / f"{name}{ending}", "text", refuse)) == stories


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('[{"text": "one"}, {"text": 2}]', "element 2: the field 'text' is int, not text"),
        ('[{"text": "one"}, 12]', "element 2: no field 'text' .*it is no object"),
        ('[{"text": "one"}, {"text": ', "element 2: not JSON, or the array does not end"),
        ('[{"text": "one"}', "after element 1: not JSON, or the array does not end"),
        ('[{"text": "one"} {"text": "two"}]', "after element 1: not JSON"),
        ('[{"text": "one"}] and more', "something follows the array of 1 elements"),
        ('[{"text": "one"},]', "element 2: not JSON"),
        ("[" * 100_000, "element 1: nested too deeply"),
        ('{\n "text": "one"\n}', r"line 1: no JSON by itself \(a .json file should hold one object a line"),
        ('{"text": ' + "[" * 100_000, "line 1: nested too deeply"),
        ('{"text": ' + "1" * 5_000 + "}", "line 1: no JSON by itself"),
    ],
)
def test_json_of_another_shape_is_refused(tmp_path, content, why):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DamagedError, match=f"^{why}"):
        list(read_json(tmp_path / "a.json", "text", refuse))


def test_an_empty_array_has_no_documents(tmp_path):
    (tmp_path / "a.json").write_text(" [ ] ")
    assert list(read_json(tmp_path / "a.json", "text", refuse)) == []


def test_columns_of_parquet_are_read_where_they_are_text(tmp_path, stories):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    texts = [*stories[:5], None, ""]
    wanted = [*stories[:5], "", ""]
    packed = [None if text is None else text.encode() for text in texts]
    columns = {
        "string": pa.array(texts),
        "large": pa.array(texts, pa.large_string()),
        "view": pa.array(texts, pa.string_view()),
        "category": pa.array(texts).dictionary_encode(),
        "binary": pa.array(packed, pa.binary()),
        "large_binary": pa.array(packed, pa.large_binary()),
        "nested": pa.array([{"text": text, "n": 1} for text in texts]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    for name in columns:
        assert list(read_parquet(tmp_path / "a.parquet", "nested.text" if name == "nested" else name)) == wanted
    for name, why in (
        ("nested.body", "no column 'nested.body'"),
        ("nested.n", "is int64, not text"),
        ("nested", "is st"),
    ):
        with pytest.raises(DamagedError, match=why):
            list(read_parquet(tmp_path / "a.parquet", name))
    parquet.write_table(pa.table({"text": [b"fine", b"caf\xe9"]}), tmp_path / "b.parquet")
    with pytest.raises(DamagedError, match="row 2: not UTF-8 text"):
        list(read_parquet(tmp_path / "b.parquet", "text"))


def test_a_field_may_be_within_an_object(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"meta": {"text": "one"}, "a.b": "two"}\n')
    assert list(read_jsonl(tmp_path / "a.jsonl", "meta.text", refuse)) == ["one"]
    assert list(read_jsonl(tmp_path / "a.jsonl", "a.b", refuse)) == ["two"]


def test_unusual_line_ends_within_a_text_end_no_line(tmp_path):
    texts = ["行\u2028区切り\u0085改行\x0b\x0c", "𠮷野家で👩‍👩‍👧を"]
    lines = b"\r\n\r\n".join(json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts)
    (tmp_path / "a.jsonl").write_bytes(lines + b"\r\n   \r\n")
    assert list(read_jsonl(tmp_path / "a.jsonl", "text", refuse)) == texts
