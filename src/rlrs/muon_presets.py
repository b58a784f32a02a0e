"""Groups of public recipes that train matrices with Muon and the rest with AdamW: nanochat's and modded-nanogpt's.

Which parameter is in which group, and the groups' rates, betas and decays are theirs. Their optimizers are variants of
Muon and AdamW of their own, and so are their schedules: those are not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from rlrs.components import Rule, canonical_name, partition, vocabulary_rows
from rlrs.param_groups import param_groups, split_groups
from rlrs.ratios import Ratios


class _Group(NamedTuple):
    """One group of AdamW's: the names in it, its rate over the base rate, and what else it has."""

    pattern: str
    ratio: float
    betas: tuple[float, float]
    decay: float
    by_width: bool = False


# karpathy/nanochat, commit 92d63d4, nanochat/gpt.py, setup_optimizer: rates over that of the matrices, 0.02.
_NANOCHAT = {
    "unembedding": _Group(r"^lm_head\.", 0.004 / 0.02, (0.8, 0.96), 0.01, by_width=True),
    "embedding": _Group(r"^transformer\.wte\.", 0.2 / 0.02, (0.8, 0.995), 0.001, by_width=True),
    "value_embedding": _Group(r"^value_embeds\.", 0.1 / 0.02, (0.8, 0.995), 0.01, by_width=True),
    "resid_lambdas": _Group(r"^resid_lambdas$", 0.005 / 0.02, (0.8, 0.95), 0.05),
    "x0_lambdas": _Group(r"^x0_lambdas$", 0.5 / 0.02, (0.96, 0.95), 0.0),
    "smear": _Group(r"^(?:smear_gate\.weight|smear_lambda|backout_lambda)$", 0.2 / 0.02, (0.8, 0.95), 0.0),
}
# KellerJordan/modded-nanogpt, commit f411b3d, train_gpt.py, param_table: rates over Adam's 0.008, decays of 0.005.
_MODDED_NANOGPT = {
    "unembedding": _Group(r"^lm_head\.", 1.0, (0.5, 0.95), 150 * 0.005),
    "embedding": _Group(r"^embed\.", 1.0, (0.5, 0.95), 150 * 0.005),
    "value_embedding": _Group(r"^value_embeds(?:\.|$)", 75.0, (0.75, 0.95), 5 * 0.005),
    "bigram_embedding": _Group(r"^bigram_embed\.", 75.0, (0.75, 0.95), 5 * 0.005),
    "scalars": _Group(r"^scalars$", 5.0, (0.9, 0.99), 0.0),
    "resid_lambdas": _Group(r"^resid_lambdas$", 5.0, (0.9, 0.95), 0.0),
    "post_lambdas": _Group(r"^post_lambdas$", 1.0, (0.9, 0.95), 0.0),
    "smear_gate": _Group(r"^smear_gate\.", 0.01, (0.9, 0.99), 0.0),
    "value_embedding_gate": _Group(r"^ve_gate_bank$", 1.0, (0.9, 0.99), 0.005),
    "mudd": _Group(r"^mudd_w[12]$", 0.25, (0.9, 0.99), 0.005),
    "mudd_bias": _Group(r"^mudd_b2$", 0.25, (0.9, 0.99), 0.0),
    "mudd_gate": _Group(r"^mudd_gate_w[12]$", 0.1, (0.9, 0.99), 0.005),
    "mudd_gate_scale": _Group(r"^(?:mudd_gate_b2|_mudd_gate_scale)$", 0.1, (0.9, 0.99), 0.0),
}
_TABLES: dict[str, tuple[float, float, Mapping[str, _Group]]] = {
    "nanochat": (0.02, 0.02, _NANOCHAT),
    "modded-nanogpt": (0.008, 0.023, _MODDED_NANOGPT),
}
_TUNED_WIDTH = 768
"""Width that nanochat's rates of AdamW are stated for; they go with the inverse of its square root."""


