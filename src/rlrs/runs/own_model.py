"""The model that a function of the user's makes, for its components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rlrs.messages import shortened, shown
from rlrs.runs.asked import RunError
from rlrs.runs.calling import function_at
from rlrs.settings import ConfigError, ScaleConfig, TrainerConfig


def own_model(trainer: TrainerConfig, scale: ScaleConfig, where: str) -> nn.Module:
    """The model of a size, without memory for its weights, from the function that `trainer.model` names.

    Args:
        trainer: of the study; has `model`.
        scale: the size.
        where: the values of the size stand, for messages.

    Raises:
        ConfigError: there is no such function, or it makes no model of these values.
    """
    assert trainer.model is not None
    try:
        return model_at(trainer.model, scale.set or {}, where)
    except RunError as error:
        raise ConfigError(f"trainer.model: {error}") from None


def model_at(place: str, values: Mapping[str, Any], where: str) -> nn.Module:
    """What a function makes of values, without memory for weights.

    Args:
        place: `package.module:function` or `path/to/file.py:function`.
        values: by name.
        where: they stand, for messages.

    Raises:
        RunError: there is no such function, or it makes no model of these values.
    """
    factory = function_at(place)
    try:
        with torch.device("meta"):
            model = factory(**values)
    except Exception as error:
        said = shortened(str(error).strip().partition("\n")[0], 300)
        raise RunError(f"{shown(place)} called with {where} raised {type(error).__name__}: {said}") from None
    if not isinstance(model, nn.Module):
        raise RunError(f"{shown(place)} gave a {type(model).__name__}, which is no nn.Module")
    return model
