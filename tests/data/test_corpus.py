"""Which files are read, what is refused, and how they are split."""

import pytest

from rlrs.config import ConfigError, DataConfig
from rlrs.data.corpus import Document, read_corpus, split


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def glob_of(folder, **settings):
    return DataConfig(source=f"files:{folder}/**/*.txt", **settings)


def documents(*sizes):
    return [Document(name=f"{number}.txt", text="x" * (size - 1) + "\n") for number, size in enumerate(sizes)]


def names(part):
    return [document.name for document in part]


def test_the_standard_library_has_no_tests_and_no_installed_packages():
    corpus = read_corpus(DataConfig(valid_fraction=0.1))
    everything = set(names(corpus.train)) | set(names(corpus.valid))
    assert {"argparse.py", "json/decoder.py"} <= everything
    assert "unittest/case.py" in everything
    assert not [name for name in everything if {"test", "tests", "site-packages"} & set(name.split("/"))]
    assert corpus.files == len(everything)
    assert len(names(corpus.train)) + len(names(corpus.valid)) == len(everything)
    assert sum(d.size for d in corpus.valid) == pytest.approx(0.1 * corpus.bytes, rel=0.02)


def test_a_folder_that_moved_is_the_same_corpus(tmp_path):
    hashes = []
    for place in ("here", "far/away"):
        write(tmp_path / place / "sub", a="one\n" * 50, b="two\n" * 50)
        write(tmp_path / place, c="three\n" * 50)
        hashes.append(read_corpus(glob_of(tmp_path / place, valid_fraction=0.4)).hash)
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("change", ["text", "name", "more"])
def test_the_hash_sees_every_change(tmp_path, change):
    write(tmp_path, a="one\n" * 50, b="two\n" * 50)
    before = read_corpus(glob_of(tmp_path)).hash
    if change == "text":
        write(tmp_path, b="two\n" * 49 + "twp\n")
    elif change == "name":
        (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    else:
        write(tmp_path, c="")
    assert read_corpus(glob_of(tmp_path)).hash != before


def test_a_file_that_two_globs_match_is_read_once(tmp_path):
    write(tmp_path, a="one\n" * 50, b="two\n" * 50)
    corpus = read_corpus(DataConfig(source=(f"files:{tmp_path}/a*", f"files:{tmp_path}/*.txt")))
    assert corpus.files == 2
    assert corpus.bytes == 400


def test_the_split_takes_whole_files_that_fit_and_one_more_moves_at_most_one():
    before = documents(*[100] * 40)
    train, valid = split(before, 0.25)
    assert len(valid) == 10
    assert sorted(names(train) + names(valid)) == sorted(names(before))
    _, after = split([*before, Document(name="new.txt", text="x" * 100)], 0.25)
    assert len(set(names(valid)) - set(names(after))) <= 1


def test_a_file_larger_than_the_share_stays_in_training():
    train, valid = split(documents(10_000, *[10] * 200), 0.05)
    assert "0.txt" in names(train)
    assert 500 <= sum(d.size for d in valid) <= 600


def test_one_file_gives_its_last_lines_to_validation():
    lines = [f"line {number:03}\n" for number in range(100)]  # 9 bytes each
    train, valid = split([Document(name="only.txt", text="".join(lines))], 0.1)
    assert train[0].text == "".join(lines[:90])
    assert valid[0].text == "".join(lines[90:])


def test_max_bytes_keeps_whole_files_within_it(tmp_path):
    write(tmp_path, **{f"f{number}": "x" * 99 + "\n" for number in range(10)})
    corpus = read_corpus(glob_of(tmp_path, max_bytes=350, valid_fraction=0.4))
    assert corpus.bytes == 300
    assert corpus.files == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("c4", "data.source='c4' should be 'stdlib' or 'files:GLOB'"),
        ((), "data.source is an empty list"),
        (("stdlib",), "data.source='stdlib' should be"),
        ("files:/nowhere/*.txt", "data.source='files:/nowhere/*.txt' matches no file"),
    ],
)
def test_a_source_that_names_no_text_is_refused(source, message):
    with pytest.raises(ConfigError) as error:
        read_corpus(DataConfig(source=source))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("binary", [b"\x89PNG\r\n\x1a\n\xff", b"text\0with a zero"])
def test_a_file_that_is_not_text_is_named(tmp_path, binary):
    write(tmp_path, a="one\n", b=binary)
    with pytest.raises(ConfigError, match=r"b\.txt: not UTF-8 text; data.source should"):
        read_corpus(glob_of(tmp_path))


def test_an_empty_corpus_is_refused(tmp_path):
    write(tmp_path, a="", b="")
    with pytest.raises(ConfigError, match="the corpus is empty: 2 files"):
        read_corpus(glob_of(tmp_path))


def test_max_bytes_below_every_file_is_refused(tmp_path):
    write(tmp_path, a="long enough\n")
    with pytest.raises(ConfigError, match=r"data\.max_bytes=5 is less than any file"):
        read_corpus(glob_of(tmp_path, max_bytes=5))
