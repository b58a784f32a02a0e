"""The model's definition: names, sizes, initialisation, causality, rotary positions, loss."""

import math

import pytest
import torch

from rlrs.components import partition
from rlrs.models import Transformer, count_parameters, training_flops
from rlrs.models.attention import rotary_table, rotate
from rlrs.models.feed_forward import FeedForward
from rlrs.models.loss import CHUNK, projected_cross_entropy
from rlrs.models.norm import RMSNorm
from rlrs.settings import ModelConfig

V = 300
DENSE = ModelConfig(d_model=16, n_layers=2, n_heads=2, d_ff=24)
MOE = ModelConfig(d_model=16, n_layers=2, n_heads=2, d_ff=24, n_experts=4)
FINE = MOE.model_copy(update={"top_k": 2, "granularity": 3, "n_shared_experts": 2})
TIED = ModelConfig(d_model=16, n_layers=2, n_heads=2, d_ff=24, tie_embeddings=True)


def build(config, seed=0, vocab_size=V):
    return Transformer(config, vocab_size, generator=torch.Generator().manual_seed(seed))


def tokens(batch=2, length=9, vocab_size=V):
    return torch.randint(vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(1))


def test_parameters_have_the_names_that_components_are_read_from():
    names = {name for name, _ in build(MOE).named_parameters() if not name.startswith("blocks.1")}
    assert names == {
        "embedding.weight",
        "blocks.0.attention_norm.weight",
        "blocks.0.attention.query_key_value.weight",
        "blocks.0.attention.output.weight",
        "blocks.0.feed_forward_norm.weight",
        "blocks.0.moe.router.weight",
        "blocks.0.moe.experts.gate_up",
        "blocks.0.moe.experts.down",
        "norm.weight",
        "unembedding.weight",
    }
    dense = {name for name, _ in build(DENSE).named_parameters()}
    assert {"blocks.0.feed_forward.gate_up.weight", "blocks.0.feed_forward.down.weight"} < dense
    assert not build(MOE).state_dict().keys() - {name for name, _ in build(MOE).named_parameters()}


def test_every_kind_of_expert_has_its_component():
    parts = partition(build(FINE))
    assert set(parts["experts"]) == {f"blocks.{i}.moe.experts.{name}" for i in (0, 1) for name in ("gate_up", "down")}
    shared = {f"blocks.{i}.moe.shared_experts.{name}.weight" for i in (0, 1) for name in ("gate_up", "down")}
    assert set(parts["shared_experts"]) == shared
    assert set(parts["router"]) == {f"blocks.{i}.moe.router.weight" for i in (0, 1)}
    assert not parts.unsure


def test_floating_point_operations_count_the_experts_that_a_token_passes():
    attention, feed_forward, tables = 4 * 16 * 16, 3 * 16 * 24, V * 16
    products = tables + 2 * (attention + 12 * 16 + (2 + 2) * feed_forward)
    assert training_flops(build(FINE), 9) == 3 * (2 * products + 2 * 2 * 16 * 10)


def test_finer_experts_are_cut_from_the_same_weights():
    coarse = FINE.model_copy(update={"granularity": 1})
    sizes = [count_parameters(build(config)) for config in (coarse, FINE)]
    router = 2 * 16 * (12 - 4)
    assert sizes[1].total - sizes[0].total == sizes[1].active - sizes[0].active == router
    gate_up, down = build(FINE).blocks[0].moe.experts.parameters()
    assert gate_up.shape == (12, 16, 2 * 8)
    assert down.shape == (12, 8, 16)


def test_parameters_are_counted_by_hand():
    block = 2 * 16 + 3 * 16 * 16 + 16 * 16  # norms, attention
    feed_forward = 3 * 16 * 24
    tables = 2 * V * 16
    count = count_parameters(build(DENSE))
    assert count.total == count.active == tables + 16 + 2 * (block + feed_forward)
    assert count.embedding == tables
    assert count.non_embedding == count.total - tables

    count = count_parameters(build(MOE))
    assert count.total == tables + 16 + 2 * (block + 4 * 16 + 4 * feed_forward)
    assert count.active == tables + 16 + 2 * (block + 4 * 16 + feed_forward)

    count = count_parameters(build(FINE))  # as of 4 experts, 2 of them for a token, and 2 for all; 12 rows to choose by
    assert count.total == tables + 16 + 2 * (block + 12 * 16 + (4 + 2) * feed_forward)
    assert count.active == tables + 16 + 2 * (block + 12 * 16 + (2 + 2) * feed_forward)

    count = count_parameters(build(TIED))
    assert count.embedding == V * 16
    assert count.total == V * 16 + 16 + 2 * (block + feed_forward)


