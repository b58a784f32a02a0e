"""The partition of a model's parameters into components: total, disjoint, and explained.

A *component* is a named set of parameters that shares one relative learning rate. `partition` decides for every
parameter by, in this order: the user's rules; the module that owns it (embedding table, attention, feed-forward,
experts, router, norm, head); the structure around it (shapes, children, what stands beside it); its name. What stays
unsure goes to `other`, with the reason and the rule that would settle it.

Decisions where the field has no single answer:

- A bias belongs to the component of its layer; `undecayed` keeps weight decay off it.
- The gate of a shared expert (`shared_expert_gate`) is `shared_experts`: it scales one output, it routes nothing.
- `norm` is every normalisation, QK norms and per-channel scales of a residual branch (layer scale) included.
- `ssm` is every mixer with a recurrent state (Mamba, gated delta net, RG-LRU, RWKV, LSTM), its short convolution
  included; `conv` is convolution that no such block owns. Linear attention without a learned decay is `attention`.
- `embedding` also holds patch projections and learned tokens (`cls_token`); `position` every learned position.
- `unembedding` is the whole output head: language-model head, classifier, a prediction head's transform, a pooler.
- `vision` and `audio` are the *separate* towers of a multimodal model, norms included; `connector` is what joins them
  to the language model (projector, merger, resampler, query transformer). A model that is nothing but a vision or
  speech encoder has attention, feed_forward, ... of its own.
- Two names of one (tied) weight are one parameter; a tied embedding and unembedding is `embedding`, with one rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from rlrs.components.adapters import adapter_names
from rlrs.components.layers import Depth
from rlrs.components.module_tree import Placement, is_vector, path_steps
from rlrs.components.ownership import judge

COMPONENTS = (
    "embedding",
    "position",
    "attention",
    "feed_forward",
    "experts",
    "shared_experts",
    "router",
    "norm",
    "unembedding",
    "ssm",
    "conv",
    "vision",
    "audio",
    "connector",
    "adapter",
    "other",
)
"""Standard components, in the order in which a `Partition` lists them; rules may name further ones."""

# arXiv:2507.03526, section 2. Shared experts see every token, as a dense feed-forward does.
_COARSE = {
    "embedding": "embedding",
    "unembedding": "unembedding",
    "attention": "attention",
    "feed_forward": "feed_forward",
    "shared_experts": "feed_forward",
    "experts": "experts",
    "router": "router",
}

# Of torch's weight norm: `parametrizations.weight.original0`, in its old form `weight_g`; a user's `...weight.0.gain`.
_MAGNITUDE = re.compile(r"\.parametrizations\.[^.]+\.(?:original0|\d+\..+)$|weight\w*_g$")


class PartitionError(ValueError):
    """Rules that cannot be applied to this model; the message names the rule and says what is wrong with it."""


@dataclass(frozen=True)
class Rule:
    """The parameters whose canonical name `pattern` is found in (`re.search`) belong to `component`.

    Args:
        component: one of `COMPONENTS`, or a new name of letters, digits and `_ . / -`.
        pattern: regular expression, searched in `canonical_name(parameter)`.
        name: used in messages and reasons; the pattern, if not given.

    Raises:
        PartitionError: not a component's name, a near miss of a standard one, or not a regular expression.
    """

    component: str
    pattern: str
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.pattern)
        if not re.fullmatch(r"[A-Za-z][\w./-]*", self.component):
            raise PartitionError(
                f"rule {self.name!r}: component={self.component!r} is not a name (letters, digits, _ . / -)"
            )
        near = next((c for c in COMPONENTS if _plain(c) == _plain(self.component)), self.component)
        if near != self.component:
            raise PartitionError(f"rule {self.name!r}: component={self.component!r}; did you mean {near!r}?")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise PartitionError(
                f"rule {self.name!r}: pattern={self.pattern!r} is not a regular expression: {error}"
            ) from None


def _plain(component: str) -> str:
    return re.sub(r"[^a-z0-9]", "", component.lower()).rstrip("s")


@dataclass(frozen=True, eq=False)
class Partition(Mapping[str, list[str]]):
    """Component name -> parameter names, exactly as `model.named_parameters()` gives them.

    Components come in the order of `COMPONENTS`, then those that only rules name; components without a parameter are
    absent. Parameters keep the model's order. Frozen parameters are part of it.
    """

    components: dict[str, list[str]]
    reasons: dict[str, str]
    """Parameter -> the evidence that decided: `rule ...`, `owner: ...`, `structure: ...`, `name: ...`."""
    tied: dict[str, list[str]] = field(default_factory=dict)
    """Parameter -> the other names of the same tensor, for tied weights."""
    unsure: dict[str, str] = field(default_factory=dict)
    """Parameter -> why nothing decided, for what landed in `other` without a rule."""
    tied_components: tuple[str, ...] = ()
    """Components that are absent only because all their weights are tied to another's: they share its rate."""
    depths: dict[str, Depth] = field(default_factory=dict)
    """Parameter -> its place among the layers of its tower; empty for a model without layers."""

    def __getitem__(self, component: str) -> list[str]:
        return self.components[component]

    def __iter__(self) -> Iterator[str]:
        return iter(self.components)

    def __len__(self) -> int:
        return len(self.components)

    def component_of(self) -> dict[str, str]:
        """Parameter name -> component: the partition read the other way.

        >>> partition(nn.Sequential(nn.Embedding(4, 2), nn.LayerNorm(2))).component_of()
        {'0.weight': 'embedding', '1.weight': 'norm', '1.bias': 'norm'}
        """
        return {name: component for component, names in self.components.items() for name in names}

    def suggestions(self) -> list[str]:
        """One rule per kind of unsure parameter (layers of a stack are one kind), for the user to complete.

        >>> partition(nn.Sequential(nn.Linear(2, 2, bias=False))).suggestions()
        ['Rule("COMPONENT", r"^\\\\d+\\\\.weight$")']
        """
        return list(dict.fromkeys(suggest_rule(name) for name in self.unsure))


