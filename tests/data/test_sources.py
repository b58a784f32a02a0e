"""Which files are read, what is refused or left out by name, and what goes to validation."""

import os

import pytest
from corpora import config, write_jsonl, write_packed, write_parquet

from rlrs.data import reading
from rlrs.data.sources import find_files
from rlrs.data.split import labelled, split_corpus
from rlrs.data.stock import Notes, is_valid, take_stock
from rlrs.settings import ConfigError, DataConfig


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def glob_of(folder, **settings):
    return DataConfig(source=f"files:{folder}/**/*.txt", **settings)


def stock_of(settings, notes=None):
    return take_stock(find_files(settings), None, settings, notes or Notes())


def texts_of(settings):
    """Whole texts for training and for validation."""
    stock = stock_of(settings)
    split = split_corpus(stock, settings)
    sides = {False: [""], True: [""]}
    for part, entry in zip(stock.parts, stock.entries, strict=True):
        for piece in labelled(part, entry, split, settings):
            sides[piece.valid][-1] += piece.text
            if piece.last:
                sides[piece.valid].append("")
    assert sides[False].pop() == sides[True].pop() == "", "a document that does not end"
    return sides[False], sides[True]


def files(tmp_path, *sizes):
    write(tmp_path, **{str(number): "x" * (size - 1) + "\n" for number, size in enumerate(sizes)})
    return glob_of(tmp_path)


def names_of(settings, fraction):
    stock = stock_of(settings)
    split = split_corpus(stock, settings.model_copy(update={"valid_fraction": fraction}))
    return {part.name for part in stock.parts}, split.valid


def test_the_standard_library_has_no_tests_and_no_installed_packages():
    settings = DataConfig(valid_fraction=0.1)
    stock = stock_of(settings)
    names = {part.name for part in stock.parts}
    assert {"argparse.py", "json/decoder.py", "unittest/case.py"} <= names
    assert not [name for name in names if {"test", "tests", "site-packages"} & set(name.split("/"))]
    sizes = {entry.name: entry.bytes for entry in stock.entries}
    assert 0 in sizes.values()  # an empty __init__.py is no damage there
    valid = split_corpus(stock, settings).valid
    assert sum(sizes[name] for name in valid) == pytest.approx(0.1 * stock.bytes, rel=0.02)


