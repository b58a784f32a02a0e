"""The groups of nanochat and modded-nanogpt, as their own code has them."""

import pytest
import torch
from torch import nn

import rlrs
from architectures import linear, named

# What nanochat's setup_optimizer gives each parameter, at a width: optimizer, rate, betas, decay.
WIDTH, HEADS, VOCABULARY = 192, 4, 128


def nanochat(width=WIDTH):
    def block(gated):
        attention = named(**{name: linear(width, width) for name in ("c_q", "c_k", "c_v", "c_proj")})
        if gated:
            attention.ve_gate = linear(12, HEADS)
        return named(attn=attention, mlp=named(c_fc=linear(width, 4 * width), c_proj=linear(4 * width, width)))

    body = nn.ModuleDict({"wte": nn.Embedding(VOCABULARY, width), "h": nn.ModuleList([block(False), block(True)])})
    model = named(transformer=body, lm_head=linear(width, VOCABULARY), smear_gate=linear(24, 1))
    for name, size in (("resid_lambdas", 2), ("x0_lambdas", 2), ("smear_lambda", 1), ("backout_lambda", 1)):
        setattr(model, name, nn.Parameter(torch.ones(size)))
    model.value_embeds = nn.ModuleDict({"1": nn.Embedding(VOCABULARY, width)})
    return model


def nanochats(name, width):
    """karpathy/nanochat, commit 92d63d4, nanochat/gpt.py."""
    scale = (width / 768) ** -0.5
    if name.startswith("transformer.h."):
        return "muon", 0.02, None, 0.3
    return {
        "lm_head": ("adamw", 0.004 * scale, (0.8, 0.96), 0.01),
        "transformer": ("adamw", 0.2 * scale, (0.8, 0.995), 0.001),
        "value_embeds": ("adamw", 0.2 * scale * 0.5, (0.8, 0.995), 0.01),
        "resid_lambdas": ("adamw", 0.5 * 0.01, (0.8, 0.95), 0.05),
        "x0_lambdas": ("adamw", 0.5, (0.96, 0.95), 0.0),
    }.get(name.partition(".")[0], ("adamw", 0.2, (0.8, 0.95), 0.0))


def modded():
    model = named(embed=nn.Embedding(64, 16), lm_head=linear(16, 64), smear_gate=linear(12, 1))
    model.bigram_embed = nn.Embedding(128, 16)
    shapes = {"qk_bank": (4, 32, 16), "vo_bank": (4, 32, 16), "mlp_bank": (4, 64, 16), "ve_gate_bank": (2, 2, 12)}
    shapes |= {"value_embeds": (2, 64, 16), "scalars": (8,), "resid_lambdas": (4, 2), "post_lambdas": (4, 2, 2)}
    shapes |= {"mudd_w1": (3, 16, 8), "mudd_w2": (3, 8, 4), "mudd_b2": (3, 4), "mudd_gate_w1": (3, 16, 8)}
    shapes |= {"mudd_gate_w2": (3, 8, 4), "mudd_gate_b2": (3, 4), "_mudd_gate_scale": (3,)}
    for name, shape in shapes.items():
        setattr(model, name, nn.Parameter(torch.ones(shape)))
    return model


def moddeds(name, width):
    """KellerJordan/modded-nanogpt, commit f411b3d, train_gpt.py: 0.023 and 0.008, times `lr_mul`; 0.005 `wd_mul`."""
    label = name.replace(".weight", "")
    if label in ("qk_bank", "vo_bank", "mlp_bank"):
        return "muon", 0.023, None, 0.3
    times = dict.fromkeys(("value_embeds", "bigram_embed"), (75.0, 5.0)) | dict.fromkeys(("embed", "lm_head"), (1, 150))
    times |= dict.fromkeys(("scalars", "resid_lambdas"), (5.0, 0.0)) | {"post_lambdas": (1.0, 0.0)}
    times |= {"smear_gate": (0.01, 0.0), "ve_gate_bank": (1.0, 1.0), "mudd_b2": (0.25, 0.0)}
    times |= dict.fromkeys(("mudd_w1", "mudd_w2"), (0.25, 1.0)) | dict.fromkeys(
        ("mudd_gate_w1", "mudd_gate_w2"), (0.1, 1)
    )
    times |= dict.fromkeys(("mudd_gate_b2", "_mudd_gate_scale"), (0.1, 0.0))
    betas = dict.fromkeys(("lm_head", "embed"), (0.5, 0.95)) | dict.fromkeys(
        ("bigram_embed", "value_embeds"), (0.75, 0.95)
    )
    betas |= dict.fromkeys(("post_lambdas", "resid_lambdas"), (0.9, 0.95))
    rate, decay = times[label]
    return "adamw", 0.008 * rate, betas.get(label, (0.9, 0.99)), 0.005 * decay


@pytest.mark.parametrize(
    ("name", "model", "theirs"),
    [
        ("nanochat", nanochat(), nanochats),
        ("nanochat", nanochat(768), nanochats),
        ("modded-nanogpt", modded(), moddeds),
    ],
)
def test_every_parameter_has_their_optimizer_rate_betas_and_decay(name, model, theirs):
    preset = rlrs.muon_preset(name, model)
    groups = dict(zip(("muon", "adamw"), preset.groups(model, muon_decay=0.3), strict=True))
    optimizers = [torch.optim.SGD(groups["muon"]), torch.optim.AdamW(groups["adamw"])]
    rlrs.RelativeLR(optimizers, preset.ratios, total_steps=10, schedule="constant")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(p)]: (kind, g["lr"], g.get("betas") if kind == "adamw" else None, g["weight_decay"])
        for kind, optimizer in zip(groups, optimizers, strict=True)
        for g in optimizer.param_groups
        for p in g["params"]
    }
    assert list(found) != []
    width = model.get_parameter("transformer.wte.weight" if name == "nanochat" else "embed.weight").shape[1]
    for parameter, _ in model.named_parameters():
        kind, rate, betas, decay = theirs(parameter, width)
        assert found[parameter] == (kind, pytest.approx(rate, rel=1e-12), betas, pytest.approx(decay)), parameter
    assert len(found) == len(names)


def test_what_is_no_model_of_theirs_is_one_line():
    with pytest.raises(ValueError, match="there is no preset 'nanogpt' for Muon; there are nanochat, modded-nanogpt"):
        rlrs.muon_preset("nanogpt", modded())
    with pytest.raises(ValueError, match=r"Module has no parameter .*wte.*: it is no nanochat"):
        rlrs.muon_preset("nanochat", modded())
    model = nanochat()
    model.transformer.h[0].norm = nn.LayerNorm(WIDTH)
    with pytest.raises(ValueError, match=r"h.0.norm.weight is in no group of nanochat, and Muon trains matrices alone"):
        rlrs.muon_preset("nanochat", model)
