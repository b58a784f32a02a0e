"""What a study searches beside components' ratios: layer decay, by tower too, and ratios of layers, experts, tokens."""

import json
import sys
from pathlib import Path

import pytest
from torch import nn

import rlrs
from rlrs.comparison import read_results
from rlrs.records import Recipe
from rlrs.settings import ConfigError, study_from
from rlrs.study import resolve
from rlrs.study import run as run_study
from rlrs.study.plan import searched
from rlrs.study.python import _Silent
from rlrs.study.spaces import search_spaces

NANOGPT = Path(__file__).parents[2] / "examples" / "nanogpt"
MODEL = {"d_model": 16, "n_layers": 2, "n_heads": 2}
TRAINED = ["embedding", "attention", "feed_forward", "norm", "unembedding"]
SHORT = {
    "training": {"score_steps": 3, "eval_tokens": 128},
    "transfer": {"trials": 1},
    "processes": 2,
}
ROWS = "embedding/token.200-"


def reference(space, arms=("uniform", "rlrs"), **search):
    """A study of models of two and of three layers, with 257 tokens, those from 200 on being new ones."""
    return study_from(
        {
            "name": "finer",
            "data": {"tokenizer": "bytes", "sequence_length": 16, "max_bytes": 200_000},
            "proxy": {"model": MODEL, "steps": 6, "batch_size": 2},
            "target": {"model": {**MODEL, "n_layers": 3}, "steps": 8, "batch_size": 2},
            "search": {"trials": 4, "space": space, "retest": {"points": 0}, **search},
            "comparison": {"arms": list(arms), "seeds": 2, "horizons": []},
            **SHORT,
        },
        "study.yaml",
    )


def names(study, arm):
    return search_spaces(resolve(study), TRAINED)[arm].names


def test_what_is_named_is_searched_by_the_arms_of_all_ratios_alone():
    study = reference({"layer_decay": "search", ROWS: "search", "norm": "search"}, ["uniform", "constant", "rlrs"])
    base = ["lr", "final_fraction"]
    parts = ["embedding", "attention", "feed_forward", "unembedding", ROWS, "norm"]
    assert names(study, "uniform") == base
    assert set(names(study, "constant")) == {*base, "layer_decay", *(f"{part}.start" for part in parts)}
    both = {f"{part}.{end}" for part in parts for end in ("start", "end")}
    assert set(names(study, "rlrs")) == {*base, "layer_decay", *both}
    embedding = reference({ROWS: "search"}, ["uniform", "embedding_only", "rlrs"])
    assert names(embedding, "embedding_only") == [*base, "embedding.start", "embedding.end"]


def test_an_arm_of_its_own_has_a_factor_unless_arms_say_who():
    arms = ["uniform", "layer_decay", "constant", "rlrs"]

    def owners(value):
        study = reference({"layer_decay": value}, arms)
        return [arm for arm in arms if "layer_decay" in names(study, arm)]

    assert owners({"low": 0.5}) == ["layer_decay"]
    assert owners({"low": 0.5, "arms": ["layer_decay", "rlrs"]}) == ["layer_decay", "rlrs"]
    space = search_spaces(resolve(reference({"layer_decay": {"low": 0.5, "arms": ["rlrs"]}}, arms)), TRAINED)
    assert space["rlrs"].parameters["layer_decay"].low == 0.5
    assert space["layer_decay"].parameters["layer_decay"].low == 0.1  # which has no bounds of its own then