def partition(
    model: nn.Module,
    rules: Iterable[Rule] = (),
    *,
    adapters: Literal["follow", "own"] = "follow",
    partial: bool = False,
) -> Partition:
    """Put every parameter of `model` in exactly one component.

    Examples:
        >>> model = nn.TransformerEncoderLayer(d_model=8, nhead=2, dim_feedforward=16)
        >>> parts = partition(model)
        >>> list(parts), parts["feed_forward"][:2]
        (['attention', 'feed_forward', 'norm'], ['linear1.weight', 'linear1.bias'])
        >>> parts.reasons["linear1.weight"]
        'structure: one width to a larger one and back, feed-forward linear1'
        >>> list(partition(model, [Rule("early", "linear1")]))
        ['attention', 'feed_forward', 'norm', 'early']

    Args:
        model: any module, wrapped (DDP, FSDP, compile, checkpoint, PEFT) or not, on any device, meta included.
        rules: come before all else, in order; the first that matches wins.
        adapters: LoRA and other adapter weights `follow` the layer they adapt, or are a component of their `own`
            (`adapter`). Whole copies (`modules_to_save`) always follow.
        partial: the model is one pipeline stage, where a rule may match nothing because its parameters are elsewhere.
            A head that is tied to the table of another stage is `embedding`, so that both copies have one rate, where
            the model says so (`config.tie_word_embeddings` of transformers, `share_embeddings_and_output_weights` of
            Megatron-LM); elsewhere a rule does: `Rule("embedding", "^output")`.

    Raises:
        PartitionError: a rule matches no parameter (not if `partial`), or only what earlier rules already took.
    """
    rules = tuple(rules)
    if adapters not in ("follow", "own"):
        raise PartitionError(f"adapters={adapters!r} should be 'follow' or 'own'")
    kept = [name for name, _ in model.named_parameters()]
    tied = _tied(model)
    placements, depths = judge(model)
    if partial and _shares_table(model):
        _tie_across_stages(model, placements)
    added = adapter_names(model) if adapters == "own" else set()
    ruled = _apply_rules(rules, kept, tied, partial)

    placed: dict[str, list[str]] = {component: [] for component in COMPONENTS}
    reasons: dict[str, str] = {}
    unsure: dict[str, str] = {}
    for name in kept:
        if name in ruled:
            component, reasons[name] = ruled[name].component, f"rule {ruled[name].name}"
        elif added.issuperset((name, *tied.get(name, ()))):
            component, reasons[name] = "adapter", "structure: added to the model by an adapter"
        else:
            component, reasons[name] = _settle(name, tied.get(name, []), placements)
            if component == "other":
                unsure[name] = reasons[name]
        placed.setdefault(component, []).append(name)

    shared = {placements[name].component for kept_name, names in tied.items() for name in (kept_name, *names)}
    if any(placement.reason.startswith(_ACROSS) for placement in placements.values()):
        shared.add("unembedding")
    tied_components = tuple(c for c, names in placed.items() if c in shared and not names)
    # A tensor that several layers share is as deep as the lowest of them.
    lowest = {n: max((depths[m] for m in (n, *tied.get(n, ()))), key=lambda d: d.height) for n in kept if n in depths}
    result = Partition(
        {c: names for c, names in placed.items() if names}, reasons, tied, unsure, tied_components, lowest
    )
    assert sorted(n for names in result.values() for n in names) == sorted(kept), "not total and disjoint"
    return result


