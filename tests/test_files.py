"""Files that are whole or not there."""

import errno
import os
import stat

import pytest

from rlrs.files import locked, naming, open_atomic, write_atomic


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


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_named_by_the_users_own_path(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError) as caught:
        write_atomic(tmp_path / "a.json", "x")
    assert caught.value.filename == str(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["none/a.json", "folder"])
def test_an_error_names_the_users_own_path_not_a_hidden_one(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"No such file|Is a directory") as caught:
        write_atomic(tmp_path / name, "x")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / name), None)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_name_as_long_as_the_system_lets_it_be(tmp_path):
    write_atomic(tmp_path / ("é" * 127), "x")
    assert [p.name for p in tmp_path.iterdir()] == ["é" * 127]


def failing(code, when):
    def function(descriptor, *_):
        if when(descriptor):
            raise OSError(code, os.strerror(code))

    return function


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_a_folder_is_passed_over(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", failing(code, lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode)))
    write_atomic(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


def test_a_folder_whose_disk_fails_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO, lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode)))
    with pytest.raises(OSError, match="Input/output error"):
        write_atomic(tmp_path / "a", "x")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_with_the_way_out(tmp_path, monkeypatch, code):
    monkeypatch.setattr("fcntl.flock", failing(code, lambda fd: True))
    with pytest.raises(OSError, match=r"has no file locks .*; name a folder on another one") as caught:
        locked(tmp_path / "lock").__enter__()
    assert caught.value.filename == str(tmp_path / "lock")


def test_a_lock_is_one_processs_at_a_time_and_ends_with_its_block(tmp_path):
    waited = []
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError):
        locked(tmp_path / "lock", wait=False).__enter__()
    with locked(tmp_path / "lock", wait=False, waiting=lambda: waited.append(1)):
        pass
    assert waited == []


def test_who_waits_for_a_lock_says_so_once_and_gets_it(tmp_path):
    held = locked(tmp_path / "lock")
    held.__enter__()
    said = []

    def waiting():
        said.append(1)
        held.__exit__(None, None, None)

    with locked(tmp_path / "lock", waiting=waiting):
        assert said == [1]
