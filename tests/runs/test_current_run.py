import json
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import rlrs
from rlrs.records import Pruning, RecordError, read_metrics, write_record
from rlrs.records.checked import read_checked
from rlrs.runs import AskedRun, ReportedResult, Run, RunError, current_run


def asked(**changes):
    plain = {"id": "a", "steps": 6, "lr": 1e-2, "seed": 7, "score_steps": 2, "warmup_steps": 1, **changes}
    return AskedRun.model_validate(plain)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    def run(**changes):
        write_record(tmp_path / "run.json", asked(**changes))
        monkeypatch.setenv("RLRS_RUN", str(tmp_path / "run.json"))
        return Run.read(tmp_path / "run.json")

    return run


def result(folder):
    return read_checked(folder / "result.json", ReportedResult, None, "result", "")


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))


def trained(run, steps=6, every=1):
    """A loop that does what the run asks for."""
    optimizer = torch.optim.SGD(run.param_groups(model()))
    scheduler = run.scheduler(optimizer)
    torch.manual_seed(run.seed)
    for step in range(1, steps + 1):
        optimizer.step()
        scheduler.step()
        if step % every == 0 and run.report(step, train_loss=4.0 / step):
            break


def test_a_run_that_does_as_asked_hands_back_score_loss_and_the_rates_of_its_groups(tmp_path, begin):
    run = begin(ratios={"embedding": [(0.0, 5.0), (1.0, 1.0)]}, args={"width": 4})
    assert run.args == {"width": 4}
    trained(run)
    run.finish(valid_loss=1.5)
    found = result(tmp_path)
    assert (found.status, found.steps, found.valid_loss) == ("finished", 6, 1.5)
    assert found.score == pytest.approx((4 / 5 + 4 / 6) / 2)
    assert found.rates == {"embedding": pytest.approx(0.05), "unembedding": pytest.approx(0.01)}
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [line.loss for line in lines] == [pytest.approx(4 / step) for step in range(1, 7)] + [None]
    assert (lines[-1].step, lines[-1].valid_loss) == (6, 1.5)


def test_a_result_that_was_changed_is_not_read(tmp_path, begin):
    run = begin()
    trained(run)
    run.finish(valid_loss=1.0)
    path = tmp_path / "result.json"
    path.write_text(path.read_text().replace('"valid_loss": 1.0', '"valid_loss": 0.5'))
    with pytest.raises(RecordError, match="does not go with its checksum"):
        result(tmp_path)


def test_a_loss_stands_for_the_steps_since_the_report_before(tmp_path, begin):
    run = begin(score_steps=3)
    trained(run, every=2)  # 2.0, 1.0, 0.667
    run.finish(valid_loss=1.0)
    assert result(tmp_path).score == pytest.approx((1.0 + 4 / 6 + 4 / 6) / 3)


def test_ratios_that_the_groups_do_not_have_are_one_line(tmp_path, begin):
    run = begin(ratios={"embedding": [(0.0, 5.0), (1.0, 1.0)]})
    optimizer = torch.optim.SGD(rlrs.param_groups(model(), {}, lr=run.lr))
    rlrs.RelativeLR(optimizer, {}, total_steps=6, warmup_steps=1, final_fraction=0.1)
    run.watch(optimizer)
    assert run.seed == 7
    for step in range(1, 7):
        run.report(step, train_loss=1.0)
    with pytest.raises(RunError, match=r"embedding had the rate 0.01 at step 1, where 0.05 .*its ratio was ignored"):
        run.finish(valid_loss=1.0)
    assert result(tmp_path).status == "failed"


def test_a_late_ratio_that_is_ignored_is_seen_though_the_peaks_are_the_same(begin):
    run = begin(ratios={"embedding": [(0.0, 1.0), (1.0, 0.2)]})
    optimizer = torch.optim.SGD(rlrs.param_groups(model(), {}, lr=run.lr))
    scheduler = rlrs.RelativeLR(optimizer, {}, total_steps=6, warmup_steps=1, final_fraction=0.1)
    run.watch(optimizer)
    assert run.seed == 7
    for step in range(1, 7):
        optimizer.step()
        scheduler.step()
        run.report(step, train_loss=1.0)
    with pytest.raises(RunError, match="its ratio was ignored"):
        run.finish(valid_loss=1.0)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda run: (run.lr, run.ratios), "it did not use its seed"),
        (lambda run: (run.seed, run.ratios), "it did not use its lr"),
        (lambda run: (run.seed, run.lr), "it did not use its ratios"),
    ],
)
def test_what_a_script_never_looks_at_makes_it_another_run(tmp_path, begin, use, said):
    run = begin(ratios={"embedding": [(0.0, 5.0), (1.0, 1.0)]})
    use(run)
    for step in range(1, 7):
        run.report(step, train_loss=1.0)
    with pytest.raises(RunError, match=said):
        run.finish(valid_loss=1.0)
    assert said in result(tmp_path).reason


