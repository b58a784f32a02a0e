"""A run that is killed goes on as if it had not been; files that cannot be used are named."""

import json
import os
import pickle
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file
from small import CLOCK, make_spec

from rlrs.training import CheckpointError, CheckpointWarning, checkpoint, train


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_at(step):
    def progress(done, loss):
        if done >= step:
            raise Killed

    return progress


def comparable(folder):
    """Lines of metrics.jsonl without the wall clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def newest(folder):
    return max((folder / "checkpoints").glob("step-*"))


def numbers(result):
    return {key: value for key, value in result.to_plain().items() if key != "seconds"}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Folder of a run that nothing disturbed, and its result; nobody changes it."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(make_spec(), data, folder)


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of that folder, for a test of its own."""
    return shutil.copytree(whole[0], tmp_path / "finished")


@pytest.fixture(scope="module")
def killed_at_15(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        train(make_spec(), data, folder, progress=kill_at(15))
    return folder


@pytest.fixture
def stopped(killed_at_15, tmp_path):
    """Folder of a run that was killed after its checkpoints at steps 6 and 12."""
    return shutil.copytree(killed_at_15, tmp_path / "stopped")


@pytest.mark.parametrize("kills", [[1], [5], [10], [15], [20], [10, 10, 15, 20]])
def test_a_killed_run_ends_with_the_same_bits_as_an_undisturbed_one(spec, data, whole, tmp_path, kills):
    folder, undisturbed = whole
    for step in kills:
        with pytest.raises(Killed):
            train(spec(), data, tmp_path / "killed", progress=kill_at(step))
    result = train(spec(), data, tmp_path / "killed")
    assert numbers(result) == numbers(undisturbed)
    assert comparable(tmp_path / "killed") == comparable(folder)
    assert newest(folder).name == newest(tmp_path / "killed").name == "step-0000000020"
    left, killed = (load_file(newest(where) / "rank-0.safetensors") for where in (folder, tmp_path / "killed"))
    assert left.keys() == killed.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, killed[name]), name


def test_lines_after_the_checkpoint_are_cut_off_even_a_broken_one(spec, data, whole, tmp_path):
    with pytest.raises(Killed):
        train(spec(), data, tmp_path / "run", progress=kill_at(10))
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 11, "lo')
    train(spec(), data, tmp_path / "run")
    assert comparable(tmp_path / "run") == comparable(whole[0])


def test_a_resumed_run_does_not_train_again_what_the_checkpoint_holds(spec, data, stopped):
    steps = []
    train(spec(), data, stopped, progress=lambda step, loss: steps.append(step))
    assert steps == [15, 20]


def test_a_run_wanted_for_its_numbers_alone_leaves_no_weights(spec, data, whole, tmp_path):
    result = train(spec(), data, tmp_path / "lean", keep_weights=False)
    assert not (tmp_path / "lean" / "checkpoints").exists()
    assert numbers(result) == numbers(whole[1])
    assert numbers(train(spec(), data, tmp_path / "lean", keep_weights=False)) == numbers(result)


def test_a_finished_run_is_returned_at_once(spec, data, whole, finished):
    before = (finished / "metrics.jsonl").read_bytes()
    assert train(spec(), data, finished, progress=kill_at(0)) == whole[1]
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_resume_false_starts_again(spec, data, whole, finished):
    steps = []
    again = train(spec(), data, finished, resume=False, progress=lambda step, loss: steps.append(step))
    assert steps[0] == 1
    assert numbers(again) == numbers(whole[1])


def test_the_folder_says_what_was_run(spec, whole):
    folder, result = whole
    assert json.loads((folder / "run.json").read_text()) == {"id": spec().id, **spec().to_plain()}
    written = json.loads((folder / "result.json").read_text())
    assert written.pop("checksum")
    assert written == {"id": spec().id, **result.to_plain()}


def test_the_last_checkpoints_stay_and_nothing_else(spec, data, tmp_path):
    train(spec(checkpoint_every=3, keep_checkpoints=3), data, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-0000000015", "step-0000000018", "step-0000000020"]


def test_a_checkpoint_that_is_written_late_says_what_was_so_when_it_was_taken(spec, data, tmp_path, monkeypatch):
    written, write_alone = [], checkpoint.write_alone

    def late(folder, tensors, facts):
        time.sleep(0.3)  # the steps to the next checkpoint are over before
        said = facts()
        written.append((said["step"], [step for step, _ in said["valid_losses"]]))
        write_alone(folder, tensors, lambda: said)

    monkeypatch.setattr(checkpoint, "write_alone", late)
    train(spec(evaluations=10, checkpoint_every=6), data, tmp_path)
    assert written == [(step, list(range(2, step + 1, 2))) for step in (6, 12, 18, 20)]


def cut(share):
    def damage(folder):
        path = folder / "rank-0.safetensors"
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def flip(folder):
    path = folder / "rank-0.safetensors"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def manifest(change):
    def damage(folder):
        path = folder / "checkpoint.json"
        path.write_bytes(change(path.read_bytes()))

    return damage


def replace_by_a_pickle(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Killed))
    (folder / "checkpoint.json").write_bytes(pickle.dumps(Killed))


