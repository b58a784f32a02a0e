"""Numbers of a run: learning, metrics, divergence, and the same bits every time."""

import json
import math

import pytest
import torch

import rlrs
from rlrs.models import Transformer
from rlrs.settings import TrainingConfig
from rlrs.training import evaluate, loop, train
from rlrs.training.evaluate import evaluation_steps


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns(spec, data):
    result = train(spec(steps=120), data)
    assert result.status == "finished"
    assert result.steps == 120
    assert result.tokens == 120 * 4 * 8
    assert result.score < 0.5 * math.log(64)
    assert result.valid_loss < 0.5 * math.log(64)


def test_the_numbers_are_those_of_a_loop_written_out_by_hand(spec, data):
    run = spec()
    torch.manual_seed(0)
    model = Transformer(run.model, 64)
    ratios = rlrs.Ratios(run.ratios)
    optimizer = torch.optim.AdamW(
        rlrs.param_groups(model, ratios, lr=1e-2, weight_decay=0.1), betas=(0.9, 0.95), eps=1e-8, fused=True
    )
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=20, warmup_steps=1, final_fraction=0.1)
    losses = []
    for step in range(20):
        output = model(*data.batch(0, step, 4))
        optimizer.zero_grad()
        output.objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(output.loss.item())
    result = train(run, data)
    assert result.score == math.fsum(losses[-4:]) / 4
    assert result.valid_loss == evaluate(model, data.valid_batches(4, 64))


def test_a_run_with_files_has_the_numbers_of_one_without(spec, data, tmp_path):
    with_files, without = train(spec(), data, tmp_path / "run"), train(spec(), data)
    assert (with_files.score, with_files.valid_loss) == (without.score, without.valid_loss)


def test_the_callers_random_numbers_are_left_alone(spec, data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(spec(), data)
    assert torch.equal(torch.rand(3), expected)


def test_seeds_differ_in_weights_and_order(spec, data):
    assert train(spec(seed=1), data).score != train(spec(), data).score


def test_metrics_hold_every_components_numbers(spec, data, tmp_path):
    train(spec(), data, tmp_path)
    training = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in training] == [1, 5, 10, 15, 20]
    assert [line["tokens"] for line in training] == [32, 160, 320, 480, 640]
    last = training[-1]
    assert set(last["components"]) == {"embedding", "attention", "router", "experts", "norm", "unembedding"}
    norms = [component["grad_norm"] for component in last["components"].values()]
    assert math.hypot(*norms) == pytest.approx(last["grad_norm"], rel=1e-5)
    assert all(0 < component["update_ratio"] < 1 for component in last["components"].values())
    assert sum(last["router"]["load"]) == pytest.approx(1.0)
    assert 0 <= last["router"]["dropped"] < 1
    assert 0 < last["router"]["entropy"] <= math.log(2)


def test_metrics_rates_are_those_of_the_step_itself(spec, data, tmp_path):
    train(spec(warmup_fraction=0.5), data, tmp_path)  # 10 of 20 steps
    first, fifth, tenth = (line for line in lines(tmp_path) if line["step"] in (1, 5, 10))
    for line, share in ((first, 0.1), (fifth, 0.5), (tenth, 1.0)):
        assert line["lr_base"] == pytest.approx(1e-2 * share)
        assert line["components"]["embedding"]["lr"] == pytest.approx(5e-2 * share)
        assert line["components"]["attention"]["lr"] == pytest.approx(1e-2 * share)


def test_logged_losses_are_means_since_the_line_before(spec, data, tmp_path):
    train(spec(), data, tmp_path / "some")
    train(spec(log_every=1), data, tmp_path / "all")
    every = [line["loss"] for line in lines(tmp_path / "all") if "loss" in line]
    some = [line["loss"] for line in lines(tmp_path / "some") if "loss" in line]
    assert some[0] == every[0]
    assert some[1] == pytest.approx(sum(every[1:5]) / 4)
    assert some[4] == pytest.approx(sum(every[15:20]) / 5)


def test_validation_is_evenly_spaced_and_ends_with_the_last_step(spec, data, tmp_path):
    result = train(spec(), data, tmp_path)
    evaluations = [line for line in lines(tmp_path) if "valid_loss" in line]
    assert [line["step"] for line in evaluations] == [7, 13, 20]
    assert evaluations[-1]["valid_loss"] == result.valid_loss
    assert evaluation_steps(2, TrainingConfig(evaluations=10)) == {1, 2}


def test_validation_can_be_left_out(spec, data):
    result = train(spec(), data, validate=False)
    assert result.valid_loss is None
    assert result.score == train(spec(), data).score


def test_a_search_trial_that_is_to_be_validated_is_trained_again(spec, data, tmp_path):
    """`rlrs train` may ask for the very run that a search trained for its score."""
    trial = train(spec(), data, tmp_path / "run", validate=False, keep_weights=False)
    assert trial.valid_loss is None
    assert train(spec(), data, tmp_path / "run", validate=False) == trial
    whole = train(spec(), data, tmp_path / "run")
    assert (whole.valid_loss, whole.score) == (train(spec(), data).valid_loss, trial.score)
    assert (tmp_path / "run" / "checkpoints").is_dir()
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 5, 10, 15, 20]


def test_progress_is_called_at_logged_steps_with_the_mean_loss(spec, data, tmp_path):
    calls = []
    train(spec(), data, tmp_path, progress=lambda step, loss: calls.append((step, loss)))
    assert calls == [(line["step"], line["loss"]) for line in lines(tmp_path) if "loss" in line]


def test_a_loss_above_the_limit_ends_the_run_with_the_step_and_the_reason(spec, data, tmp_path):
    result = train(spec(loss_limit=0.1), data, tmp_path)
    assert result.status == "diverged"
    assert (result.steps, result.diverged_at) == (0, 1)
    assert result.reason.startswith("training loss 4.")
    assert result.reason.endswith("above the limit of 0.1")
    assert (result.score, result.valid_loss) == (None, None)
    assert train(spec(loss_limit=0.1), data, tmp_path) == result


def test_a_rate_far_too_high_diverges_within_the_run(spec, data):
    result = train(spec(lr=1e6, steps=60), data)
    assert result.status == "diverged"
    assert result.diverged_at == result.steps + 1 > 1


def test_a_loss_that_is_no_number_diverges(spec, data, monkeypatch):
    original = Transformer.forward

    def third_is_nan(self, inputs_BT, targets_BT=None):
        self.calls = getattr(self, "calls", 0) + 1
        output = original(self, inputs_BT, targets_BT)
        output.loss.data.mul_(float("nan") if self.calls == 3 else 1.0)
        return output

    monkeypatch.setattr(Transformer, "forward", third_is_nan)
    result = train(spec(), data)
    assert (result.status, result.steps, result.diverged_at) == ("diverged", 2, 3)
    assert "not a finite number" in result.reason


def test_a_validation_loss_that_is_no_number_comes_after_a_step_that_is_done(spec, data, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda *_: math.nan)
    result = train(spec(), data)
    assert result.status == "diverged"
    assert result.steps == result.diverged_at > 0
    assert result.reason == "validation loss nan is not a finite number"


def test_other_data_than_the_specs_is_refused(spec, data):
    with pytest.raises(ValueError, match="the run is of data eeeeeeeeeeee, but this data is dddddddddddd"):
        train(spec(data_hash="e" * 12), data)


def test_ratios_for_a_component_that_is_not_there_are_refused(spec, data):
    with pytest.raises(rlrs.RatiosError, match="feed_forward"):
        train(spec(ratios={"feed_forward": [(0.0, 1.0), (1.0, 2.0)]}), data)