def test_a_dry_run_says_what_every_arm_searches():
    found = searched(resolve(reference({"layer_decay": "search", f"{ROWS}.start": "search"})))
    assert found["uniform"] == ["lr", "final_fraction"]
    assert found["rlrs"][:4] == ["lr", "final_fraction", "layer_decay", "embedding (start, end)"]
    assert f"{ROWS} (start)" not in found["rlrs"]  # a ratio has both ends


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"layer_decay": {"arms": ["uniform"]}}, "layer_decay: arms should be one or more of rlrs, not ['uniform']"),
        ({"encoder.layer_decay": "search"}, "Transformer has one tower: give layer_decay one factor"),
        ({"lora_plus": "search"}, "has no LoRA adapters"),
        ({"layer_decay": 1.5}, "search.space.layer_decay: value should be from 0.1 to 1, not 1.5"),
        ({"embedding/token.257-": "search"}, "holds no parameter: embedding has tokens 0 to 256 (arm rlrs, proxy)"),
        ({"attention/layer.2": "search"}, "holds no parameter: attention has layers 0 to 1 (arm rlrs, proxy)"),
        ({"attention/layers.0": "search"}, "should look like attention/layer.0-3"),
        ({"router/expert.0": "search"}, "search.space.router/expert.0: the proxy trains no 'router'"),
        ({"layer_decay": "search", "attention/layer.0-1": "search"}, "overlap (arm rlrs, proxy)"),
        ({"embedding/layer.0": "search", ROWS: "search"}, "both by layer and by token; choose one"),
    ],
)
def test_what_a_model_does_not_have_is_one_line_before_anything_runs(space, said):
    with pytest.raises(ConfigError) as error:
        resolve(reference(space))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_ratios_learned_in_a_run_are_those_of_components():
    with pytest.raises(ConfigError, match=r"search\.method=learned learns ratios of whole components alone"):
        resolve(reference({"layer_decay": "search"}, method="learned"))


class TwoTowers(nn.Module):
    """An encoder and a decoder of two layers each over one table."""

    def __init__(self, width=8):
        super().__init__()
        layer = {"d_model": width, "nhead": 2, "dim_feedforward": 16}
        self.embed_tokens = nn.Embedding(32, width)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**layer), 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), 2)


def towers(space, **changes):
    """A study of a program's own, on a model of two towers."""
    trainer = {"command": f"{sys.executable} -c pass {{run}}", "model": f"{__file__}:TwoTowers"}
    sizes = {name: {"steps": 6, "set": {"width": 8}} for name in ("proxy", "target")}
    return study_from(
        {"name": "towers", "trainer": trainer, **sizes, "search": {"space": space}, **changes}, "study.yaml"
    )


def test_a_tower_has_a_factor_of_its_own():
    study = resolve(towers({"encoder.layer_decay": {"start": 0.5}, "layer_decay": {"start": 0.9}}))
    found = search_spaces(study, ["embedding", "attention", "feed_forward", "norm"])["rlrs"]
    assert {"encoder.layer_decay", "layer_decay"} <= set(found.names)
    recipe = Recipe(lr=0.01).at({**found.start(), "encoder.layer_decay": 0.25})
    assert recipe.factors == {"layer_decay": 0.9, "encoder.layer_decay": 0.25}
    made = recipe.on(TwoTowers())
    # what the towers share has the factor of the rest, three times: twice 2 layers, and below both
    same = rlrs.layer_decay(TwoTowers(), {"encoder": 0.25, "decoder": 0.9, "shared": 0.9})
    assert made.relative_rates() == same
    assert made.factors == {}
    assert recipe.digest != Recipe(lr=0.01).at(found.start()).digest


def test_a_tower_that_is_not_named_stays_and_what_is_shared_is_asked_for():
    own = resolve(towers({"encoder.layer_decay": {"start": 0.5}, "shared.layer_decay": 1.0}))
    point = search_spaces(own, ["embedding", "attention", "feed_forward", "norm"])["rlrs"].start()
    ratios = Recipe(lr=0.01).at(point).on(TwoTowers()).relative_rates()
    assert ratios["attention/encoder.layer.0"].start == 0.25
    assert ratios["attention/decoder.layer.0"].start == 1.0
    with pytest.raises(ConfigError, match="give one for it too, as 'shared'"):
        resolve(towers({"encoder.layer_decay": "search"}))
    with pytest.raises(ConfigError, match="the model has no tower 'vision'; its towers are decoder, encoder, shared"):
        resolve(towers({"vision.layer_decay": "search"}))