def test_what_the_command_line_has_need_not_be_looked_at(tmp_path, begin):
    run = begin(ratios={"embedding": [(0.0, 5.0), (1.0, 1.0)]}, given=("lr", "seed", "embedding.start"))
    for step in range(1, 7):
        run.report(step, train_loss=1.0)
    run.finish(valid_loss=1.0)
    assert result(tmp_path).status == "finished"


@pytest.mark.parametrize("done", [3, 5])
def test_fewer_steps_than_asked_are_one_line(begin, done):
    run = begin()
    trained(run, steps=done)
    with pytest.raises(RunError, match=f"after step {done} of 6: it trained other steps than asked"):
        run.finish(valid_loss=1.0)


def test_more_steps_than_asked_are_one_line(begin):
    run = begin()
    for step in range(1, 7):
        run.report(step, train_loss=1.0)
    with pytest.raises(RunError, match="step 7 of a run of 6 steps"):
        run.report(7, train_loss=1.0)


def test_neither_training_nor_validation_loss_is_one_line_each(begin):
    with pytest.raises(RunError, match="no training loss"):
        begin().finish(valid_loss=1.0)
    run = begin()
    trained(run)
    with pytest.raises(RunError, match="no validation loss"):
        run.finish()
    run = begin(validate_at_end=False)
    trained(run)
    run.finish()
    assert run.result.status == "finished"


@pytest.mark.parametrize(("loss", "limit"), [(math.nan, None), (math.inf, None), (9.0, 8.0)])
def test_a_loss_that_is_no_number_or_above_the_limit_ends_the_run(tmp_path, begin, loss, limit):
    run = begin(loss_limit=limit)
    assert not run.report(1, train_loss=1.0)
    assert run.report(2, train_loss=loss)
    assert run.report(3, train_loss=1.0), "it has ended"
    run.finish(valid_loss=1.0)
    assert (result(tmp_path).status, result(tmp_path).diverged_at, result(tmp_path).steps) == ("diverged", 2, 1)


def test_a_run_above_the_limit_of_a_rung_is_pruned_there(tmp_path, begin):
    run = begin(prune=Pruning(rungs=((2, None), (4, 1.5), (6, None)), window=2))
    assert [run.report(step, train_loss=loss) for step, loss in ((1, 4.0), (2, 2.0), (3, 2.0), (4, 1.5))] == [
        *(False, False, False, True)
    ]
    assert result(tmp_path).status == "pruned"
    assert result(tmp_path).rungs == ((2, 3.0), (4, 1.75))


def test_after_a_checkpoint_the_reports_before_it_count_and_those_after_it_are_replaced(tmp_path, begin):
    run = begin(score_steps=6)
    trained(run, steps=5)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "tok')  # killed while writing
    again = begin(score_steps=6)
    assert (again.seed, again.lr) == (7, 1e-2)
    for step in (4, 5, 6):
        again.report(step, train_loss=1.0)
    again.finish(valid_loss=1.0)
    assert result(tmp_path).score == pytest.approx((4 + 2 + 4 / 3 + 3) / 6)
    assert [line.step for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("valid_first", [False, True])
def test_a_script_that_was_killed_after_its_last_step_has_only_to_finish(tmp_path, begin, valid_first):
    trained(begin())
    again = begin()
    assert (again.seed, again.lr) == (7, 1e-2)
    if valid_first:
        again.report(6, valid_loss=1.5)
    again.finish(valid_loss=1.5)
    assert result(tmp_path).score == pytest.approx((4 / 5 + 4 / 6) / 2)
    assert [line.step for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 6]


def test_steps_that_do_not_increase_are_an_error(begin):
    run = begin()
    run.report(2, train_loss=1.0)
    with pytest.raises(RunError, match="step 2 after one at step 2"):
        run.report(2, train_loss=1.0)


def test_outside_a_study_there_is_no_run_but_the_one_that_is_given(monkeypatch):
    monkeypatch.delenv("RLRS_RUN", raising=False)
    with pytest.raises(RunError, match=r"RLRS_RUN is not set.*rlrs.current_run\(alone=rlrs.Run"):
        current_run()
    alone = Run(steps=3, lr=1e-2, args={"width": 4})
    assert current_run(alone=alone) is alone


def test_a_script_that_asks_twice_gets_the_same_run(begin):
    begin()
    assert current_run() is current_run()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"id": 1', b'{"id": "a", "steps": 0, "lr": 1}'])
def test_a_damaged_run_file_is_one_line(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run.json: damaged: .*start the study again"):
        Run.read(tmp_path / "run.json")


def test_naming_a_run_loads_the_extra_only_then():
    code = "import sys, rlrs; print('pydantic' in sys.modules); rlrs.current_run; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_line_of_the_reports_is_what_the_reference_trainer_writes(tmp_path, begin):
    begin(tokens_per_step=32).report(2, train_loss=1.5)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert {name: line[name] for name in ("step", "tokens", "loss")} == {"step": 2, "tokens": 64, "loss": 1.5}