def test_a_folder_that_moved_is_the_same_corpus(tmp_path):
    hashes = []
    for place in ("here", "far/away"):
        write(tmp_path / place / "sub", a="one\n" * 50, b="two\n" * 50)
        write(tmp_path / place, c="three\n" * 50)
        hashes.append(stock_of(glob_of(tmp_path / place, valid_fraction=0.4)).hash)
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("change", ["text", "name", "more"])
def test_the_hash_sees_every_change(tmp_path, change):
    write(tmp_path, a="one\n" * 50, b="two\n" * 50)
    notes = Notes()
    before = stock_of(glob_of(tmp_path), notes).hash
    assert stock_of(glob_of(tmp_path), notes).hash == before
    if change == "text":
        write(tmp_path, b="two\n" * 49 + "twp\n")
    elif change == "name":
        (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    else:
        write(tmp_path, c="three\n")
    assert stock_of(glob_of(tmp_path), notes).hash != before


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    write(tmp_path, a="one\n" * 50, b="two\n" * 50)
    for name in ("a.txt", "b.txt"):
        os.utime(tmp_path / name, (1e9, 1e9))
    notes = Notes()
    first = stock_of(glob_of(tmp_path), notes)
    read = []
    monkeypatch.setattr("rlrs.data.stock._read", lambda part, *rest, **more: read.append(part.name))
    assert stock_of(glob_of(tmp_path), notes).hash == first.hash
    assert read == []


def test_a_file_that_two_globs_match_is_read_once(tmp_path):
    write(tmp_path, a="one\n" * 50, b="two\n" * 50)
    stock = stock_of(DataConfig(source=(f"files:{tmp_path}/a*", f"files:{tmp_path}/*.txt")))
    assert len(stock.parts) == 2
    assert stock.bytes == 400


def test_the_split_takes_whole_files_that_fit_and_one_more_moves_at_most_one(tmp_path):
    settings = files(tmp_path, *[100] * 40)
    names, valid = names_of(settings, 0.25)
    assert len(valid) == 10
    assert valid < names
    write(tmp_path, new="x" * 99 + "\n")
    _, after = names_of(settings, 0.25)
    assert len(valid - after) <= 1


def test_a_file_larger_than_the_share_stays_in_training(tmp_path):
    train, valid = texts_of(files(tmp_path, 10_000, *[10] * 200))
    assert 10_000 in map(len, train)
    assert 500 <= sum(map(len, valid)) <= 600


@pytest.mark.parametrize("name", ["only.txt", "only.txt.gz"])
def test_one_file_gives_its_last_lines_to_validation(tmp_path, name, monkeypatch):
    lines = [f"line {number:03}\n" for number in range(100)]  # 9 bytes each
    write_packed(tmp_path / name, "".join(lines).encode())
    settings = DataConfig(source=f"files:{tmp_path}/{name}", valid_fraction=0.1)
    for piece in (2**20, 100, 90, 81, 7):
        monkeypatch.setattr(reading, "PIECE", piece)
        assert texts_of(settings) == (["".join(lines[:90])], ["".join(lines[90:])])


WORDS = " anarchism originated as a term of abuse" * 500
SHAPES = {
    "one line": {"a.txt": WORDS},
    "one line without spaces": {"a.txt": "吾輩は猫である。" * 2_000},
    "several files of one line": {f"{n}.txt": "吾輩は猫である。" * (500 + n) for n in range(5)},
    "line ends of CR alone": {"a.txt": "a line of an old Macintosh\r" * 500},
    "CRLF": {"a.txt": "a line of Windows\r\n" * 500},
    "only the first line ends": {"a.txt": "one heading\n" + "no more lines " * 2_000},
    "two long lines": {"a.txt": "the first half " * 900 + "\n" + "the second half " * 900},
    "one large file": {"a.txt": "a line of words\n" * 5_000, "b.txt": "small\n"},
    "a file that fills half of the share": {"a.txt": "a line of words\n" * 1_000, "b.txt": "a line of words\n" * 30},
    "compressed": {"a.txt.gz": WORDS},
    "one document": {"a.jsonl": [WORDS]},
    "one document without spaces": {"a.jsonl": ["猫" * 9_000]},
    "few documents": {"a.jsonl": [f"{n} " + "words " * 300 for n in range(7)]},
    "one large document": {"a.jsonl": [WORDS, *[f"{n} and a few words" for n in range(30)]]},
    "a document twice": {"a.jsonl": [WORDS, WORDS]},
    "one document of parquet": {"a.parquet": [WORDS]},
    "both kinds": {"a.jsonl": [WORDS], "b.txt": WORDS},
}


@pytest.mark.parametrize("fraction", [0.05, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_validation_is_within_a_fifth_of_what_was_asked_whatever_the_files(tmp_path, shape, fraction, monkeypatch):
    for name, content in SHAPES[shape].items():
        if name.endswith("parquet"):
            write_parquet(tmp_path / name, content)
        elif name.endswith("jsonl"):
            write_jsonl(tmp_path / name, content)
        else:
            write_packed(tmp_path / name, content.encode())
    whole = sum(len("".join(content).encode()) for content in SHAPES[shape].values())
    settings = DataConfig(source=f"files:{tmp_path}/*", valid_fraction=fraction)
    for piece in (2**20, 1_000):
        monkeypatch.setattr(reading, "PIECE", piece)
        train, valid = (sum(len(text.encode()) for text in texts) for texts in texts_of(settings))
        assert train + valid == whole
        assert 0.8 * fraction <= valid / whole <= 1.2 * fraction


def test_a_file_is_cut_at_a_line_or_else_before_a_word_or_else_between_characters(tmp_path):
    for name, text, start in (
        ("lines", "a line of text\n" * 400, "a line"),
        ("turns", "a line of text\r" * 400, "a line"),
        ("words", " some words" * 500, " "),
        ("characters", "猫" * 3_001, "猫"),
    ):
        write(tmp_path / name, a=text)
        train, valid = texts_of(glob_of(tmp_path / name, valid_fraction=0.2))
        assert "".join(train + valid) == text
        assert valid[0].startswith(start)


def test_a_document_that_is_cut_is_cut_alike_in_every_copy(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [WORDS, WORDS])
    train, valid = texts_of(DataConfig(source=f"files:{tmp_path}/*", valid_fraction=0.1))
    assert len(train) == len(valid) == 2
    assert len(set(train)) == len(set(valid)) == 1
    assert train[0] + valid[0] == WORDS


def test_documents_are_split_by_their_text_wherever_they_stand(tmp_path, stories):
    write_jsonl(tmp_path / "a.jsonl", stories)
    write_parquet(tmp_path / "b.parquet", stories[::-1])
    write_jsonl(tmp_path / "c.jsonl.gz", stories[:50])
    sides = {}
    for name in ("a.jsonl", "b.parquet"):
        train, valid = texts_of(DataConfig(source=f"files:{tmp_path}/{name}", valid_fraction=0.2))
        sides[name] = set(train), set(valid)
        assert sorted(train + valid) == sorted(stories)
        assert 20 <= len(valid) <= 60  # 40 expected, standard deviation 5.7
    assert sides["a.jsonl"] == sides["b.parquet"]
    train, valid = texts_of(DataConfig(source=f"files:{tmp_path}/*", valid_fraction=0.2))
    assert not set(train) & set(valid)
    assert all(is_valid(text.encode(), 0.2) for text in valid)


def test_max_bytes_keeps_whole_files_within_it(tmp_path):
    write(tmp_path, **{f"f{number}": "x" * 99 + "\n" for number in range(10)})
    stock = stock_of(glob_of(tmp_path, max_bytes=350, valid_fraction=0.4))
    assert stock.bytes == 300
    assert len(stock.parts) == 3


def test_max_bytes_counts_what_compressed_files_hold(tmp_path):
    for number in range(10):
        write_packed(tmp_path / f"{number}.txt.gz", b"x" * 99 + b"\n")
    stock = stock_of(DataConfig(source=f"files:{tmp_path}/*.gz", max_bytes=350))
    assert stock.bytes == 300


def test_max_bytes_takes_the_first_documents_of_every_file(tmp_path, stories):
    write_jsonl(tmp_path / "a.jsonl", stories)
    write_parquet(tmp_path / "b.parquet", stories)
    settings = DataConfig(source=f"files:{tmp_path}/*", max_bytes=4_000)
    stock = stock_of(settings)
    assert 3_500 < stock.bytes <= 4_000
    first, second = (entry.bytes for entry in stock.entries)
    assert abs(first - second) <= 200
    train, valid = texts_of(settings)
    counts = [train.count(story) + valid.count(story) for story in stories]
    assert set(counts) == {2, 1, 0} or set(counts) == {2, 0}
    assert counts == sorted(counts, reverse=True)
    assert sum(map(len, train + valid)) == first + second


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("c4", "source='c4' should be 'stdlib', 'files:GLOB', 'hf:NAME' or a list"),
        ("files:", "source='files:' should be"),
        ((), "source is an empty list"),
        (("stdlib",), "source='stdlib' should be"),
        (("hf:a/b", "files:*.txt"), "source='hf:a/b' should be"),
    ],
)
def test_a_source_that_is_none_is_refused(source, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is tested
        DataConfig(source=source)
    assert message in str(error.value)


def test_a_glob_that_matches_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"data.source='files:/nowhere/\*.txt' matches no file, looked for from /"):
        find_files(DataConfig(source="files:/nowhere/*.txt"))


BAD = {
    "binary.txt": (b"text\0with a zero", "not UTF-8 text"),
    "cut.txt.gz": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "broken .gz file: "),
    "empty.txt": (b"", "is empty"),
    "empty.jsonl": (b"\n\n", "is empty"),
    "other.jsonl": (b'{"body": "x"}\n' * 3, "no line holds a document; line 1: no field 'text'"),
    "page.parquet": (b"<html>not found</html>", "not whole parquet: "),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_damaged_or_empty_is_refused_by_name_or_left_out_by_name(tmp_path, name, caplog, stories):
    write(tmp_path, fine="one\n" * 50)
    content, why = BAD[name]
    (tmp_path / name).write_bytes(content)
    source = f"files:{tmp_path}/*"
    with pytest.raises(ConfigError) as error:
        stock_of(DataConfig(source=source))
    assert str(error.value).startswith(f"{tmp_path / name}: {why}")
    assert "leave such out with data.damaged: skip" in str(error.value)
    assert "\n" not in str(error.value)
    stock = stock_of(DataConfig(source=source, damaged="skip"))
    assert [part.name for part in stock.parts] == ["fine.txt"]
    assert len(stock.skipped) == 1
    assert stock.skipped[0].startswith(f"{name}: {why}")
    assert f"left out: {tmp_path / name}: {why}" in caplog.text


def test_lines_that_hold_no_document_are_refused_or_left_out(tmp_path, stories, caplog):
    path = write_jsonl(tmp_path / "a.jsonl", stories)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], '{"text": "cut\n', *lines[3:], "[]\n"]))
    with pytest.raises(ConfigError, match=r"a.jsonl, line 4: not JSON \(and 1 more line\); mend it"):
        stock_of(config(f"files:{path}"))
    settings = config(f"files:{path}", damaged="skip")
    train, valid = texts_of(settings)
    assert sorted(train + valid) == sorted(stories)
    assert stock_of(settings).skipped == ("a.jsonl: 2 lines, the first is line 4: not JSON",)