def _tied(model: nn.Module) -> dict[str, list[str]]:
    """The name that `named_parameters()` keeps -> the other names of the same tensor, by identity."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {first: rest for first, *rest in names.values() if rest}


_ACROSS = "owner: the table's copy on the last stage"


def _shares_table(model: nn.Module) -> bool:
    """Whether the model itself says that its head is its embedding (transformers' config, Megatron-LM's flag)."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(module, "share_embeddings_and_output_weights", False):
            return True
        if config is not None and hasattr(config, "tie_word_embeddings"):
            return bool(config.tie_word_embeddings)
    return False


def _tie_across_stages(model: nn.Module, placements: dict[str, Placement]) -> None:
    """On a stage of a pipeline that has the head and not the table, the head's matrix is the table's copy."""
    matrices = {n: p.shape for n, p in model.named_parameters(remove_duplicate=False) if not is_vector(p)}
    tables = {shape for name, shape in matrices.items() if placements[name].component == "embedding"}
    heads = {name: shape for name, shape in matrices.items() if placements[name].component == "unembedding"}
    rows = max((shape[0] for shape in heads.values()), default=0)
    for name, shape in heads.items():
        if shape[0] == rows and shape not in tables:  # not the transform before a head, nor a pooler
            placements[name] = Placement("embedding", f"{_ACROSS}: tied to the first stage's")


def _settle(name: str, aliases: list[str], placements: Mapping[str, Placement]) -> tuple[str, str]:
    """The component of a parameter; of a tied one, the first in the order of `COMPONENTS` among its names'."""
    options = [(placements[n], n) for n in (name, *aliases)]
    (placement, winner) = min(options, key=lambda option: COMPONENTS.index(option[0].component))
    losers = {p.component: n for p, n in options if p.component != placement.component}
    if not losers:
        return placement
    other = ", ".join(f"{n} ({component})" for component, n in losers.items())
    as_what = "" if winner == name else f" as {winner}"
    return placement.component, f"{placement.reason}{as_what}; one weight, one rate: tied with {other}"


