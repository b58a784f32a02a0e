"""A run that is killed goes on as if it had not been; files that cannot be used are named."""

import json
import pickle

import pytest
import torch

from rlrs.training import CheckpointError, train


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
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def numbers(result):
    return {key: value for key, value in result.to_plain().items() if key != "seconds"}


@pytest.mark.parametrize("kills", [[1], [5], [10], [15], [20], [10, 10, 15, 20]])
def test_a_killed_run_ends_with_the_same_bits_as_an_undisturbed_one(spec, data, tmp_path, kills):
    undisturbed = train(spec(), data, tmp_path / "whole")
    for step in kills:
        with pytest.raises(Killed):
            train(spec(), data, tmp_path / "killed", progress=kill_at(step))
    result = train(spec(), data, tmp_path / "killed")
    assert numbers(result) == numbers(undisturbed)
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "whole")
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "killed")]
    assert states[0]["step"] == states[1]["step"] == 20
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name]), name


def test_lines_after_the_checkpoint_are_cut_off_even_a_broken_one(spec, data, tmp_path):
    train(spec(), data, tmp_path / "whole")
    with pytest.raises(Killed):
        train(spec(), data, tmp_path / "run", progress=kill_at(10))
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 11, "lo')
    train(spec(), data, tmp_path / "run")
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


def test_a_resumed_run_does_not_train_again_what_the_checkpoint_holds(spec, data, tmp_path):
    with pytest.raises(Killed):
        train(spec(), data, tmp_path, progress=kill_at(15))  # checkpoints at 6 and 12
    steps = []
    train(spec(), data, tmp_path, progress=lambda step, loss: steps.append(step))
    assert steps == [15, 20]


def test_a_run_wanted_for_its_numbers_alone_leaves_no_weights(spec, data, tmp_path):
    result = train(spec(), data, tmp_path / "lean", keep_weights=False)
    assert not (tmp_path / "lean" / "checkpoint.pt").exists()
    assert numbers(result) == numbers(train(spec(), data, tmp_path / "whole"))
    assert numbers(train(spec(), data, tmp_path / "lean", keep_weights=False)) == numbers(result)


def test_a_finished_run_is_returned_at_once(spec, data, tmp_path):
    first = train(spec(), data, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train(spec(), data, tmp_path, progress=kill_at(0)) == first
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_resume_false_starts_again(spec, data, tmp_path):
    first = train(spec(), data, tmp_path)
    steps = []
    again = train(spec(), data, tmp_path, resume=False, progress=lambda step, loss: steps.append(step))
    assert steps[0] == 1
    assert numbers(again) == numbers(first)


def test_the_folder_says_what_was_run(spec, data, tmp_path):
    result = train(spec(), data, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == {"id": spec().id, **spec().to_plain()}
    assert json.loads((tmp_path / "result.json").read_text()) == {"id": spec().id, **result.to_plain()}


@pytest.fixture
def stopped(spec, data, tmp_path):
    """Folder of a run that was killed after its checkpoint at step 12."""
    with pytest.raises(Killed):
        train(spec(), data, tmp_path, progress=kill_at(15))
    return tmp_path


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_named_with_what_to_do(spec, data, stopped, share):
    path = stopped / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: is truncated or damaged; delete it") as error:
        train(spec(), data, stopped)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_in_a_weight_is_noticed(spec, data, stopped):
    path = stopped / "checkpoint.pt"
    weight = torch.load(path, weights_only=True)["model"]["embedding.weight"].numpy().tobytes()
    whole = path.read_bytes()
    at = whole.index(weight) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: is truncated or damaged; delete it"):
        train(spec(), data, stopped)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("not a checkpoint"),
        lambda path: path.write_bytes(pickle.dumps({"a": 1})),
        lambda path: path.write_bytes(pickle.dumps(Killed)),
        lambda path: torch.save({"step": 3}, path),
        lambda path: torch.save([1, 2], path),
    ],
)
def test_a_foreign_file_is_named_with_what_to_do(spec, data, stopped, write):
    write(stopped / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: is .*; delete it") as error:
        train(spec(), data, stopped)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_run_is_refused(spec, data, stopped):
    (stopped / "run.json").unlink()
    with pytest.raises(CheckpointError, match=rf"belongs to another run \({spec().id}, not {spec(seed=1).id}\)"):
        train(spec(seed=1), data, stopped)


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_folder_of_another_run_is_refused(spec, data, tmp_path, name):
    train(spec(), data, tmp_path)
    for other in {"run.json", "result.json"} - {name}:
        (tmp_path / other).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: belongs to another run"):
        train(spec(seed=1), data, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"id": "', '{"id": "ID"}'])
def test_a_damaged_result_is_named(spec, data, tmp_path, text):
    train(spec(), data, tmp_path)
    (tmp_path / "result.json").write_text(text.replace("ID", spec().id))
    with pytest.raises(CheckpointError, match=r"result\.json: is damaged; delete"):
        train(spec(), data, tmp_path)


def test_metrics_shorter_than_the_checkpoint_says_are_named(spec, data, stopped):
    (stopped / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: has 0 bytes of the \d+ .* delete .*checkpoint\.pt"):
        train(spec(), data, stopped)
