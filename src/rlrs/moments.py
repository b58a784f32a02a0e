"""The moments of a checkpoint whose optimizer had other groups, moved by the names of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from rlrs.components import canonical_name
from rlrs.messages import shortened


def load_moments(
    optimizer: Optimizer,
    model: nn.Module,
    state_dict: Mapping[str, Any],
    order: Optimizer | Iterable[str] | None = None,
    *,
    partial: bool = False,
) -> None:
    """Load the state of an optimizer that had other parameter groups: each moment goes to the parameter of its name.

    torch restores by position, so that a state of other groups ends up on other parameters, or is refused. Rates and
    weight decay stay as the present groups have them. Make `RelativeLR` after it, with `last_epoch` the steps done
    less 1, or load its state.

    Args:
        optimizer: over `rlrs.param_groups(model, ...)`; no step has been taken.
        model: wrapped or not; names are compared without what wrappers add.
        state_dict: of the saved optimizer: by position, as torch's own, or by name, as `torch.distributed.checkpoint`
            has it.
        order: of a state by position, the saved optimizer's parameters: an optimizer made over this model as the
            saved one was, or names in that order. Not needed if groups have `param_names` (torch, from named
            parameters).
        partial: parameters without saved moments begin without, and moments of parameters that are not trained now are
            left out; otherwise both are errors.

    Raises:
        ValueError: a state that is not the model's: another number of parameters, other names or shapes; no order.

    Examples:
        >>> import torch, rlrs
        >>> model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8))
        >>> stock = torch.optim.AdamW(model.parameters())
        >>> model(torch.arange(8)).sum().backward()
        >>> stock.step()
        >>> optimizer = torch.optim.AdamW(rlrs.param_groups(model, {"embedding": 5.0}, lr=1e-3))
        >>> rlrs.load_moments(optimizer, model, stock.state_dict(), order=torch.optim.AdamW(model.parameters()))
        >>> torch.equal(optimizer.state[model[1].bias]["exp_avg"], stock.state[model[1].bias]["exp_avg"])
        True
    """
    names = {id(weight): canonical_name(name) for name, weight in model.named_parameters()}
    if twice := [name for name in names.values() if list(names.values()).count(name) > 1]:
        raise ValueError(f"two parameters of the model are called {twice[0]}, without what wrappers add to a name")
    saved = _by_name(state_dict, _names(state_dict, order, names))
    trained = {_name(weight, names): weight for group in optimizer.param_groups for weight in group["params"]}
    if not partial:
        _check_same(saved, trained)
    for name, weight in trained.items():
        for key, value in saved.get(name, {}).items():
            if isinstance(value, Tensor) and value.dim() and value.shape != weight.shape:
                raise ValueError(
                    f"{key} of {name} has the shape {tuple(value.shape)} in the saved state and {tuple(weight.shape)} "
                    "in the model: it is another model's, or its parameters are in another order"
                )
    plain = optimizer.state_dict()
    order_now = [_name(weight, names) for group in optimizer.param_groups for weight in group["params"]]
    places = [place for group in plain["param_groups"] for place in group["params"]]
    state = {place: saved[name] for place, name in zip(places, order_now, strict=True) if name in saved}
    optimizer.load_state_dict({**plain, "state": state})


def _names(
    state_dict: Mapping[str, Any], order: Optimizer | Iterable[str] | None, names: Mapping[int, str]
) -> list[str] | None:
    """Names of the saved parameters by position; None if the state is by name."""
    groups: Sequence[Mapping[str, Any]] = state_dict["param_groups"]
    if all(isinstance(key, str) for key in state_dict["state"]) and state_dict["state"]:
        return None
    if isinstance(order, Optimizer):
        listed = [_name(weight, names) for group in order.param_groups for weight in group["params"]]
    elif order is not None:
        listed = [canonical_name(name) for name in order]
    elif all("param_names" in group for group in groups):
        listed = [canonical_name(name) for group in groups for name in group["param_names"]]
    else:
        raise ValueError(
            "the saved state is by position: give order, an optimizer made over this model as the saved one was, or "
            "the names of its parameters in that order"
        )
    count = sum(len(group["params"]) for group in groups)
    if len(listed) != count:
        raise ValueError(f"order has {len(listed)} parameters, and the saved state {count}")
    return listed


def _by_name(state_dict: Mapping[str, Any], listed: list[str] | None) -> dict[str, dict[str, Any]]:
    if listed is None:
        return {canonical_name(name): state for name, state in state_dict["state"].items()}
    places = [place for group in state_dict["param_groups"] for place in group["params"]]
    state = state_dict["state"]
    return {name: state[place] for name, place in zip(listed, places, strict=True) if place in state}


def _name(weight: Tensor, names: Mapping[int, str]) -> str:
    if id(weight) not in names:
        raise ValueError(
            f"an optimizer has a parameter of the shape {tuple(weight.shape)} that is not the model's: make it over "
            "this model"
        )
    return names[id(weight)]


def _check_same(saved: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    for what, one, other in (
        ("the saved state has no moments of", trained, saved),
        ("the optimizer does not train what the saved state has moments of:", saved, trained),
    ):
        if missing := [name for name in one if name not in other]:
            raise ValueError(f"{what} {shortened(', '.join(missing), 200)}; partial=True goes on without")
