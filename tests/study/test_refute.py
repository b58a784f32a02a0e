"""Claims run again on fresh seeds, and ablations, of a tiny finished study."""

import dataclasses
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rlrs.cli import main
from rlrs.cli.study_view import StudyView
from rlrs.comparison import read_results
from rlrs.ratios import BASE
from rlrs.records import Recipe, RecordError, read_ablations, read_refutations
from rlrs.report import write_ablations_page
from rlrs.settings import ConfigError, StudyConfig
from rlrs.study import plan_ablation, plan_refutation
from rlrs.study.ablations import ABLATIONS, Bench
from rlrs.study.reopened import reopened

STUDY = """
name: tiny
data: {vocab_size: 300, sequence_length: 16, max_bytes: 200000}
training: {score_steps: 3, eval_tokens: 256, checkpoint_every: 50, log_every: 5, evaluations: 1}
proxy: {model: {d_model: 8, n_layers: 1, n_heads: 2}, steps: 10, batch_size: 4}
target: {model: {d_model: 12, n_layers: 1, n_heads: 3}, steps: 12, batch_size: 4}
search: {trials: 4, lr: 8e-3, space: {attention: exclude, feed_forward: exclude}, retest: {points: 0}}
transfer: {trials: 1}
comparison: {arms: [uniform, embedding_only, rlrs], seeds: 2, horizons: [0.5]}
processes: 1
"""


