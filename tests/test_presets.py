"""Ratios made for a model, against what others do: layer-wise decay by tower, rows of new tokens, width."""

import math
import re

import pytest
import torch
from torch import nn

import rlrs
from architectures import build, build_llava, linear, named

transformers = pytest.importorskip("transformers")
SETTINGS = {"total_steps": 8, "warmup_steps": 2, "final_fraction": 0.1}


def factors(model, factor):
    """Parameter -> its factor under layer-wise decay, as an optimizer has it."""
    ratios = rlrs.layer_decay(model, factor)
    groups = rlrs.param_groups(model, ratios, lr=1.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: ratios.get(g["component"], rlrs.Ratio.of(1)).start for g in groups for p in g["params"]}


# Layer-wise decay: the scales of timm's `param_groups_layer_decay`, from the groups that its models declare.


def block(width):
    attention = named(qkv=linear(width, 3 * width), proj=linear(width, width))
    mlp = named(fc1=linear(width, 4 * width), fc2=linear(4 * width, width))
    return named(norm1=nn.LayerNorm(width), attn=attention, norm2=nn.LayerNorm(width), mlp=mlp)


def vit(depth=3, width=16):
    model = named(
        patch_embed=named(proj=nn.Conv2d(3, width, 4, 4)),
        blocks=nn.Sequential(*[block(width) for _ in range(depth)]),
        norm=nn.LayerNorm(width),
        head=linear(width, 10),
    )
    model.cls_token = nn.Parameter(torch.zeros(1, 1, width))
    model.pos_embed = nn.Parameter(torch.zeros(1, 5, width))
    return model


def swin(depths=(1, 2, 1), width=16):
    """As timm has it: a merge begins every stage but the first."""
    stages = []
    for index, depth in enumerate(depths):
        blocks = nn.Sequential(*[block(width * 2**index) for _ in range(depth)])
        wide = width * 2**index
        merge = {"downsample": named(norm=nn.LayerNorm(2 * wide), reduction=linear(2 * wide, wide))} if index else {}
        stages.append(named(**merge, blocks=blocks))
    return named(
        patch_embed=named(proj=nn.Conv2d(3, width, 4, 4), norm=nn.LayerNorm(width)),
        layers=nn.Sequential(*stages),
        norm=nn.LayerNorm(width * 2 ** (len(depths) - 1)),
        head=named(fc=linear(width * 2 ** (len(depths) - 1), 10)),
    )


VIT = [(r"^(cls_token|pos_embed|patch_embed)", (-1,)), (r"^blocks\.(\d+)", ()), (r"^head", (math.inf,))]
SWIN = [
    (r"^patch_embed", (-1,)),
    (r"^layers\.(\d+)\.downsample", (0,)),
    (r"^layers\.(\d+)\.\w+\.(\d+)", ()),
    (r"^head", (math.inf,)),
]
"""What timm's `group_matcher` of these models says: numbers in the name, and what is put after them. The final norm is
in the last layer's group there; it is above the layers here, as in BEiT's own code."""


def timms(model, groups, factor):
    """`factor ** (last group - group)`, groups numbered in their order: timm/optim/_param_groups.py."""
    place = {}
    for name in (name for name, _ in model.named_parameters() if not name.startswith("norm.")):
        pattern, after = next((pattern, after) for pattern, after in groups if re.match(pattern, name))
        numbers = tuple(int(part) for part in re.match(pattern, name).groups() if part.isdigit())
        place[name] = (*after, *numbers) if after in ((-1,), (math.inf,)) else (*numbers, *after)
    order = sorted(set(place.values()))
    return {name: factor ** (len(order) - 1 - order.index(at)) for name, at in place.items()}


@pytest.mark.parametrize(("model", "groups"), [(vit(), VIT), (swin(), SWIN)], ids=["vit", "swin"])
def test_layer_decay_is_that_of_timm(model, groups):
    found = factors(model, 0.75)
    assert {found.pop(f"norm.{name}") for name in ("weight", "bias")} == {1.0}
    assert found == pytest.approx(timms(model, groups, 0.75), rel=1e-12)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "resnet18"])
def test_layer_decay_is_that_of_timm_itself(name):
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        model = timm.create_model(name)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    expected = {
        names[id(p)]: g["lr_scale"] for g in param_groups_layer_decay(model, layer_decay=0.75) for p in g["params"]
    }
    found, final = factors(model, 0.75), ("norm.weight", "norm.bias")
    assert [found[n] for n in expected if n not in final] == pytest.approx(
        [scale for n, scale in expected.items() if n not in final], rel=1e-12
    )


def test_towers_have_factors_of_their_own():
    model = build_llava(text_layers=3, vision_layers=2)
    found = factors(model, {"vision_tower": 0.5, "language_model": 0.9})
    assert found["model.vision_tower.embeddings.patch_embedding.weight"] == 0.5**3
    assert found["model.vision_tower.encoder.layers.0.mlp.fc1.weight"] == 0.5**2
    assert found["model.language_model.layers.0.self_attn.q_proj.weight"] == pytest.approx(0.9**3)
    assert found["model.language_model.embed_tokens.weight"] == pytest.approx(0.9**4)
    assert found["model.multi_modal_projector.linear_1.weight"] == found["lm_head.weight"] == 1
    assert {v for n, v in factors(model, {"vision_tower": 0.5}).items() if "language_model" in n} == {1}