@pytest.mark.parametrize(
    ("config", "name", "fan_in"),
    [
        (MOE, "embedding.weight", 1),
        (TIED, "embedding.weight", 64),
        (MOE, "unembedding.weight", 64),
        (MOE, "blocks.0.attention.query_key_value.weight", 64),
        (MOE, "blocks.0.moe.router.weight", 64),
        (MOE, "blocks.0.moe.experts.gate_up", 64),
        (MOE, "blocks.0.moe.experts.down", 96),
        (FINE, "blocks.0.moe.experts.down", 32),
        (FINE, "blocks.0.moe.shared_experts.down.weight", 192),
        (DENSE, "blocks.0.feed_forward.gate_up.weight", 64),
        (DENSE, "blocks.0.feed_forward.down.weight", 96),
    ],
)
def test_weights_start_as_a_cut_normal_of_init_scale_over_fan_in(config, name, fan_in):
    model = build(config.model_copy(update={"d_model": 64, "d_ff": 96, "init_scale": 0.3}))
    weight = dict(model.named_parameters())[name].detach()
    std = math.sqrt(0.3 / fan_in)
    assert weight.abs().max() <= 2 * std
    assert weight.abs().max() > 1.8 * std or weight.numel() < 1_000
    assert weight.std().item() == pytest.approx(0.8796 * std, rel=0.1)  # of a unit normal cut at 2


@pytest.mark.parametrize("config", [DENSE, MOE, FINE, TIED])
def test_an_untrained_model_guesses_almost_uniformly(config):
    rows = tokens(8, 32)
    output = build(config)(rows[:, :-1], rows[:, 1:])
    assert output.loss.item() == pytest.approx(math.log(V), abs=0.25)


@pytest.mark.parametrize(
    "config", [DENSE, *(MOE.model_copy(update={"capacity_factor": factor}) for factor in (4.0, None))]
)
def test_no_token_sees_a_later_one(config):
    model, rows = build(config), tokens(1, 9)
    changed = rows.clone()
    changed[0, 5] = (changed[0, 5] + 1) % V
    before, after = model(rows).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5])  # without a limit, products are of other sizes
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_loss_with_targets_is_the_cross_entropy_of_the_logits():
    model, rows = build(MOE), tokens()
    inputs_BT, targets_BT = rows[:, :-1], rows[:, 1:]
    expected = torch.nn.functional.cross_entropy(model(inputs_BT).logits.flatten(0, 1), targets_BT.flatten())
    torch.testing.assert_close(model(inputs_BT, targets_BT).loss, expected)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs_BT, targets_BT).loss, expected.detach())


def test_objective_adds_the_routers_losses_of_all_blocks_by_their_weights():
    config = MOE.model_copy(update={"load_balancing": 0.5, "z_loss": 0.25})
    rows = tokens()
    output = build(config)(rows[:, :-1], rows[:, 1:])
    assert len(output.routings) == 2
    by_hand = output.loss + sum(0.5 * r.load_balancing + 0.25 * r.z_loss for r in output.routings)
    torch.testing.assert_close(output.objective, by_hand)
    dense = build(DENSE)(rows[:, :-1], rows[:, 1:])
    assert dense.objective is dense.loss


