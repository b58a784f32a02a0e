"""Named torch parameter groups: component x weight decay."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlrs.components import Partition, Refined, Rule, partition, refine, undecayed
from rlrs.ratios import Ratios, number


def param_groups(
    model: nn.Module,
    ratios: Ratios | Mapping[str, Any],
    *,
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    weight_decays: Mapping[str, float] | None = None,
    decay: Literal["rate", "independent"] = "rate",
    rules: Sequence[Rule] = (),
    parts: Partition | None = None,
    include_frozen: bool = False,
    partial: bool = False,
) -> list[dict[str, Any]]:
    """Split a model's parameters into groups for any torch optimizer, to be driven by `RelativeLR`.

    A group's `name` is its component (`attention`), with `/no_decay` for norms, biases and other vectors, which
    are not decayed; its `component` ties it to the ratios; its `lr` is the base peak rate, the same for all. What is
    not given here, rate or decay, is the optimizer's: `AdamW(param_groups(model, ratios), lr=3e-3, weight_decay=0.1)`.

    AdamW, Adafactor and Muon shrink a weight by `lr_i * weight_decay` a step, so a component's decay scales with its
    ratio. With `decay="independent"`, `RelativeLR` keeps `weight_decay_i(t) = weight_decay * lr_base(t) / lr_i(t)`,
    so that every decayed weight shrinks by `lr_base(t) * weight_decay`, whatever its ratio. At a rate of 0 there is no
    decay: the component is frozen.

    Ratios may be finer than components, `attention/layer.0-3` or `experts/expert.2` (`rlrs.components.granularity`).
    Then groups are as fine, but for experts fused into one tensor, and for tokens: their group has `slices`, by which
    `RelativeLR` scales the update of each.

    Args:
        model: any module; wrapped (DDP, FSDP, compiled) or not.
        ratios: relative rates per component; components that they do not name follow the base rate.
        lr: base peak rate; the optimizer's if None. A tensor (for a compiled or captured optimizer) is copied for each
            group, into float32 if it is of 16 bits, where one minus rate times decay would be 1.
        weight_decay: of the decayed parameters; the optimizer's if None.
        weight_decays: of components that have their own.
        decay: `rate`, it scales with the component's rate as the optimizer has it, or `independent` of the ratio.
        rules: the user's own rules, tried in order before everything else; see `partition`.
        parts: a partition made before, in place of `rules`.
        include_frozen: keep parameters that do not require a gradient, for later unfreezing.
        partial: the model is one stage of a pipeline, where a component may be on another rank: ratios and rules
            for what is not here are no error.

    Returns:
        Groups in the order of the partition's components, each with keys `name`, `component`, `params`, `lr`,
        `weight_decay` (those that are given), `ungrouped`: components of the model that have no group, being tied to
        another or frozen; and `independent_decay`, the decay that `RelativeLR` starts from, where it is asked for.

    Raises:
        RatiosError: a ratio or a weight decay for a component that the model does not have.
        PartitionError: a rule that matches nothing, or a ratio for layers or experts that the model does not have.
        ValueError: a rate or a decay that is not a number from 0 on, no parameter to train, both `rules` and `parts`,
            independent decay without a weight decay, or of experts or tokens with rates of their own in one tensor.

    Warns:
        UserWarning: a ratio of your own, not a preset's, for a component that is tied to another, whose ratio it has.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8))
        >>> for group in param_groups(model, {"embedding": (5.0, 0.5)}, lr=3e-3, weight_decay=0.1):
        ...     print(group["name"], group["lr"], group["weight_decay"])
        embedding 0.003 0.1
        unembedding 0.003 0.1
        unembedding/no_decay 0.003 0.0
    """
    rate = lr if lr is None else _rate(lr)
    common = None if weight_decay is None else number(weight_decay, "weight_decay")
    own_decays = {name: number(value, f"the weight decay of {name}") for name, value in (weight_decays or {}).items()}
    if decay not in ("rate", "independent"):
        raise ValueError(f"decay should be 'rate' or 'independent', not {decay!r}")
    if decay == "independent" and common is None:
        raise ValueError("decay='independent' starts from weight_decay: give it here, not to the optimizer")
    if parts is not None and rules:
        raise ValueError("give rules or parts, not both: a partition is already made by rules")
    ratios = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
    parts = partition(model, rules, partial=partial) if parts is None else parts
    finer = refine(model, parts, ratios, partial=partial)
    if not partial:
        finer_names = finer.names - {*parts, *parts.tied_components}
        coarse = {name: ratio for name, ratio in ratios.items() if name not in finer_names}
        for note in Ratios(coarse, ratios.provenance).check_used(parts, "the model"):
            if "preset" not in ratios.provenance:  # one's own ratios: it was expected to do something
                warnings.warn(note, UserWarning, stacklevel=2)
        Ratios(own_decays).check_used([*parts, *parts.tied_components], "the model")
    parameters = dict(model.named_parameters())
    if decay == "independent" and any(include_frozen or parameters[name].requires_grad for name in finer.slices):
        raise ValueError(
            "decay='independent' with a ratio per expert or token of one tensor: a tensor has one weight decay; "
            "use 'rate'"
        )
    groups: list[dict[str, Any]] = []
    for component, names in finer.parts.items():
        kept = [name for name in names if include_frozen or parameters[name].requires_grad]
        plain = {name for name in kept if undecayed(name, parameters[name], component.partition("/")[0])}
        for suffix, members, of_group in (
            (
                "",
                [name for name in kept if name not in plain],
                own_decays.get(component.partition("/")[0], common),
            ),
            ("/no_decay", [name for name in kept if name in plain], 0.0),
        ):
            for name, of_name in _by_slices(component + suffix, members, finer).items():
                group: dict[str, Any] = {"name": name, "component": component}
                if of_group is not None:
                    group["weight_decay"] = of_group
                if decay == "independent":
                    group["independent_decay"] = of_group
                if slices := finer.slices.get(of_name[0]):
                    group["slices"] = [list(part) for part in slices]
                if rate is not None:
                    # A copy each: groups that shared one tensor would all have the rate that is written last.
                    group["lr"] = rate.clone() if isinstance(rate, Tensor) else rate
                groups.append({**group, "params": [parameters[name] for name in of_name]})
    grouped = {group["component"] for group in groups}
    known = [*parts, *sorted(finer.names - set(parts))]  # finer names too: what is frozen has no group either
    for group in groups:
        group["ungrouped"] = [name for name in known if name not in grouped]
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameter to train")
    return groups


def _rate(lr: float | Tensor) -> float | Tensor:
    if not isinstance(lr, Tensor):
        return number(lr, "lr")
    number(lr.detach().float().cpu(), "lr")
    wide = lr.is_floating_point() and lr.element_size() >= 4
    return lr if wide else lr.to(torch.float32)


def _by_slices(name: str, members: list[str], finer: Refined) -> dict[str, list[str]]:
    """Names of groups -> their parameters: one group, or as many as there are ways to slice fused tensors."""
    ways: dict[Any, list[str]] = {}
    for member in members:
        ways.setdefault(finer.slices.get(member), []).append(member)
    return {name + (f"/{index}" if index else ""): of_way for index, of_way in enumerate(ways.values())}


def split_groups(
    groups: Sequence[Mapping[str, Any]],
    belongs: Callable[[Mapping[str, Any], nn.Parameter], bool],
    *,
    lr: float | Tensor | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Divide groups between two optimizers that one `RelativeLR` drives: Muon for matrices, AdamW for the rest.

    Args:
        groups: from `param_groups`; left as they are.
        belongs: of a group and a parameter of it, whether it goes to the first optimizer.
        lr: base peak rate of the first optimizer's groups, if it differs.

    Returns:
        Groups of the first optimizer and of the second. Where a group is divided, the second's name ends in `/rest`.

    >>> block = nn.ModuleDict({"self_attn": nn.ModuleDict({"q_proj": nn.Linear(4, 4)}), "norm": nn.LayerNorm(4)})
    >>> model = nn.ModuleDict({"embed_tokens": nn.Embedding(8, 4), "layers": nn.ModuleList([block])})
    >>> groups = param_groups(model, {"attention": 0.5}, lr=0.01)
    >>> muon, adam = split_groups(groups, lambda group, p: group["component"] == "attention" and p.ndim == 2, lr=0.02)
    >>> [group["name"] for group in muon], [group["name"] for group in adam]
    (['attention'], ['embedding', 'attention/no_decay', 'norm/no_decay'])
    """
    first: list[dict[str, Any]] = []
    second: list[dict[str, Any]] = []
    for group in groups:
        chosen = [parameter for parameter in group["params"] if belongs(group, parameter)]
        taken = {id(parameter) for parameter in chosen}
        rest = [parameter for parameter in group["params"] if id(parameter) not in taken]
        if chosen:
            rate = group.get("lr") if lr is None else _rate(lr)
            own = {} if rate is None else {"lr": rate.clone() if isinstance(rate, Tensor) else rate}
            first.append({**group, "params": chosen, **own})
        if rest:
            second.append({**group, "params": rest, "name": group["name"] + ("/rest" if chosen else "")})
    return first, second