def test_several_bad_files_are_counted(tmp_path):
    write(tmp_path, a="", b="\0", c="", d="text\n")
    with pytest.raises(ConfigError, match=r"a\.txt: is empty \(and 2 more files\); mend it"):
        stock_of(glob_of(tmp_path))


def test_an_empty_corpus_is_refused(tmp_path):
    write(tmp_path, a="", b="")
    with pytest.raises(ConfigError, match="the corpus is empty: 2 files without usable text"):
        stock_of(glob_of(tmp_path, damaged="skip"))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.parquet"])
def test_max_bytes_cuts_a_file_or_document_where_none_fits_whole(tmp_path, name):
    text = "".join(f"line {number} of the only text\n" for number in range(1_000))
    if name.endswith("parquet"):
        write_parquet(tmp_path / name, [text, "more"])
    elif name.endswith("jsonl"):
        write_jsonl(tmp_path / name, [text, "more"])
    else:
        write_packed(tmp_path / name, text.encode())
    settings = DataConfig(source=f"files:{tmp_path}/*", max_bytes=5_000, valid_fraction=0.2)
    train, valid = texts_of(settings)
    assert "".join(train + valid) == text[: len("".join(train + valid))]
    assert 4_500 <= stock_of(settings).bytes == sum(map(len, train + valid)) <= 5_000
    assert valid[0].startswith("line ")