@pytest.mark.parametrize("tokens_N", [3, CHUNK, 2 * CHUNK + 5])
def test_chunked_loss_has_the_value_and_gradients_of_the_plain_one(tokens_N):
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(tokens_N, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(11, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    target_N = torch.randint(11, (tokens_N,), generator=generator)
    chunked = projected_cross_entropy(x_ND, weight_VD, target_N)
    plain = torch.nn.functional.cross_entropy(x_ND @ weight_VD.T, target_N)
    torch.testing.assert_close(chunked, plain)
    for got, expected in zip(
        torch.autograd.grad(3 * chunked, (x_ND, weight_VD)),
        torch.autograd.grad(3 * plain, (x_ND, weight_VD)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_a_very_wrong_guess_has_a_finite_loss():
    x_ND = torch.tensor([[1.0]])
    weight_VD = torch.tensor([[500.0], [0.0]])
    assert projected_cross_entropy(x_ND, weight_VD.requires_grad_(), torch.tensor([1])).item() == 500.0


def test_rotation_turns_each_pair_by_position_times_frequency():
    table = rotary_table(length=4, head_width=4, theta=100.0)
    x_BTHK = torch.tensor([1.0, 0.0, 0.0, 2.0]).expand(1, 4, 1, 4)
    turned = rotate(x_BTHK, table)[0, 3, 0]  # position 3: angles 3 and 3 / 10
    expected = [math.cos(3), math.sin(3), -2 * math.sin(0.3), 2 * math.cos(0.3)]
    assert turned.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_form_for_the_compiler_turns_by_the_same_angles(monkeypatch):
    x_BTHK, table = torch.randn(2, 5, 3, 8), rotary_table(5, 8, 10_000.0)
    turned = rotate(x_BTHK, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x_BTHK, table), turned)


def test_rotated_products_depend_on_the_distance_alone():
    table = rotary_table(length=20, head_width=8, theta=10_000.0)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=generator).expand(1, 20, 1, 8) for _ in range(2))
    scores = torch.einsum("bthk,bshk->ts", rotate(q, table), rotate(k, table))
    torch.testing.assert_close(scores[5, 2], scores[19, 16], rtol=1e-4, atol=1e-4)
    assert abs(scores[5, 2] - scores[5, 3]) > 1e-3


def test_longer_and_shorter_sequences_than_before_are_fine():
    model = build(DENSE)
    rows = tokens(1, 20)
    short = model(rows[:, :4]).logits
    model(rows)
    assert torch.equal(model(rows[:, :4]).logits, short)


def test_feed_forward_is_down_of_silu_gate_times_up():
    torch.manual_seed(0)
    module, x = FeedForward(4, 6), torch.randn(3, 4)
    gate, up = x @ module.gate_up.weight[:6].T, x @ module.gate_up.weight[6:].T
    torch.testing.assert_close(module(x), (gate * torch.sigmoid(gate) * up) @ module.down.weight.T)


@pytest.mark.parametrize("config", [DENSE, MOE, FINE.model_copy(update={"capacity_factor": None})])
def test_the_same_seed_trains_to_the_same_bits(config):
    def losses():
        model = build(config, vocab_size=V)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        rows, seen = tokens(4, 16), []
        for _ in range(8):
            output = model(rows[:, :-1], rows[:, 1:])
            optimizer.zero_grad()
            output.objective.backward()
            optimizer.step()
            seen.append(output.loss.item())
        return seen

    first = losses()
    assert first == losses()
    assert first[-1] < first[0] - 0.5
    assert build(config, seed=1).embedding.weight[0, 0] != build(config).embedding.weight[0, 0]


def test_a_model_on_the_meta_device_takes_no_memory():
    with torch.device("meta"):
        model = Transformer(ModelConfig(d_model=4096, n_layers=2, n_heads=32), 32_000)
    assert count_parameters(model).embedding == 2 * 4096 * 32_000
    assert model.embedding.weight.is_meta


def test_norm_has_the_value_and_gradients_of_torchs_own():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    ours = RMSNorm(8, eps=1e-3).double()
    with torch.no_grad():
        ours.weight.copy_(torch.randn(8, generator=generator))
    theirs = torch.nn.functional.rms_norm(x, (8,), ours.weight, 1e-3)
    torch.testing.assert_close(ours(x), theirs)
    for got, expected in zip(
        torch.autograd.grad(ours(x), (x, ours.weight), upstream),
        torch.autograd.grad(theirs, (x, ours.weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)
