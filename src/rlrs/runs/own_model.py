"""The model of a size of the user's own trainer, for its components."""

from __future__ import annotations

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
        factory = function_at(trainer.model)
    except RunError as error:
        raise ConfigError(f"trainer.model: {error}") from None
    try:
        with torch.device("meta"):
            model = factory(**(scale.set or {}))
    except Exception as error:
        said = shortened(str(error).strip().partition("\n")[0], 300)
        raise ConfigError(
            f"trainer.model: {shown(trainer.model)} called with {where} raised {type(error).__name__}: {said}"
        ) from None
    if not isinstance(model, nn.Module):
        raise ConfigError(f"trainer.model: {shown(trainer.model)} gave a {type(model).__name__}, which is no nn.Module")
    return model
