"""Fine-tuning as a study: loaded weights, adapters, the arms that are tried first, and general text."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from rlrs.comparison import read_results
from rlrs.ratios import Ratios
from rlrs.records import Recipe
from rlrs.search.store import TrialStore
from rlrs.settings import ConfigError, StudyConfig
from rlrs.study import resolve
from rlrs.study.spaces import search_spaces

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
CONTROLS = ["uniform", "head_only", "frozen_embedding", "layer_decay", "embedding_only", "constant", "rlrs"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders of two small models: one of two layers, one of three with a tied head."""
    folder = tmp_path_factory.mktemp("weights")
    for name, layers, tied in (("two", 2, False), ("tied", 3, True)):
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2, vocab_size=257,
            tie_word_embeddings=tied,
        )  # fmt: skip
        torch.manual_seed(5)
        transformers.LlamaForCausalLM(config).save_pretrained(folder / name)
    return folder


def plain(weights, name="two", arms=("uniform", "rlrs"), lora=None, **changes):
    model = {"hub": str(weights / name), "weights": "load", **({"lora": lora} if lora else {})}
    return {
        "name": "tuning",
        "data": {"tokenizer": "bytes", "sequence_length": 16, "max_bytes": 200_000, **changes.pop("data", {})},
        "training": {"score_steps": 5, "eval_tokens": 512, "evaluations": 3},
        "proxy": {"model": model, "steps": 6, "batch_size": 4},
        "target": {"model": model, "steps": 12, "batch_size": 4},
        "search": {"trials": 4, "lr": 2e-3, "retest": {"points": 0}, **changes.pop("search", {})},
        "transfer": {"trials": 2},
        "comparison": {"arms": list(arms), "seeds": 2, "horizons": [0.5]},
        "processes": 2,
        **changes,
    }


def study(*arguments, **options):
    return StudyConfig.model_validate(plain(*arguments, **options))


def run(plain_study, folder):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(plain_study))
    done = subprocess.run(
        [sys.executable, "-m", "rlrs.cli", "run", str(path), "--out", str(folder / "run")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run", read_results(folder / "run" / "results.json")


@pytest.fixture(scope="module")
def full(weights, tmp_path_factory):
    return run(
        plain(weights, arms=CONTROLS, search={"space": {"layer_decay": {"high": 0.9}}}), tmp_path_factory.mktemp("full")
    )


@pytest.fixture(scope="module")
def lora(weights, tmp_path_factory):
    arms = ["uniform", "layer_decay", "lora_plus", "rlrs"]
    return run(plain(weights, arms=arms, lora={"r": 2}), tmp_path_factory.mktemp("lora"))


@pytest.mark.long
def test_every_control_is_searched_with_the_same_budget(full):
    _, found = full
    assert list(found.arms) == CONTROLS
    for arm in found.arms.values():
        assert (arm.search.budget, arm.transfer.budget) == (4, 2)
        assert {trial.params["lr"] for trial in arm.search.trials} != {arm.search.trials[0].params["lr"]}


def moved(found, arm):
    trials = found.arms[arm].search.trials
    return {name for trial in trials for name in trial.params if trial.params[name] != trials[0].params[name]}


@pytest.mark.long
def test_an_arm_moves_what_it_is_about_and_nothing_else(full, lora):
    _, found = full
    base = {"lr", "final_fraction"}
    for arm in ("uniform", "head_only", "frozen_embedding"):
        assert moved(found, arm) <= base
    assert "layer_decay" in moved(found, "layer_decay") <= {*base, "layer_decay"}
    assert "lora_plus" in moved(lora[1], "lora_plus") <= {*base, "lora_plus"}
    assert not moved(lora[1], "rlrs") & {"embedding.start", "unembedding.start"}


def spec(folder, found, arm, seed):
    (run_id,) = {r.id for r in found.comparison.runs if (r.arm, r.seed, r.horizon) == (arm, seed, 1.0)}
    return json.loads((folder / "runs" / run_id / "run.json").read_text())


@pytest.mark.long
def test_what_an_arm_freezes_has_a_rate_of_zero(full):
    folder, found = full
    assert spec(folder, found, "frozen_embedding", 1)["ratios"] == {"embedding": [[0, 0], [1, 0]]}
    held = spec(folder, found, "head_only", 1)["ratios"]
    assert held == {name: [[0, 0], [1, 0]] for name in ("embedding", "attention", "feed_forward", "norm")}


@pytest.mark.long
def test_layer_decay_is_a_ratio_for_every_layer_of_the_model_that_is_trained(full):
    folder, found = full
    factor = found.arms["layer_decay"].recipe.layer_decay
    ratios = spec(folder, found, "layer_decay", 1)["ratios"]
    start = {name: knots[0][1] for name, knots in ratios.items()}
    assert start["embedding"] == pytest.approx(factor**3)
    assert start["attention/layer.0"] == pytest.approx(factor**2)
    assert start["attention/layer.1"] == pytest.approx(factor)
    assert "unembedding" not in start


@pytest.mark.long
def test_lora_plus_is_a_ratio_for_the_second_matrices(lora):
    folder, found = lora
    factor = found.arms["lora_plus"].recipe.lora_plus
    ratios = spec(folder, found, "lora_plus", 1)["ratios"]
    assert ratios == {f"{name}/lora_B": [[0, factor], [1, factor]] for name in ("attention", "feed_forward")}


@pytest.mark.long
def test_rows_of_the_search_are_the_runs_of_their_points(full):
    folder, found = full
    assert isinstance(TrialStore(folder / "trials.db"), TrialStore)
    trial = next(t for t in found.arms["layer_decay"].search.trials if t.params["layer_decay"] != 0.8)
    assert trial.result.status == "finished"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ["uniform", "embedding_only", "rlrs"], "lora": {"r": 2}}, "embedding_only: the embedding is not"),
        ({"arms": ["uniform", "frozen_embedding", "rlrs"], "lora": {"r": 2}}, "the embedding is not trained (proxy)"),
        ({"arms": ["uniform", "head_only", "rlrs"], "lora": {"r": 2}}, "head_only: the head is not trained, or is one"),
        ({"arms": ["uniform", "head_only", "rlrs"], "name": "tied"}, "is one with the embedding (tied) (proxy)"),
        ({"arms": ["uniform", "lora_plus", "rlrs"]}, "lora_plus: the model has no LoRA adapters (proxy); leave this"),
        ({"search": {"space": {"lora_plus": {"low": 0.5}}}}, "has no LoRA adapters, whose two matrices lora_plus"),
    ],
)  # fmt: skip
def test_an_arm_that_makes_no_sense_is_one_line(weights, options, message):
    with pytest.raises(ConfigError) as error:
        resolve(study(weights, **options))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_factor_has_bounds_of_the_users_own(weights):
    space = {"layer_decay": {"low": 0.5, "high": 0.9, "start": 0.7}}
    arms = ["uniform", "layer_decay", "rlrs"]
    settings = resolve(study(weights, arms=arms, search={"space": space}))
    spaces = search_spaces(settings, ["embedding", "attention", "unembedding"])
    found = spaces["layer_decay"].parameters["layer_decay"]
    assert (found.start, found.low, found.high) == (0.7, 0.5, 0.9)
    assert "layer_decay" not in spaces["rlrs"].parameters