def test_an_arm_of_towers_alone_searches_their_factors():
    study = towers(
        {"encoder.layer_decay": "search", "shared.layer_decay": "= encoder.layer_decay"},
        comparison={"arms": ["uniform", "layer_decay", "rlrs"]},
    )
    space = search_spaces(resolve(study), ["embedding", "attention", "feed_forward", "norm"])
    assert space["layer_decay"].names == ["lr", "final_fraction", "encoder.layer_decay"]
    assert space["layer_decay"].start()["shared.layer_decay"] == 0.8
    assert not any("layer_decay" in name for name in space["rlrs"].names)


def test_a_list_of_components_knows_no_layers():
    trainer = {"command": f"{sys.executable} -c pass {{run}}", "components": ["embedding", "attention"]}
    with pytest.raises(ConfigError, match=r"search\.space\.layer_decay: needs the model: name it as trainer.model"):
        resolve(towers({"layer_decay": "search"}, trainer=trainer))
    known = resolve(towers({ROWS: "search"}, trainer=trainer))
    assert f"{ROWS}.end" in search_spaces(known, ["embedding", "attention"])["rlrs"].names


def asked(folder, run):
    return json.loads((folder / "runs" / run / "run.json").read_text())["ratios"]


def check_ratios(ratios, params):
    """That a run's ratios are those of its point, on a model of two layers."""
    decay = params["layer_decay"]
    for component, power in (("embedding", 3), ("attention/layer.0", 2), ("feed_forward/layer.1", 1)):
        ends = [params[f"{component.partition('/')[0]}.{end}"] * decay**power for end in ("start", "end")]
        assert [value for _, value in ratios[component]] == pytest.approx(ends)
    assert [value for _, value in ratios[ROWS]] == [params[f"{ROWS}.start"], params[f"{ROWS}.end"]]


@pytest.mark.long
def test_the_reference_trainer_is_asked_for_the_ratios_of_layers_and_rows(tmp_path):
    space = {"layer_decay": {"high": 0.9}, ROWS: {"start": 4.0}}
    run_study(reference(space), tmp_path / "run", _Silent())
    found = read_results(tmp_path / "run" / "results.json")
    recipe = found.arms["rlrs"].recipe
    (compared,) = {run.id for run in found.comparison.runs if (run.arm, run.seed, run.horizon) == ("rlrs", 1, 1.0)}
    ratios = asked(tmp_path / "run", compared)
    assert ratios["attention/layer.0"][0][1] == pytest.approx(recipe.ratios["attention"][0][1] * recipe.layer_decay**3)
    assert ratios[ROWS][0][1] == recipe.ratios[ROWS][0][1]
    kept = rlrs.Ratios.load(tmp_path / "run" / "ratios.yaml").provenance
    handed = kept["made_of"]["layer_decay"] if kept["arm"] == "rlrs" else recipe.layer_decay
    assert handed == recipe.layer_decay
    moved = {trial.params["layer_decay"] for trial in found.arms["rlrs"].search.trials}
    assert len(moved) > 1


@pytest.mark.long
def test_ones_own_trainer_is_asked_for_them_too_and_has_them(tmp_path):
    options = "--steps {steps} --lr {lr} --seed {seed} --width {width} --layers {layers} --batch-size 2 --log-every 1"
    size = {"width": 8, "layers": 2}
    study = study_from(
        {
            "name": "own",
            "trainer": {
                "command": f"{sys.executable} {NANOGPT / 'train.py'} {options}",
                "model": f"{NANOGPT / 'call.py'}:make",
            },
            "proxy": {"steps": 6, "set": size},
            "target": {"steps": 8, "set": {**size, "layers": 3}},
            "search": {
                "trials": 2,
                "lr": 3e-3,
                "space": {"layer_decay": "search", ROWS: {"start": 4.0}},
                "retest": {"points": 0},
            },
            "comparison": {"arms": ["uniform", "rlrs"], "seeds": 2, "horizons": []},
            **SHORT,
            "training": {"score_steps": 3},
        },
        "study.yaml",
    )
    found = run_study(study, tmp_path / "run", _Silent(), until="search")
    for trial in found.arms["rlrs"].search.trials:
        assert trial.result.status == "finished"
        check_ratios(asked(tmp_path / "run", trial.run), trial.params)
