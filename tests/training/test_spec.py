"""A run's settings and its id."""

import json
from dataclasses import replace

import pytest

from rlrs.models import concrete
from rlrs.ratios import RatiosError
from rlrs.settings import CHANGES_NO_RESULT, HubConfig, ScaleConfig


def test_the_id_is_twelve_hex_digits_and_the_same_for_equal_specs(spec):
    assert spec().id == spec().id
    assert len(spec().id) == 12
    int(spec().id, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 21},
        {"batch_size": 5},
        {"seed": 1},
        {"lr": 2e-2},
        {"final_fraction": 0.2},
        {"ratios": {"embedding": [(0.0, 5.0), (1.0, 0.4)]}},
        {"data_hash": "e" * 12},
        {"d_model": 32},
        {"clip": 0.5},
    ],
)
def test_every_field_changes_the_id(spec, change):
    assert spec(**change).id != spec().id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps should be a whole number from 1 to 9,007,199,254,740,992, not 0"),
        ({"steps": 10.0}, "steps should be a whole number from 1 to 9,007,199,254,740,992, not 10.0"),
        ({"batch_size": 0}, "batch_size should be"),
        ({"seed": -1}, "seed should be a whole number from 0 to 9,007,199,254,740,992, not -1"),
        ({"lr": 0.0}, "lr should be a number above 0, at most 1e\\+12, not 0.0"),
        ({"lr": float("nan")}, "lr should be a number above 0, at most 1e\\+12, not nan"),
        ({"final_fraction": 1.5}, "final_fraction should be from 0 to 1, not 1.5"),
        ({"schedule": "constant"}, "final_fraction should be 1 with a constant schedule, not 0.1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(spec, change, message):
    with pytest.raises(ValueError, match=message):
        spec(**change)


def test_ratios_are_checked_at_once(spec):
    with pytest.raises(RatiosError, match="embedding"):
        spec(ratios={"embedding": [(0.0, -1.0), (1.0, 1.0)]})


@pytest.mark.parametrize(
    ("steps", "fraction", "expected"), [(1000, 0.01, 10), (20, 0.01, 1), (20, 0.0, 0), (20, 0.25, 5), (150, 0.01, 2)]
)
def test_warm_up_is_a_rounded_share_of_the_steps(spec, steps, fraction, expected):
    assert spec(steps=steps, warmup_fraction=fraction).warmup_steps == expected


@pytest.mark.parametrize("name", sorted(CHANGES_NO_RESULT["training"]))
def test_what_changes_no_result_changes_no_id(spec, name):
    other = {"distributed": "fsdp2", "keep_checkpoints": 5, "tensorboard": True}[name]
    assert spec(**{name: other}).id == spec().id


def test_a_model_from_a_file_counts_by_what_the_file_holds(spec, tmp_path):
    pytest.importorskip("transformers")

    def run_id(path, **held):
        sizes = {"model_type": "gpt2", "n_embd": 16, "n_head": 2, "n_layer": 1}
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps({**sizes, **held}))
        scale = ScaleConfig(model=HubConfig(hub=str(path), weights="random"), steps=1, batch_size=1)
        return replace(spec(), model=concrete(scale).model).id

    first = run_id(tmp_path / "a")
    assert run_id(tmp_path / "b") == first
    assert run_id(tmp_path / "b", architectures=["GPT2LMHeadModel"]) == first
    assert run_id(tmp_path / "a", n_layer=2) != first