@pytest.mark.long
def test_the_file_of_an_arm_with_a_factor_holds_the_ratios_of_the_target(full, tmp_path):
    from functools import partial
    from types import SimpleNamespace

    from rlrs.cli.terminal import recipe_from
    from rlrs.settings import load_study
    from rlrs.study.kinds import ReferenceRuns
    from rlrs.study.record import save_ratios

    folder, found = full
    decision = found.comparison.decision.model_copy(update={"winner": "layer_decay"})
    found = found.model_copy(update={"comparison": found.comparison.model_copy(update={"decision": decision})})
    settings = resolve(load_study(folder / "study.yaml"))
    kind = ReferenceRuns(settings, SimpleNamespace(hash="d" * 12, vocab_size=257))
    save_ratios(settings, found, tmp_path, partial(kind.made_out, settings.target))
    ratios = Ratios.load(tmp_path / "ratios.yaml")
    arm = found.arms["layer_decay"]
    assert ratios.provenance["made_of"] == {"layer_decay": arm.recipe.layer_decay}
    trained = recipe_from(str(tmp_path / "ratios.yaml"), Recipe.from_settings(settings.training, 1.0))
    assert kind.spec(settings.target, trained, 1, lr=1e-3).id == kind.spec(settings.target, arm.recipe, 1, lr=1e-3).id


def test_a_decision_can_be_for_any_of_them():
    from rlrs.comparison import SIMPLEST_FIRST, decide

    for arm in [*CONTROLS[1:-1], "lora_plus"]:
        losses = {"uniform": [3.0, 3.01, 3.02], arm: [2.0, 2.01, 2.03], "rlrs": [2.01, 2.0, 2.03]}
        decision = decide(losses, [1, 2, 3])
        assert decision.winner == arm
        assert "simpler" in decision.sentence
    assert SIMPLEST_FIRST[0] == "uniform"
    assert SIMPLEST_FIRST[-1] == "rlrs"


@pytest.mark.long
def test_general_text_is_measured_before_and_after_and_stands_in_the_results(weights, tmp_path):
    (tmp_path / "general.txt").write_text("the old words of before, again and again\n" * 400)
    general = {"source": f"files:{tmp_path}/general.txt", "may_rise": 0.0001, "valid_fraction": 0.3}
    folder, found = run(plain(weights, data={"general": general}, transfer={"trials": 1}), tmp_path)
    rises = found.comparison.general.rises
    assert set(rises) == {"uniform", "rlrs"}
    full = [r for r in found.comparison.runs if r.horizon == 1.0]
    assert {r.general_before for r in full} == {found.comparison.general.before}
    for r in full:
        assert r.general_loss - r.general_before == pytest.approx(rises[r.arm][r.seed - 1])
        lines = (folder / "runs" / r.id / "metrics.jsonl").read_text().splitlines()
        last = [json.loads(line) for line in lines if "general_loss" in line][-1]
        assert last["general_loss"] == r.general_loss
        assert last["general_rise"] == pytest.approx(r.general_loss - r.general_before)
    assert "general text" in (folder / "report.html").read_text()
    assert found.data["general_hash"]