@dataclass(frozen=True)
class MuonPreset:
    """A recipe's groups for one model; what its table does not name is Muon's."""

    lr: float
    """Base rate, of which `ratios` are multiples."""
    muon_lr: float
    """Rate of the matrices that Muon trains."""
    ratios: Ratios
    """Of AdamW's components; held."""
    rules: tuple[Rule, ...]
    betas: Mapping[str, tuple[float, float]]
    """Component -> AdamW's betas."""
    decays: Mapping[str, float]
    """Component -> weight decay, vectors included."""

    def groups(self, model: nn.Module, *, muon_decay: float = 0.0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Groups for Muon and for AdamW, which one `RelativeLR` drives.

        Args:
            model: that the preset was made for.
            muon_decay: weight decay of the matrices.
        """
        made = param_groups(model, self.ratios, lr=self.lr, weight_decay=muon_decay, rules=self.rules)
        muon, adamw = split_groups(made, lambda group, _: group["component"] not in self.betas, lr=self.muon_lr)
        for group in adamw:
            component = group["component"]
            group |= {"betas": self.betas[component], "eps": 1e-10, "weight_decay": self.decays[component]}
        return muon, adamw


def muon_preset(name: Literal["nanochat", "modded-nanogpt"], model: nn.Module) -> MuonPreset:
    """The groups of nanochat or of modded-nanogpt for a model of theirs, or of their parameters' names.

    Args:
        name: `nanochat` (rates of embeddings and head by one over the square root of width / 768), or `modded-nanogpt`.
        model: on any device; groups that it has no parameter for are left out.

    Raises:
        ValueError: another name, a model that has none of the recipe's parameters, or one that has vectors which its
            table does not name and Muon cannot train.

    Examples:
        >>> body = nn.ModuleDict({"wte": nn.Embedding(64, 768), "h": nn.ModuleList([nn.Linear(768, 768, bias=False)])})
        >>> model = nn.ModuleDict({"transformer": body, "lm_head": nn.Linear(768, 64, bias=False)})
        >>> preset = muon_preset("nanochat", model)
        >>> muon, adamw = preset.groups(model)
        >>> for group in adamw:
        ...     print(group["name"], group["lr"] * preset.ratios[group["component"]].start)
        embedding 0.2
        unembedding 0.004
    """
    if name not in _TABLES:
        raise ValueError(f"there is no preset {name!r} for Muon; there are {', '.join(_TABLES)}")
    lr, muon_lr, table = _TABLES[name]
    rules = [Rule(component, group.pattern) for component, group in table.items()]
    parts, names = partition(model, rules, partial=True), [canonical_name(n) for n, _ in model.named_parameters()]
    there = {c: group for c, group in table.items() if any(re.search(group.pattern, name) for name in names)}
    if "embedding" not in there:
        raise ValueError(f"{type(model).__name__} has no parameter {table['embedding'].pattern}: it is no {name}")
    vectors = [n for c in parts if c not in there for n in parts[c] if model.get_parameter(n).ndim < 2]
    if vectors:
        raise ValueError(
            f"{vectors[0]} is in no group of {name}, and Muon trains matrices alone: give it a rule and AdamW"
        )
    scale = (_width(model, parts["embedding"]) / _TUNED_WIDTH) ** -0.5
    ratios = {component: group.ratio * (scale if group.by_width else 1.0) for component, group in there.items()}
    return MuonPreset(
        lr=lr,
        muon_lr=muon_lr,
        ratios=Ratios(ratios, {"preset": name}),
        rules=tuple(rule for rule in rules if rule.component in there),
        betas={component: group.betas for component, group in there.items()},
        decays={component: group.decay for component, group in there.items()},
    )


def _width(model: nn.Module, names: Sequence[str]) -> int:
    shapes = [tuple(model.get_parameter(name).shape) for name in names]
    return next(shape[1] for shape in shapes if len(shape) == 2 and shape[0] == vocabulary_rows(shapes))
