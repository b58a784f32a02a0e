"""What a Ray worker believes of the data on its machine: the driver's own, or copies that nobody else could make."""

import os
import uuid

import numpy as np
import pytest

from rlrs.data import TokenData, prepare
from rlrs.data.facts import read_facts, write_facts
from rlrs.search import EngineError
from rlrs.search.engines import node_data
from rlrs.search.engines.node_data import MARK, Source, open_data, pack, private_folder, run_folder
from rlrs.settings import DataConfig


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A driver's source, with its files as if fetched, and an empty temporary folder."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(node_data, "_opened", {})
    monkeypatch.setattr("ray.get", lambda value: value)
    (tmp_path / "a.txt").write_text("some words of text\n" * 200)
    settings = DataConfig(source=f"files:{tmp_path}/a.txt", tokenizer="bytes", sequence_length=16)
    data = prepare(settings.model_copy(update={"folder": str(tmp_path / "shared")}), tmp_path / "data")
    files = pack(tmp_path / "data")
    source = Source(str(tmp_path / "data"), data.summary, uuid.uuid4().hex, files)
    return source, tmp_path / "data", tmp_path / "tmp" / f"rlrs-{os.getuid()}"


def away(source):
    """The same driver, seen from a machine that does not have its folder."""
    return Source("/nowhere", source.summary, source.mark, source.files)


def flip(path):
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def test_copies_are_in_a_folder_that_only_this_user_can_enter(prepared):
    source, _, private = prepared
    folder, data = open_data(away(source))
    assert folder == private / f"data-{source.hash}"
    assert os.stat(private).st_mode & 0o777 == 0o700
    assert data.summary == source.summary
    assert run_folder(away(source), "/somewhere/runs/abc") == private / "runs" / source.mark / "abc"


def test_tokens_that_studies_share_come_whole(prepared):
    source, folder, _ = prepared
    assert read_facts(folder).home is not None
    found, data = open_data(away(source))
    assert read_facts(found).home is None
    assert np.array_equal(data.batch(0, 0, 4)[0], TokenData.load(folder).batch(0, 0, 4)[0])


@pytest.mark.parametrize("what", ["link", "open", "file"])
def test_a_private_folder_that_is_not_private_is_refused(prepared, what, tmp_path):
    source, _, private = prepared
    if what == "link":
        (tmp_path / "elsewhere").mkdir()
        private.symlink_to(tmp_path / "elsewhere")
    elif what == "open":
        private.mkdir()
        private.chmod(0o777)
    else:
        private.write_text("")
    with pytest.raises(EngineError, match=r"rlrs-\d+: should be a folder of this user that no other can enter"):
        open_data(away(source))
    assert not (tmp_path / "elsewhere").exists() or not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_of_another_user_is_refused(prepared, monkeypatch):
    private_folder()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (prepared[2]).rename(prepared[2].with_name("rlrs-12345"))
    with pytest.raises(EngineError, match="rlrs-12345: should be a folder of this user"):
        private_folder()


def test_planted_tokens_are_not_believed(prepared, monkeypatch):
    source, folder, _ = prepared
    place, _ = open_data(away(source))
    flip(place / "train-00000.bin")
    monkeypatch.setattr(node_data, "_opened", {})
    _, data = open_data(away(source))  # fetched again
    assert np.array_equal(data.batch(0, 0, 4)[0], TokenData.load(folder).batch(0, 0, 4)[0])
    facts = read_facts(place)
    flip(place / "train-00000.bin")
    claims = facts.model_copy(update={"summary": facts.summary.model_copy(update={"vocab_size": 300})})
    write_facts(place, claims)
    monkeypatch.setattr(node_data, "_opened", {})
    assert open_data(Source("/nowhere", source.summary, source.mark)) is None


def test_a_folder_at_the_drivers_path_is_believed_with_the_drivers_mark_or_if_it_hashes(prepared, monkeypatch):
    source, folder, private = prepared
    assert open_data(source)[0] == folder  # hashed: the mark is not there
    monkeypatch.setattr(node_data, "_opened", {})
    flip(read_facts(folder).place(folder) / "train-00000.bin")
    assert open_data(source)[0] == private / f"data-{source.hash}"
    monkeypatch.setattr(node_data, "_opened", {})
    (folder / MARK).write_text(source.mark)
    assert open_data(source)[0] == folder
    assert run_folder(source, "/somewhere/runs/abc").as_posix() == "/somewhere/runs/abc"
