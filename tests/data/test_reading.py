"""Every format gives the same documents, in pieces, and a broken file is not taken for a short one."""

import bz2
import lzma

import pytest
from corpora import write_jsonl, write_packed, write_parquet

from rlrs.data import reading
from rlrs.data.reading import DamagedError, pieces_of, read_jsonl, read_parquet, read_text


def refuse(number, why):
    raise DamagedError(f"line {number}: {why}")


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
    assert list(read_jsonl(path, "text", lambda number, why: told.append(number))) == ["one", ""]
    assert told == [3]


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
    monkeypatch.setattr(reading, "CHUNK", 37)
    lines = "".join(f"line{number}ü\n" for number in range(200))
    words = "".join(f"word {number}  and\n\n   more\n" for number in range(200))
    for text, borders in ((words, " "), (lines, "l"), ("x" * 250, "x"), ("x" * 100, ""), ("", "")):
        (tmp_path / "a.txt").write_text(text)
        from_file = list(read_text(tmp_path / "a.txt"))
        from_memory = list(pieces_of(text))
        assert "".join(from_file) == text
        assert [piece.text for piece in from_memory] == (from_file or [""])
        assert [piece.last for piece in from_memory] == [False] * (len(from_memory) - 1) + [True]
        assert max(map(len, from_file), default=0) <= 100
        assert {piece[0] for piece in from_file[1:]} == set(borders)
