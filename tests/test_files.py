"""Files that are whole or not there."""

import errno
import os
import stat

import pytest

from rlrs.files import naming, open_atomic, write_atomic


def test_replaces_content_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_error_while_writing_keeps_the_old_content(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, "old")

    def half_way():
        with open_atomic(path) as file:
            file.write(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_the_old_content_stays_until_the_end(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, "old")
    with open_atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_others_may_read_the_file_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize(("code", "named"), [(errno.ENOSPC, True), (errno.ECONNRESET, False)])
def test_an_error_of_a_write_that_names_no_file_gets_its_name_and_others_do_not(tmp_path, code, named):
    with pytest.raises(OSError, match="said the system") as caught, naming(tmp_path):
        raise OSError(code, "said the system")
    assert caught.value.filename == (str(tmp_path) if named else None)