def _apply_rules(
    rules: tuple[Rule, ...], names: list[str], tied: Mapping[str, list[str]], partial: bool
) -> dict[str, Rule]:
    """Parameter -> its rule; complains of rules that decide nothing."""
    canonical = {name: canonical_name(name) for name in names}
    ruled: dict[str, Rule] = {}
    for rule in rules:
        pattern = re.compile(rule.pattern)
        matched = [name for name in names if pattern.search(canonical[name])]
        if matched and all(name in ruled for name in matched):
            earlier = ", ".join(dict.fromkeys(repr(ruled[name].name) for name in matched))
            raise PartitionError(
                f"rule {rule.name!r} never decides: all {len(matched)} parameters that pattern={rule.pattern!r} "
                f"matches, {matched[0]} the first, are taken by the earlier {earlier}; move it up or remove it"
            )
        if not matched and not partial:
            raise PartitionError(_matches_nothing(rule, names, tied))
        for name in matched:
            ruled.setdefault(name, rule)
    return ruled


def _matches_nothing(rule: Rule, names: list[str], tied: Mapping[str, list[str]]) -> str:
    start = f"rule {rule.name!r}: pattern={rule.pattern!r} matches no parameter"
    for kept, aliases in tied.items():
        for alias in aliases:
            if re.search(rule.pattern, canonical_name(alias)):
                return f"{start}, only {alias}, which is tied to {kept}: write the rule for that name"
    example = f" (they look like {canonical_name(names[len(names) // 2])})" if names else ""
    return f"{start} of the model's {len(names)}{example}"


def canonical_name(name: str) -> str:
    """The name without what wrappers put into it, anywhere in the path.

    Removed: `module.` (DDP, DataParallel, DeepSpeed), `_orig_mod.` (compile), `_fsdp_wrapped_module.`,
    `_checkpoint_wrapped_module.`, and PEFT's `base_model.model.`, `base_layer.`, `original_module.`,
    `modules_to_save.NAME.`. A tensor that is parametrized keeps its own name. Two parameters may share a canonical
    name (a layer and its `modules_to_save` copy; magnitude and direction of weight norm).

    >>> canonical_name("_orig_mod.module.layers.0._checkpoint_wrapped_module.q_proj.weight")
    'layers.0.q_proj.weight'
    >>> canonical_name("layers.0.q_proj.parametrizations.weight.original1")
    'layers.0.q_proj.weight'
    """
    return ".".join(path_steps(name))


def suggest_rule(name: str) -> str:
    """The rule, as code, that would settle the parameter and its like in other layers; the component is left open.

    >>> print(suggest_rule("module.layers.7.gate.weight"))
    Rule("COMPONENT", r"^layers\\.\\d+\\.gate\\.weight$")
    """
    steps = [r"\d+" if step.isdigit() else re.escape(step) for step in path_steps(name)]
    pattern = r"\.".join(steps)
    return f'Rule("COMPONENT", r"^{pattern}$")'


def coarse(component: str) -> str:
    """The paper's component (embedding, unembedding, attention, feed_forward, experts, router) or `base`.

    `base` follows the base rate. Shared experts are `feed_forward`: every token passes through them.

    >>> coarse("shared_experts"), coarse("norm")
    ('feed_forward', 'base')
    """
    return _COARSE.get(component, "base")


def undecayed(name: str, parameter: nn.Parameter, component: str) -> bool:
    """Whether weight decay stays off the parameter, by convention: norms, biases, and whatever is no matrix.

    Biases are told by name too, because those of fused experts are matrices (`gate_up_proj_bias`, shape (experts,
    width)). A vector stored with broadcast dimensions, such as a (1, 1, width) `cls_token`, is no matrix, and neither
    are the magnitudes of weight norm, (rows, 1): one number per row, as a norm has.

    >>> import torch
    >>> undecayed("layers.0.attn.q_proj.bias", nn.Parameter(torch.ones(4)), "attention")
    True
    >>> undecayed("layers.0.attn.q_proj.weight", nn.Parameter(torch.ones(4, 4)), "attention")
    False
    """
    last = path_steps(name)[-1]
    bias = last.endswith("bias") or last.startswith("bias_")
    magnitude = _MAGNITUDE.search(name) and sum(size > 1 for size in parameter.shape) < 2
    return component == "norm" or bias or bool(magnitude) or is_vector(parameter)
