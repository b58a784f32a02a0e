"""transformers' architectures by config, under our contract: loss, causality, routers, components, errors."""

import math

import numpy as np
import pytest
import torch

from rlrs.components import partition
from rlrs.data import TokenData
from rlrs.inspection import describe
from rlrs.models import at_width, build_model, count_parameters, router_statistics, training_flops
from rlrs.settings import ConfigError, HubConfig, TrainingConfig, load_study
from rlrs.study import resolve
from rlrs.training import RunSpec, train

pytest.importorskip("transformers")
V = 300
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {"hub": "llama", "overrides": {**SMALL, "intermediate_size": 48}}
OLMOE = {"hub": "olmoe", "overrides": {**SMALL, "intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}}
GPT2 = {"hub": "gpt2", "overrides": {"n_embd": 32, "n_layer": 2, "n_head": 4}}
GEMMA = {"hub": "gemma2", "overrides": {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}}


def build(settings, seed=0):
    torch.manual_seed(seed)
    return build_model(HubConfig(**settings), V)


def rows(batch=2, length=9):
    return torch.randint(V, (batch, length + 1), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", [LLAMA, OLMOE, GPT2, GEMMA], ids=lambda s: s["hub"])
def test_the_loss_is_the_cross_entropy_of_the_models_own_logits(settings):
    model, tokens = build(settings).eval(), rows()
    inputs_BT, targets_BT = tokens[:, :-1], tokens[:, 1:]
    logits_BTV = model.model(inputs_BT).logits
    torch.testing.assert_close(model(inputs_BT).logits, logits_BTV)
    expected = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    output = model(inputs_BT, targets_BT)
    torch.testing.assert_close(output.loss, expected)
    for got, wanted in zip(
        torch.autograd.grad(output.loss, list(model.parameters()), materialize_grads=True),
        torch.autograd.grad(expected, list(model.parameters()), materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_only_a_plain_projection_is_fused_with_the_loss():
    assert build(LLAMA)._projects
    assert not build(GEMMA)._projects  # caps its logits


def test_a_mixture_of_experts_adds_its_own_balance_loss_and_reports_its_routers():
    model, tokens = build(OLMOE), rows(4, 16)
    output = model(tokens[:, :-1], tokens[:, 1:])
    theirs = model.model(tokens[:, :-1], output_router_logits=True)
    torch.testing.assert_close(output.auxiliary, model.model.config.router_aux_loss_coef * theirs.aux_loss)
    torch.testing.assert_close(output.objective, output.loss + output.auxiliary)
    assert len(output.routings) == 2
    assert all(routing.tokens.sum() == 2 * 64 for routing in output.routings)  # two experts for each of 4 x 16 tokens
    statistics = router_statistics(output.routings)
    assert statistics is not None
    assert sum(statistics.load) == pytest.approx(1.0)
    assert statistics.dropped == 0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (dict(build(LLAMA, seed).named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.lm_head.weight"], other["model.lm_head.weight"])


def test_dropout_is_off_in_evaluation():
    model, tokens = build(GPT2).eval(), rows()
    one, two = (model(tokens[:, :-1], tokens[:, 1:]).loss for _ in range(2))
    assert torch.equal(one, two)


def test_an_encoder_becomes_causal():
    sizes = {**SMALL, "intermediate_size": 48}
    model = build({"hub": "bert", "overrides": sizes}).eval()
    tokens = rows(1)
    changed = tokens.clone()
    changed[0, 6] += 1
    assert torch.allclose(model(tokens).logits[:, :6], model(changed).logits[:, :6], atol=1e-5)
    with pytest.raises(ConfigError, match="a position sees the tokens after it"):
        build({"hub": "bert", "overrides": {**sizes, "is_decoder": False}})


def test_parameters_and_operations_are_counted_by_hand():
    model = build(LLAMA)
    block = 4 * 32 * 32 + 3 * 32 * 48
    count = count_parameters(model)
    assert count.total == count.active == 2 * V * 32 + 2 * (block + 2 * 32) + 32
    assert training_flops(model, 8) == 6 * (2 * block + V * 32) + 6 * 2 * 32 * 9

    model = build(OLMOE)
    attention, expert, router = 4 * 32 * 32, 3 * 32 * 24, 4 * 32
    norms = 2 * 4 * 32 + 32  # OLMoE norms queries and keys too
    assert count_parameters(model).total == 2 * V * 32 + 2 * (attention + 4 * expert + router) + norms
    assert count_parameters(model).active == 2 * V * 32 + 2 * (attention + 2 * expert + router) + norms
    assert training_flops(model, 8) == 6 * (2 * (attention + 2 * expert + router) + V * 32) + 6 * 2 * 32 * 9

    tied = build(GPT2)
    assert "unembedding" not in partition(tied)
    assert training_flops(tied, 8) == 6 * (2 * 12 * 32 * 32 + V * 32) + 6 * 2 * 32 * 9


def test_a_model_without_memory_for_its_weights_has_the_same_counts():
    assert describe(HubConfig(**OLMOE), V)["parameters"] == vars(count_parameters(build(OLMOE)))


def test_sizes_that_do_not_go_together_are_one_line():
    overrides = {**LLAMA["overrides"], "num_attention_heads": 4, "num_key_value_heads": 3}
    with pytest.raises(ConfigError, match=r"hub='llama': does not run with overrides=.*'num_key_value_heads': 3"):
        build({"hub": "llama", "overrides": overrides})


def test_a_config_json_is_a_start_for_overrides(tmp_path):
    build(LLAMA).model.config.save_pretrained(tmp_path)
    for place in ({"hub": str(tmp_path), "weights": "random"}, {"hub": str(tmp_path / "config.json")}):
        model = build({**place, "overrides": {"num_hidden_layers": 1}})
        assert (model.model.config.hidden_size, model.model.config.num_hidden_layers) == (32, 1)
        assert model.model.config.vocab_size == V


def test_the_trainer_trains_and_resumes_one_like_ours(tmp_path):
    generator = np.random.default_rng(0)
    train_tokens, valid_tokens = ((generator.integers(1, 3, n).cumsum() % 64).astype(np.uint16) for n in (4_000, 700))
    data = TokenData(train=train_tokens, valid=valid_tokens, sequence_length=8, vocab_size=64, hash="d" * 12)
    spec = RunSpec(
        model=HubConfig(**OLMOE),
        training=TrainingConfig(eval_tokens=256, log_every=5, checkpoint_every=6, score_steps=4),
        **{"steps": 20, "batch_size": 4, "seed": 0, "lr": 1e-2, "final_fraction": 0.1, "data_hash": data.hash},
        ratios={"embedding": [(0.0, 5.0), (1.0, 0.5)], "router": [(0.0, 0.5), (1.0, 1.0)]},
    )

    class KilledError(Exception):
        pass

    def killed(step, loss):
        if step == 15:
            raise KilledError

    whole = train(spec, data, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(spec, data, tmp_path / "killed", progress=killed)
    resumed = train(spec, data, tmp_path / "killed")
    assert (resumed.score, resumed.valid_loss) == (whole.score, whole.valid_loss)
    assert whole.score < math.log(64) - 0.2
    assert '"experts"' in (tmp_path / "whole" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("settings", [LLAMA, OLMOE, GPT2, GEMMA], ids=lambda s: s["hub"])
def test_another_width_keeps_the_head_size(settings):
    narrow = HubConfig(**settings)
    wide = at_width(narrow, 64)
    (one, two) = (build_model(config, V) for config in (narrow, wide))
    assert (two.attention_width, two.model.config.hidden_size) == (2 * one.attention_width, 64)
    assert two.model.config.num_attention_heads == 8  # of 8 each
    matrices = "attention", "experts" if settings is OLMOE else "feed_forward"
    sizes = [{c["component"]: c["parameters"] for c in describe(config, V)["components"]} for config in (narrow, wide)]
    assert all(sizes[1][component] == pytest.approx(4 * sizes[0][component], rel=0.02) for component in matrices)
    with pytest.raises(ValueError, match=r"width should be a multiple of \d+, for a whole num_"):
        at_width(narrow, 60)


STUDY = """
name: hub
proxy: {model: MODEL, steps: 10, batch_size: 2}
target: {model: {hub: llama, overrides: {hidden_size: 64, num_attention_heads: 4}}, steps: 10, batch_size: 2}
"""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "{hub: lama}",
            "proxy.model: hub='lama': 'lama' is no causal language model of transformers; did you mean llama",
        ),
        ("{hub: t5}", "'t5' is no causal language model of transformers"),
        (
            "{hub: llama, d_model: 64}",
            "unknown key 'proxy.model.d_model'; known here: config, content, hub, lora, overrides, weights",
        ),
        ("{hub: llama, override: {}}", "unknown key 'proxy.model.override'; did you mean 'overrides'?"),
        ("{d_modle: 64}", "unknown key 'proxy.model.d_modle'; did you mean 'd_model'?"),
        (
            "{hub: llama, overrides: {hiden_size: 64}}",
            "overrides.hiden_size: llama has no such setting; did you mean 'hidden_size'? (got 64)",
        ),
        ("{hub: llama, overrides: {hidden_size: 65}}", "The hidden size (65) is not a multiple of"),
        ("{hub: none/config.json}", "hub='none/config.json': cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_built_is_one_line(tmp_path, model, message):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("MODEL", model))
    with pytest.raises(ConfigError) as caught:
        resolve(load_study(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