@pytest.fixture
def command(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, stop.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    path, where = folder / "tiny.yaml", folder / "run"
    path.write_text(STUDY)
    done = subprocess.run(
        [sys.executable, "-m", "rlrs.cli", "run", str(path), "--out", str(where)],
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return where


def runs_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/result.json")}


@pytest.mark.long
def test_a_claim_is_run_again_on_seeds_that_nothing_has_used_and_the_study_stays_as_it_was(command, finished):
    results, before = (finished / "results.json").read_bytes(), set((finished / "runs").iterdir())
    planned = command("refute", finished, "embedding_only", "--seeds", 2, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "rlrs:embedding_only" in planned.stdout
    assert "0 of them there already" in planned.stdout
    assert set((finished / "runs").iterdir()) == before
    done = command("refute", finished / "results.json", "embedding_only", "--seeds", 2)
    assert done.returncode in (0, 1, 3), done.stderr
    assert (finished / "results.json").read_bytes() == results
    (first,) = read_refutations(finished / "refutations.json").refutations
    known = read_results(finished / "results.json")
    assert first.claim.loss == known.comparison.differences["embedding_only"]
    assert first.claim.config_hash == known.study.config_hash
    assert {run.seed for run in first.runs} == set(first.seeds)
    assert not set(first.seeds) & {0, *known.comparison.seeds}
    losses = {(run.arm, run.seed): run.valid_loss for run in first.runs if run.horizon == 1.0}
    gaps = [losses["rlrs", seed] - losses["embedding_only", seed] for seed in first.seeds]
    assert first.loss.fresh.per_seed == pytest.approx(gaps)
    assert first.environment["torch"] == known.environment["torch"]
    assert first.sentence in " ".join(done.stdout.split())
    page = (finished / "report.html").read_text()
    assert "Run again on fresh seeds" in page
    assert str(first.seeds[0]) in page


@pytest.mark.long
def test_a_second_attempt_has_other_seeds_and_one_that_was_killed_goes_on(command, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    earlier = read_refutations(copy / "refutations.json")
    (first,) = earlier.refutations
    after = plan_refutation(copy, StudyView(quiet=True), seeds=2)
    assert not set(after.seeds) & set(first.seeds)
    # As if it had been killed before the record was written: the same seeds, and no run a second time.
    (copy / "refutations.json").unlink()
    there = runs_of(copy)
    assert command("refute", copy, "embedding_only", "--seeds", 2).returncode in (0, 1, 3)
    assert read_refutations(copy / "refutations.json") == earlier
    assert runs_of(copy) == there


@pytest.mark.long
def test_what_cannot_be_run_again_is_one_line(command, finished, tmp_path):
    for arguments, said in (
        (("refute", finished, "constant"), "no claim 'constant' in the report; it has rlrs:"),
        (("refute", tmp_path), "there is none; name the run directory of a finished study"),
        (("ablate", "u-plot", finished, "--factor", 0), "factors should lie from 0.001 to 1000, not 0"),
        (("ablate", "seeds", finished, "--factor", 2), "seeds changes nothing by a factor; u-plot, base-rate"),
        (("ablate", "u-plot", finished, "--arm", "constant"), "no arm 'constant' in this study"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.long
def test_a_list_of_refutations_that_was_changed_is_refused_before_anything_is_trained(command, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    path = copy / "refutations.json"
    plain = json.loads(path.read_text())
    plain["refutations"][0]["upheld"] = "confirmed" if plain["refutations"][0]["upheld"] != "confirmed" else "refuted"
    path.write_text(json.dumps(plain))
    with pytest.raises(RecordError, match="does not go with its checksum"):
        read_refutations(path)
    there = runs_of(copy)
    done = command("refute", copy, "--seeds", 2)
    assert (done.returncode, runs_of(copy)) == (2, there)


@pytest.fixture
def opened(finished):
    with reopened(finished, StudyView(quiet=True)) as study:
        yield study


@pytest.mark.long
@pytest.mark.parametrize("kind", ABLATIONS)
def test_an_ablation_pairs_every_variant_with_another_and_changes_one_thing(opened, kind):
    bench = Bench(opened, "proxy", "rlrs", () if kind in ("u-plot", "base-rate") else (0.5, 1.0))
    variants = {(one.series, one.at): one for one in ABLATIONS[kind](bench)}
    expected = {
        "u-plot": 1 + 4 * 8, "contribution": 3, "removal": 3, "base-rate": 7 * len(bench.arms),
        "seeds": len(bench.arms), "schedule": 4 * len(bench.arms), "optimizer": 2 * len(bench.arms),
    }  # fmt: skip
    assert len(variants) == expected.get(kind, 2 * len(bench.arms))
    runs = {key: one.spec(7) for key, one in variants.items()}
    for key, one in variants.items():
        assert one.against is None or one.against in variants
        whole = one.at == "whole" or (kind == "u-plot" and one.at == "x 1")
        assert (one.against is None) == (one.series == "uniform" or whole)
        if kind not in ("u-plot", "contribution", "removal", "seeds") and one.against is not None:
            mine, other = runs[key], runs[one.against]
            assert (mine.steps, mine.batch_size) == (other.steps, other.batch_size)
            assert mine.training.schedule == other.training.schedule
            assert mine.training.optimizer == other.training.optimizer
            assert kind != "base-rate" or mine.lr == other.lr


@pytest.mark.long
@pytest.mark.parametrize("winner", ["uniform", "embedding_only", "rlrs"])
def test_the_control_is_the_strongest_arm_that_is_simpler_than_the_one_looked_at(opened, winner):
    comparison = opened.results.comparison
    lower = comparison.losses["uniform"].model_copy(
        update={"mean": 1.0, "per_seed": tuple(1.0 for _ in comparison.seeds)}
    )
    losses = {**comparison.losses, "embedding_only": lower}
    decision = comparison.decision.model_copy(update={"winner": winner})
    changed = comparison.model_copy(update={"losses": losses, "decision": decision})
    study = dataclasses.replace(opened, results=opened.results.model_copy(update={"comparison": changed}))
    assert Bench(study, "proxy", "rlrs").control == "embedding_only"
    assert Bench(study, "proxy", "embedding_only").control == "uniform"


@pytest.mark.long
def test_weight_decay_is_multiplied_for_every_arm_and_the_optimizer_is_the_one_that_is_named(opened):
    bench = Bench(opened, "proxy", "rlrs", (0.5, 1.0))
    own = {arm: bench.recipe(arm).weight_decay for arm in bench.arms}
    for one in ABLATIONS["weight-decay"](bench):
        assert one.spec(7).training.weight_decay == pytest.approx(own[one.series] * one.x)
    for one in ABLATIONS["optimizer"](bench):
        assert one.spec(7).training.optimizer == one.at
        assert one.spec(7).lr == bench.recipe(one.series).lr


@pytest.mark.long
def test_the_hours_of_a_batch_go_by_its_tokens(finished):
    costs = {
        factor: plan_ablation("batch", finished, StudyView(quiet=True), seeds=2, factors=[factor]).cost
        for factor in (1.0, 4.0)
    }
    assert costs[4.0].steps < costs[1.0].steps
    per_token = [cost.hours / cost.tokens for cost in costs.values()]
    assert per_token[0] == pytest.approx(per_token[1], rel=1e-6)


@pytest.mark.long
def test_what_a_component_is_given_or_has_taken_away_are_rates_not_ratios(opened):
    bench = Bench(opened, "proxy", "rlrs")
    ours, uniform = bench.recipe("rlrs"), bench.recipe("uniform")
    for kind, base, donor in (("contribution", uniform, ours), ("removal", ours, uniform)):
        run = next(one for one in ABLATIONS[kind](bench) if one.series == "embedding").spec(7)
        start, end = (ratio for _, ratio in run.ratios.get("embedding", BASE.knots))
        theirs = dict(donor.ratios.get("embedding", BASE.knots))
        assert run.lr == base.lr
        assert run.lr * start == pytest.approx(donor.lr * theirs[0.0], rel=1e-5)
        ends = run.lr * run.final_fraction * end, donor.lr * donor.final_fraction * theirs[1.0]
        assert ends[0] == pytest.approx(ends[1], rel=1e-5)


@pytest.mark.long
def test_an_ablation_is_kept_as_rows_and_drawn_and_more_seeds_add_to_what_is_there(command, finished):
    options = "u-plot", finished, "--arm", "rlrs", "--factor", 0.5
    done = command("ablate", *options, "--seeds", 2)
    assert done.returncode == 0, done.stderr
    (found,) = read_ablations(finished / "ablations.json").ablations
    whole, *others = found.rows
    assert [row.at for row in others] == ["x 1/2"] * 4
    for row in others:
        gaps = [ours - theirs for ours, theirs in zip(row.losses, whole.losses, strict=True)]
        assert row.difference.per_seed == pytest.approx(gaps)
    assert found.sentence in " ".join(done.stdout.split())
    page = (finished / "ablations.html").read_text()
    assert 'data-kind="u-plot"' in page
    assert page.count('class="plot-data"') == 4
    assert "10 of them there already" in command("ablate", *options, "--seeds", 3, "--dry-run").stdout
    assert "unstable" in write_ablations_page(finished).read_text().lower()
    done = command("ablate", *options, "--seeds", 2, "--lang", "ja")
    assert "ablations.ja.html" in done.stdout
    assert "比率を1つずつ変える" in (finished / "ablations.ja.html").read_text()


@pytest.mark.parametrize("kind", ["batch", "optimizer"])
def test_an_own_trainer_has_no_batch_or_optimizer_to_change(kind):
    study = StudyConfig.model_validate(
        {
            "name": "own",
            "trainer": {"command": "true", "components": ["embedding", "attention"]},
            "proxy": {"set": {}, "steps": 1},
            "target": {"set": {}, "steps": 1},
        }
    )
    bench = SimpleNamespace(opened=SimpleNamespace(study=study))
    with pytest.raises(ConfigError, match="not the study's to change"):
        list(ABLATIONS[kind](bench))


@pytest.mark.parametrize(
    ("kind", "training", "said"),
    [
        ("weight-decay", {"weight_decay": 0.0}, "the weight decay of this study is 0"),
        ("optimizer", {"optimizer": "sgd"}, "rates that were tuned for sgd are of no use to adamw or muon"),
    ],
)
def test_an_ablation_without_anything_to_change_is_refused(kind, training, said):
    model = {"d_model": 8, "n_layers": 1, "n_heads": 2}
    size = {"model": model, "steps": 1, "batch_size": 1}
    study = StudyConfig.model_validate({"name": "tiny", "training": training, "proxy": size, "target": size})
    recipe = Recipe.from_settings(study.training, 0.01)
    bench = SimpleNamespace(opened=SimpleNamespace(study=study), arms=["uniform", "rlrs"], recipe=lambda arm: recipe)
    with pytest.raises(ConfigError, match=said):
        list(ABLATIONS[kind](bench))