def test_max_bytes_fills_up_with_a_part_of_a_file_what_whole_files_leave(tmp_path):
    write(tmp_path, small="x" * 99 + "\n", large="line of text\n" * 1_000)
    stock = stock_of(glob_of(tmp_path, max_bytes=3_000))
    assert {part.name for part in stock.parts} == {"small.txt", "large.txt"}
    assert 2_700 <= stock.bytes <= 3_000


def test_max_bytes_below_one_character_is_refused(tmp_path):
    write(tmp_path, a="猫" * 100)
    with pytest.raises(ConfigError, match=r"data\.max_bytes=2 is less than any character"):
        stock_of(glob_of(tmp_path, max_bytes=2))


@pytest.mark.parametrize("folder", ["[D_DATA] 日本 語", "a [b", "[!x]", "(c) [1-3]"])
def test_brackets_in_a_path_that_is_there_are_no_class_of_characters(tmp_path, folder):
    write(tmp_path / folder / "sub", one="one\n")
    write(tmp_path / folder, **{"t[0]": "two\n"})
    for pattern, names in (
        ("**/*.txt", ["sub/one.txt", "t[0].txt"]),
        ("t[0].txt", ["t[0].txt"]),
        ("sub/*.txt", ["one.txt"]),
        ("t[[]*.txt", ["t[0].txt"]),
    ):
        assert [part.name for part in find_files(DataConfig(source=f"files:{tmp_path}/{folder}/{pattern}"))] == names


@pytest.mark.parametrize("folder", ["what?x", "a*x", "[w]hat-x"])
def test_a_folder_that_is_there_is_no_pattern_for_its_neighbours(tmp_path, folder):
    write(tmp_path / folder, one="one\n")
    write(tmp_path / "what-x", other="other\n")
    write(tmp_path / "a-x", other="other\n")
    parts = find_files(DataConfig(source=f"files:{tmp_path}/{folder}/*.txt"))
    assert [part.name for part in parts] == ["one.txt"]