def test_what_two_towers_share_has_a_factor_of_its_own():
    model = build("t5", num_decoder_layers=4)
    found = factors(model, {"encoder": 0.5, "decoder": 0.9, "shared": 0.8})
    assert found["shared.weight"] == pytest.approx(0.8**5)
    assert found["encoder.block.0.layer.0.SelfAttention.q.weight"] == 0.25
    assert found["decoder.block.3.layer.1.EncDecAttention.q.weight"] == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"shared.weight is below several towers, .* give one for it too, as 'shared'"):
        rlrs.layer_decay(model, {"encoder": 0.5})
    with pytest.raises(ValueError, match="no tower 'encode'; its towers are decoder, encoder, shared"):
        rlrs.layer_decay(model, {"encode": 0.5})
    with pytest.raises(ValueError, match="factor of encoder should be above 0, not 0"):
        rlrs.layer_decay(model, {"encoder": 0, "shared": 1})
    with pytest.raises(ValueError, match="has one tower: give layer_decay one factor"):
        rlrs.layer_decay(build("llama"), {"decoder": 0.5})


# Rows of new tokens.

OLD, NEW, WIDTH = 10, 3, 4


def language_model(*, tied=False, bias=True, seed=0):
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, OLD + NEW, bias=bias)
    model = named(embed_tokens=nn.Embedding(OLD + NEW, WIDTH), types=nn.Embedding(2, WIDTH), lm_head=head).double()
    if tied:
        model.lm_head.weight = model.embed_tokens.weight
    return model


def train(model, ratios, steps=8, make=torch.optim.AdamW, **options):
    optimizer = make(rlrs.param_groups(model, ratios, lr=0.05, weight_decay=0.3), **options)
    scheduler = rlrs.RelativeLR(optimizer, ratios, **SETTINGS)
    for step in range(steps):
        gradients(model, step)
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


def gradients(model, step):
    noise = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_new_rows_train_as_if_they_were_tensors_of_their_own(options):
    """Against AdamW over the rows apart, rates set by hand from the paper's formula, with weight decay and moments."""
    ratios = rlrs.new_tokens(language_model(), OLD, (3.0, 0.5), {"embedding": (0.5, 2.0)})
    model, single = language_model(), language_model()
    optimizer, _ = train(model, ratios, **options)
    sliced = {n: p for n, p in single.named_parameters() if n != "types.weight"}
    own = {
        (n, new): (p[OLD:] if new else p[:OLD]).detach().clone().requires_grad_()
        for n, p in sliced.items()
        for new in (0, 1)
    }
    own["types.weight", 0] = single.types.weight
    old = {"embed_tokens.weight": (0.5, 2.0), "types.weight": (0.5, 2.0)}
    by_hand = torch.optim.AdamW(
        {"params": [p], "weight_decay": 0.0 if "bias" in n else 0.3, "ends": (3.0, 0.5) if new else old.get(n, (1, 1))}
        for (n, new), p in own.items()
    )
    for step in range(8):
        gradients(single, step)
        for (n, new), p in own.items():
            if n in sliced:
                p.grad = (sliced[n].grad[OLD:] if new else sliced[n].grad[:OLD]).clone()
        for group in by_hand.param_groups:
            start, end = 0.05 * group["ends"][0], 0.05 * 0.1 * group["ends"][1]
            cosine = end + 0.5 * (start - end) * (1 + math.cos(math.pi * (step - 2) / 6))
            group["lr"] = start * (step + 1) / 2 if step < 2 else cosine
        by_hand.step()
    for (n, new), p in own.items():
        rows = model.get_parameter(n)
        part = rows if n not in sliced else rows[OLD:] if new else rows[:OLD]
        torch.testing.assert_close(part, p, rtol=1e-12, atol=1e-12)
        moment = optimizer.state[rows]["exp_avg_sq"]
        part = moment if n not in sliced else moment[OLD:] if new else moment[:OLD]
        assert torch.equal(part, by_hand.state[p]["exp_avg_sq"])


def test_old_tokens_at_ratio_0_stay_as_they_are_to_the_bit():
    model = language_model(tied=True, bias=False)
    before = model.embed_tokens.weight.detach().clone()
    ratios = rlrs.new_tokens(model, OLD, 1.0, {"embedding": 0.0})
    assert list(ratios) == ["embedding", f"embedding/token.{OLD}-"]  # the head is the table
    assert ratios.provenance["new_tokens"] == OLD
    _, scheduler = train(model, ratios)
    assert torch.equal(model.embed_tokens.weight[:OLD], before[:OLD])
    assert (model.embed_tokens.weight[OLD:] != before[OLD:]).all()
    assert scheduler.relative_rates()[f"embedding/token.{OLD}-"] == 1.0


