"""A model at other sizes: head size and aspect ratio stay, parameters are counted."""

import pytest
import torch

from rlrs.models import build_model, concrete, count_parameters, ladder
from rlrs.settings import ConfigError, HubConfig, ModelConfig, load_study

PAPER = ModelConfig(d_model=512, n_layers=8, n_heads=8, n_experts=8)


def non_embedding(config):
    with torch.device("meta"):
        return count_parameters(build_model(config, 300)).non_embedding


def test_the_papers_proxy_times_27_is_three_times_as_wide_and_deep():
    rung = ladder(PAPER, 27)
    assert rung.config == ModelConfig(d_model=1536, n_layers=24, n_heads=24, n_experts=8)
    assert (rung.asked, rung.aspect) == (27, 1)
    assert rung.reached == non_embedding(rung.config) / non_embedding(PAPER) == pytest.approx(26.9, abs=0.1)
    assert ladder(rung.config, 1 / 27).config == PAPER


@pytest.mark.parametrize("factor", [1.7, 4, 10])
@pytest.mark.parametrize("layers", [4, 5])
def test_between_whole_heads_and_layers_the_nearest_is_taken_and_said(factor, layers):
    config = ModelConfig(d_model=64, n_layers=layers, n_heads=4, n_experts=4, top_k=2, granularity=2, d_ff=100)
    rung = ladder(config, factor)
    assert rung.config.d_model // rung.config.n_heads == 16
    assert rung.reached == pytest.approx(factor, rel=0.2)
    assert rung.aspect == pytest.approx(rung.config.d_model / rung.config.n_layers / (64 / layers))
    assert rung.aspect == pytest.approx(1, abs=0.2)
    assert ModelConfig(**rung.config.model_dump()) == rung.config


def test_one_is_the_model_itself():
    assert ladder(PAPER, 1).config == PAPER
    assert ladder(PAPER, 1).reached == 1


@pytest.mark.parametrize("factor", [0, -2, float("inf"), float("nan"), 1e308, 1e12, 10**400])
def test_a_factor_that_is_no_size_is_refused(factor):
    with pytest.raises(ConfigError, match="factor should be a number above 0"):
        ladder(PAPER, factor)


def test_architectures_of_transformers_keep_whole_groups_of_heads():
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    rung = ladder(HubConfig(hub="llama", overrides={**sizes, "intermediate_size": 48}), 8)
    doubled = {name: 2 * size for name, size in sizes.items()} | {"intermediate_size": 96}
    assert rung.config.overrides == doubled
    assert rung.reached == pytest.approx(8, rel=0.02)


STUDY = """
name: s
proxy: {model: {d_model: 16, n_layers: 2, n_heads: 2, n_experts: 2}, steps: 4, batch_size: 4}
target: {TARGET, steps: 9, batch_size: 4}
"""


def study(tmp_path, target):
    (tmp_path / "study.yaml").write_text(STUDY.replace("TARGET", target))
    return load_study(tmp_path / "study.yaml")


def test_a_study_may_say_its_target_as_a_multiple_of_the_proxy(tmp_path):
    scaled = study(tmp_path, "scale: 27")
    assert scaled.target.model == scaled.proxy.model
    written = study(tmp_path, "model: {d_model: 48, n_layers: 6, n_heads: 6, n_experts: 2}")
    assert concrete(scaled.target) == concrete(written.target) == written.target
    assert dict(concrete(scaled.target).model) == {
        **scaled.proxy.model.model_dump(),
        "d_model": 48,
        "n_layers": 6,
        "n_heads": 6,
    }


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("scale: 27, model: {d_model: 16}", "study.yaml: target should have model or scale, not both"),
        ("scale: -1", "study.yaml: target.scale: should be above 0, not -1"),
        ("scale: big", "study.yaml: target.scale: should be a number, not 'big'"),
        ("scale: 2, stepz: 3", "study.yaml: unknown key 'target.stepz'; did you mean 'steps'?"),
    ],
)
def test_a_scale_that_cannot_be_is_one_line(tmp_path, target, message):
    with pytest.raises(ConfigError) as caught:
        study(tmp_path, target)
    assert str(caught.value).endswith(message)
