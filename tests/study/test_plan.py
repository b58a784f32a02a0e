"""What a study will cost, before anything is trained."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sample_results import STUDY as SAMPLE
from sample_results import results

from rlrs.cli import main
from rlrs.records import write_results
from rlrs.settings import ConfigError, load_study
from rlrs.study import plan
from rlrs.study.plan import run_of_target, share_that_pays, smallest
from rlrs.study.timing import StepTimes, measured_noise, probed, step_times

STUDY = """
name: tiny
data: {source: stdlib, tokenizer: bytes, sequence_length: 16}
training: {eval_tokens: 128}
proxy: {model: {d_model: 16, n_layers: 1, n_heads: 2, n_experts: 2}, steps: 20, batch_size: 4}
target: {model: {d_model: 32, n_layers: 1, n_heads: 2, n_experts: 2}, steps: 40, batch_size: 4}
search: {trials: 10}
transfer: {trials: 5}
comparison: {seeds: 4, horizons: [0.5]}
"""
MACHINE = "machine: {name: 8 x H100, price_per_hour: 36, currency: EUR, flops_per_second: 1.0e6}\n"


@pytest.fixture
def study(tmp_path):
    def load(more=""):
        (tmp_path / "s.yaml").write_text(STUDY + more)
        return load_study(tmp_path / "s.yaml")

    return load


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(
            arguments, stop.value.code or 0, " ".join(captured.out.split()), captured.err
        )

    return run


def test_stages_add_up_in_steps_tokens_and_flops(study):
    search, transfer, comparison = plan(study())
    assert (search.runs, search.all_steps, search.tokens) == (40, 800, 800 * 4 * 16)
    assert (transfer.runs, transfer.all_steps) == (20, 800)
    # Four arms at full length, and shorter runs of rlrs and of a simpler arm that may win.
    assert (comparison.runs, comparison.all_steps) == (4 * 6, 4 * (4 * 40 + 2 * 20))
    assert comparison.flops / comparison.tokens == transfer.flops / transfer.tokens > search.flops / search.tokens
    assert (search.hours, search.machine_hours, search.money) == (None, None, None)


def test_hours_here_are_of_the_pace_and_money_is_of_the_described_machine(study):
    rows = plan(study(MACHINE), StepTimes(0.9, 1.8, "as told"))
    assert rows[0].hours == pytest.approx(800 * 0.9 / 3600)
    assert rows[1].hours == pytest.approx(800 * 1.8 / 3600)
    assert rows[1].machine_hours == pytest.approx(rows[1].flops / 1e6 / 3600)
    assert rows[1].money == pytest.approx(36 * rows[1].machine_hours)


def test_the_share_that_pays_is_the_cost_over_what_the_runs_take(study):
    rows, run = plan(study()), run_of_target(study())
    cost = sum(row.flops for row in rows) / run.flops
    assert share_that_pays(rows, run, 100) == pytest.approx(cost / 100)
    blind = [row.__class__(**{**vars(row), "flops": 0.0}) for row in (*rows, run)]
    assert share_that_pays(blind[:-1], blind[-1], 10) is None
    timed = plan(study(), StepTimes(1.0, 2.0, ""))
    slow = [
        row.__class__(**{**vars(row), "flops": 0.0}) for row in (*timed, run_of_target(study(), StepTimes(1, 2, "")))
    ]
    assert share_that_pays(slow[:-1], slow[-1], 1) == pytest.approx((800 + 2 * 800 + 2 * 800) / 80)


def test_the_smallest_study_keeps_the_fair_control_and_has_the_seeds_that_see_the_gain(study):
    found = smallest(study(), gain=0.05, noise=0.02)
    assert found.comparison.arms == ("uniform", "embedding_only", "rlrs")
    assert (found.comparison.seeds, found.transfer.trials, found.search.trials) == (4, 3, 10)
    assert smallest(study(), gain=0.0001, noise=0.02) is None
    late = smallest(study("").model_copy(update={"comparison": SAMPLE.comparison}), gain=0.02, noise=0.02)
    assert late.comparison.seeds == 10
    with pytest.raises(ConfigError, match="gain should be above 0"):
        smallest(study(), gain=0.0, noise=0.02)


def test_a_step_is_timed_and_one_that_is_too_large_is_not(study, monkeypatch):
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setattr("rlrs.study.timing.PROBE_SECONDS", 0.05)
    small = study()
    assert 0 < probed(small, small.proxy) < 5
    assert torch.get_num_threads() == threads
    monkeypatch.setattr("rlrs.study.timing.MOST_FLOPS", 1.0)
    assert probed(small, small.target) is None
    found = step_times(small, Path("/nowhere"))
    assert (found.proxy, found.target) == (None, None)
    assert found.how.endswith("too large to be timed here: proxy and target")


def test_pace_and_noise_come_from_runs_where_there_are_some(tmp_path):
    write_results(tmp_path / "results.json", results("rlrs"))
    times = step_times(SAMPLE, tmp_path, probe=False)
    assert (times.proxy, times.target) == (0.01, 0.01)  # a trial of 100 steps took a second
    assert str(tmp_path) in times.how
    noise, gains = measured_noise(tmp_path)
    assert 0 < noise < 0.001
    assert gains["uniform"] == pytest.approx(0.3)
    other = SAMPLE.model_copy(update={"target": SAMPLE.target.model_copy(update={"batch_size": 8})})
    assert step_times(other, tmp_path, probe=False).how == "nothing was timed"
    (tmp_path / "results.json").write_text("{")
    assert step_times(SAMPLE, tmp_path, probe=False).target is None
    assert measured_noise(tmp_path) is None


def test_the_command_says_what_it_costs_and_what_would_pay_for_it(command, study, tmp_path):
    study(MACHINE)
    before = sorted(tmp_path.iterdir())
    done = command("plan", "s.yaml", "--no-probe", "--gain", "0.05", "--noise", "0.025")
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "There is 8 x H100, 36 EUR an hour." in said
    assert "EUR" in said
    cost = float(re.search(r"as much as ([\d.]+) runs of the target", said)[1])
    assert f"{cost:.2g} % where 100 more such runs follow" in said
    assert "is seen with 5 paired seeds, with a chance of 80%" in said
    assert "Hours here are of runs one at a time: nothing was timed." in said
    assert sorted(tmp_path.iterdir()) == before


def test_without_a_machine_no_money_and_without_a_gain_seeds_by_the_noise(command, study):
    study()
    done = command("plan", "s.yaml", "--no-probe")
    assert "No money is named" in done.stdout
    assert "34 for 0.5 times, 10 for 1 times, 5 for 2 times, 3 for 4 times" in done.stdout
    assert "give --gain and --noise, in nats" in done.stdout


@pytest.mark.parametrize(
    ("more", "arguments", "message"),
    [
        ("machine: {price_per_hour: 3}\n", (), "machine: should have flops_per_second or tokens_per_second"),
        ("", ("--gain", "-1", "--noise", "0.1"), "gain should be a number above 0"),
        ("machine: {price_per_hour: cheap, flops_per_second: 1}\n", (), "machine.price_per_hour: should be a number"),
    ],
)
def test_what_cannot_be_planned_is_one_line(command, study, more, arguments, message, tmp_path):
    (tmp_path / "s.yaml").write_text(STUDY + more)
    done = command("plan", "s.yaml", "--no-probe", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