def test_of_a_tied_head_with_a_bias_the_bias_has_the_rows_and_a_padded_head_its_own():
    ratios = rlrs.new_tokens(language_model(tied=True), OLD, 5.0)
    assert list(ratios) == [f"embedding/token.{OLD}-", f"unembedding/token.{OLD}-"]
    bert = build("bert", tie_word_embeddings=True)  # its head has a transform, whose rows are no tokens
    groups = rlrs.param_groups(bert, rlrs.new_tokens(bert, 90, 5.0), lr=1.0)
    names = {id(parameter): name for name, parameter in bert.named_parameters()}
    assert {names[id(p)] for group in groups if "slices" in group for p in group["params"]} == {
        "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
    }  # fmt: skip
    padded = named(embed_tokens=nn.Embedding(13, WIDTH), lm_head=nn.Linear(WIDTH, 16))
    slices = [
        group["slices"] for group in rlrs.param_groups(padded, rlrs.new_tokens(padded, OLD, 5.0)) if "slices" in group
    ]
    assert [own[0][1:] for own in slices] == [[10, 13, 13], [10, 16, 16], [10, 16, 16]]


def test_a_resized_model_of_transformers_learns_its_new_tokens_alone():
    config = transformers.LlamaConfig(
        vocab_size=OLD, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    model.resize_token_embeddings(OLD + NEW)
    frozen = dict.fromkeys(("embedding", "unembedding", "attention", "feed_forward", "norm"), 0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, rlrs.new_tokens(model, OLD, 1.0, frozen), steps=3)
    for name, parameter in model.named_parameters():
        moved = (parameter != before[name]).flatten(1).any(1) if parameter.ndim > 1 else parameter != before[name]
        whole = name in ("model.embed_tokens.weight", "lm_head.weight")
        assert moved.tolist() == [whole and row >= OLD for row in range(len(moved))]


def test_verify_finds_the_rates_of_new_tokens_real():
    model = language_model().float()
    ratios = rlrs.new_tokens(model, OLD, 5.0, {"embedding": 0.5})
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=0.01, weight_decay=0.1))
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=20)
    with rlrs.verify(model, optimizer, scheduler=scheduler) as check:
        for step in range(3):
            gradients(model, step)
            optimizer.step()
            scheduler.step()
    assert check.report.ok, check.report


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("embedding/token.13-", r"'embedding/token.13-' holds no parameter: embedding has tokens 0 to 12"),
        ("embedding/tokens.3", r"should look like .* or embedding/token.32000-"),
        ("unembedding/token.3", r"unembedding is tied to another component: write the ratio for that"),
        ("embedding/encoder.token.3", "should look like"),
    ],
)
def test_rows_that_cannot_be_are_one_line(key, message):
    with pytest.raises(rlrs.PartitionError, match=message):
        rlrs.param_groups(language_model(tied=True, bias=False), {key: 2.0}, lr=1.0)


def test_what_has_no_rows_of_its_own_is_one_line():
    model = language_model()
    with pytest.raises(rlrs.PartitionError, match="both by layer and by token; choose one"):
        rlrs.param_groups(model, {"embedding/below": 2, "embedding/token.3": 2}, lr=1.0)
    keys = {"embedding/token.3": 2}
    with pytest.raises(ValueError, match="per expert or token of one tensor: a tensor has one weight decay"):
        rlrs.param_groups(model, keys, lr=1.0, weight_decay=0.1, decay="independent")
    with pytest.raises(ValueError, match="Linear has no embedding, whose rows"):
        rlrs.new_tokens(nn.Linear(2, 2), 1, 2.0)
    with pytest.raises(rlrs.PartitionError, match=r"token.13-' holds no parameter"):
        rlrs.new_tokens(model, 13, 2.0)


def test_a_table_that_was_flattened_is_refused_at_the_first_step():
    model = language_model()
    optimizer, _ = train(model, rlrs.new_tokens(model, OLD, 2.0), steps=1)
    table = model.embed_tokens.weight
    table.data, table.grad = table.data.flatten(), table.grad.flatten()
    optimizer.state[table] = {k: v.flatten() if v.ndim else v for k, v in optimizer.state[table].items()}
    with pytest.raises(RuntimeError, match=r"'embedding/token.10-' the first, of 13, .* it was flattened"):
        optimizer.step()


# Width.


def test_the_ratio_of_the_embedding_grows_with_a_power_of_the_width():
    for width, exponent, expected in ((64, 0.5, 2.0), (64, 1.0, 4.0), (16, 0.5, 1.0)):
        model = build("llama", hidden_size=width)
        ratios = rlrs.mup_width(model, 16, {"embedding": (5.0, 0.5), "attention": 0.3}, exponent=exponent)
        assert ratios["embedding"].knots == ((0.0, 5.0 * expected), (1.0, 0.5 * expected))
        assert ratios["attention"].start == 0.3
        assert ratios.provenance["mup_width"] == {"width": width, "base_width": 16, "exponent": exponent}
    with pytest.raises(ValueError, match="base_width should be above 0, not 0"):
        rlrs.mup_width(model, 0)
    with pytest.raises(ValueError, match="has no table of a vocabulary"):
        rlrs.mup_width(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)), 16)