DAMAGES = {
    "cut to nothing": (cut(0.0), r"rank-0\.safetensors is truncated or damaged"),
    "cut in its header": (cut(0.01), r"rank-0\.safetensors is truncated or damaged"),
    "cut near its end": (cut(0.999), r"rank-0\.safetensors is truncated or damaged"),
    "a flipped bit": (flip, r"rank-0\.safetensors is truncated or damaged"),
    "no tensors": (lambda folder: (folder / "rank-0.safetensors").unlink(), r"rank-0\.safetensors is missing"),
    "no manifest": (lambda folder: (folder / "checkpoint.json").unlink(), r"has no checkpoint\.json"),
    "half a manifest": (manifest(lambda text: text[: len(text) // 2]), r"checkpoint\.json is truncated or damaged"),
    "another step": (manifest(lambda text: text.replace(b'"step": 12', b'"step": 13')), r"checkpoint\.json is damaged"),
    "a file outside": (manifest(lambda text: text.replace(b"rank-0", b"../x-0")), r"checkpoint\.json is damaged"),
    "a list": (manifest(lambda text: b"[]"), r"checkpoint\.json is not of this version"),
    "a later format": (
        manifest(lambda text: text.replace(b'"format": 2', b'"format": 3')),
        r"checkpoint\.json is of a later rlrs \(format 3; this one reads 2\)",
    ),
    "an earlier format": (
        manifest(lambda text: text.replace(b'"format": 2', b'"format": 1')),
        r"checkpoint\.json is of an earlier rlrs \(format 1; this one reads 2\)",
    ),
    "a pickle": (replace_by_a_pickle, r"checkpoint\.json is truncated or damaged"),
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], r"has no checkpoint\.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(spec, data, whole, stopped, damage):
    damaging, reason = DAMAGES[damage]
    damaging(newest(stopped))
    with pytest.warns(
        CheckpointWarning, match=rf"step-0000000012: {reason}.*; kept as refused-.*, going on from step-0000000006"
    ):
        result = train(spec(), data, stopped)
    assert numbers(result) == numbers(whole[1])
    assert comparable(stopped) == comparable(whole[0])


@pytest.mark.parametrize("damage", ["a flipped bit", "a pickle"])
def test_no_checkpoint_that_can_be_used_is_an_error_with_what_to_do(spec, data, stopped, damage):
    damaging, reason = DAMAGES[damage]
    for folder in (stopped / "checkpoints").iterdir():
        damaging(folder)
    with pytest.raises(CheckpointError, match=rf"step-0000000012: {reason}; delete .*checkpoints to start") as error:
        train(spec(), data, stopped)
    assert "\n" not in str(error.value)


class Ran:
    """Unpickling it is seen."""

    def __reduce__(self):
        return exec, ("import os; os.environ['RLRS_RAN'] = '1'",)


def test_no_code_of_a_checkpoint_is_run(spec, data, stopped):
    for path in newest(stopped).iterdir():
        path.write_bytes(pickle.dumps(Ran()))
    (newest(stopped) / ".metadata").write_bytes(pickle.dumps(Ran()))
    torch.save(Ran(), newest(stopped) / "rank-0.pt")
    with pytest.warns(CheckpointWarning):
        train(spec(), data, stopped)
    assert "RLRS_RAN" not in os.environ


def test_a_checkpoint_without_a_tensor_is_refused(spec, data, stopped):
    """A manifest that is whole, but of another model: another version of the code, say."""
    from rlrs.training.storage import write_alone

    folder = newest(stopped)
    tensors = load_file(folder / "rank-0.safetensors")
    facts = {k: v for k, v in json.loads((folder / "checkpoint.json").read_text()).items() if k not in ("seal",)}
    del tensors["model.norm.weight"]
    write_alone(folder, tensors, lambda: facts)
    with pytest.raises(CheckpointError, match=r"step-0000000012: model\.norm\.weight has the shape of nothing there"):
        train(spec(), data, stopped)


def test_a_checkpoint_of_another_run_is_refused(spec, data, stopped):
    (stopped / "run.json").unlink()
    with pytest.raises(CheckpointError, match=rf"belongs to another run \({spec().id}, not {spec(seed=1).id}\)"):
        train(spec(seed=1), data, stopped)


def test_what_changes_no_number_may_differ_on_resume(spec, data, whole, stopped):
    result = train(spec(keep_checkpoints=1), data, stopped)
    assert numbers(result) == numbers(whole[1])
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-0000000020"]


def test_a_disk_that_is_full_is_an_error_and_keeps_the_checkpoint_before(spec, data, whole, tmp_path, monkeypatch):
    import rlrs.training.storage as storage

    written = storage.write_atomic

    def full(path, content):
        if "0000000012" in str(path):
            raise OSError(28, "No space left on device", str(path))
        written(path, content)

    monkeypatch.setattr(storage, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        train(spec(), data, tmp_path)
    assert newest(tmp_path).name == "step-0000000006"
    monkeypatch.undo()
    assert numbers(train(spec(), data, tmp_path)) == numbers(whole[1])


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_folder_of_another_run_is_refused(spec, data, finished, name):
    for other in {"run.json", "result.json"} - {name}:
        (finished / other).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: belongs to another run"):
        train(spec(seed=1), data, finished)


@pytest.mark.parametrize("text", ["", "[]", '{"id": "', '{"id": "ID"}'])
def test_a_damaged_result_is_named(spec, data, finished, text):
    (finished / "result.json").write_text(text.replace("ID", spec().id))
    with pytest.raises(CheckpointError, match=r"result\.json: is damaged; delete"):
        train(spec(), data, finished)


def test_metrics_shorter_than_the_checkpoint_says_are_named(spec, data, stopped):
    (stopped / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: has 0 bytes of the \d+ .* delete .*checkpoints"):
        train(spec(), data, stopped)