def test_a_class_of_characters_is_one_where_no_such_file_is(tmp_path):
    write(tmp_path, t1="one\n", t2="two\n", t3="three\n")
    parts = find_files(DataConfig(source=f"files:{tmp_path}/t[12].txt"))
    assert [part.name for part in parts] == ["t1.txt", "t2.txt"]
    with pytest.raises(ConfigError, match=r"matches no file, .*\[\[\] a bracket$"):
        find_files(DataConfig(source=f"files:{tmp_path}/t[89].txt"))


def test_a_folder_for_a_glob_is_told_what_to_write(tmp_path):
    with pytest.raises(ConfigError, match=r"is a folder; name its files, such as 'files:.*/\*\*/\*\.txt'"):
        find_files(DataConfig(source=f"files:{tmp_path}"))


def test_a_file_whose_name_is_not_utf_8_is_refused_in_printable_words_or_left_out(tmp_path):
    write(tmp_path, fine="one\n" * 50)
    with open(os.fsencode(tmp_path) + b"/caf\xe9\n.txt", "w") as file:
        file.write("two\n")
    with pytest.raises(ConfigError) as error:
        stock_of(glob_of(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}/caf\\xe9\\n.txt: its name is not UTF-8; mend it")
    stock = stock_of(glob_of(tmp_path, damaged="skip"))
    assert [part.name for part in stock.parts] == ["fine.txt"]
    assert stock.skipped == ("caf\\xe9\\n.txt: its name is not UTF-8",)


def test_a_corpus_in_a_folder_that_is_not_utf_8_is_read(tmp_path, monkeypatch):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    monkeypatch.chdir(folder)
    with open("a.txt", "w") as file:
        file.write("one\n" * 50)
    assert stock_of(DataConfig(source="files:*.txt")).bytes == 200
    with pytest.raises(ConfigError, match=r"looked for from .*/caf\\xe9$"):
        find_files(DataConfig(source="files:*.jsonl"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a.tar.gz", "an archive: unpack it"),
        ("a.zip", "an archive: unpack it"),
        ("a.txt.lz4", "compressed in a way that is not read; .gz, .zst, .bz2 and .xz are"),
        ("a.geojson", "a kind of JSON that is not read: write its text as .jsonl; or say data.format: text"),
        ("a.csv", "a table: write its text as .jsonl or .parquet; or say data.format: text"),
        ("a.TSV.gz", "a table: write its text as .jsonl or .parquet; or say data.format: text"),
        ("a.arrow", "a table: write it as .parquet, or name its folder as data.source: hf:FOLDER"),
        ("a.html", "markup around text: take the text out of it; or say data.format: text"),
        ("a.pdf", "no plain text: take the text out of it"),
    ],
)
def test_a_name_that_says_more_than_text_is_refused_unless_the_format_is_given(tmp_path, name, why):
    write(tmp_path, fine="one\n" * 50)
    write_packed(tmp_path / name, b"a,b\n1,2\n")
    with pytest.raises(ConfigError) as error:
        stock_of(DataConfig(source=f"files:{tmp_path}/*"))
    assert f"{name}: its name says that it is {why}" in str(error.value)
    assert stock_of(DataConfig(source=f"files:{tmp_path}/*", format="text")).bytes == 208
    assert stock_of(DataConfig(source=f"files:{tmp_path}/*", damaged="skip")).bytes == 200


def test_the_format_can_be_said_where_names_do_not(tmp_path, stories):
    write_jsonl(tmp_path / "shard-0", stories)
    train, valid = texts_of(DataConfig(source=f"files:{tmp_path}/*", format="jsonl", valid_fraction=0.2))
    assert sorted(train + valid) == sorted(stories)
    with pytest.raises(ValueError, match="format='text' is for 'files:' only"):
        DataConfig(source="hf:a/b", format="text")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    write(tmp_path, a="one\n" * 50)
    settings = glob_of(tmp_path)
    (part,) = find_files(settings)

    class Growing(type(part)):
        def texts(self, *arguments):
            for text in super().texts(*arguments):
                with self.path.open("a") as file:
                    file.write("more\n")
                yield text

    with pytest.raises(ConfigError, match=r"a\.txt: changed while it was read"):
        take_stock([Growing(part.name, part.path, "text")], None, settings, Notes())
