"""Low-rank adapters on a model of transformers, placed by PEFT."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from rlrs.extras import install
from rlrs.messages import printable, shown
from rlrs.settings import ConfigError, LoraConfig


def adapted(model: nn.Module, config: LoraConfig) -> Any:
    """The same model with adapters in its layers, drawn from torch's global generator; all else is frozen.

    PEFT changes the model in place; the shell that it puts around the whole is left off, so that forward pass and names
    stay the model's own.

    Args:
        model: of transformers.
        config: of the adapters.

    Raises:
        ConfigError: PEFT is missing, or finds no layer of these names; one line.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError(f"lora needs PEFT: {install('peft')}") from None
    targets, saved = config.target_modules, list(config.modules_to_save)
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if missing := [name for name in saved if name not in known]:
        raise ConfigError(f"lora.modules_to_save: the model has no module {shown(missing[0])}")
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  any number scales
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=saved or None,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for a property that the latter is about to drop, and speaks of saving.
            warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing`|.*tie_word_embeddings")
            shell: Any = peft.get_peft_model(model, settings)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        line = printable(" ".join(str(error).split()), 200)
        raise ConfigError(f"lora.target_modules={shown(targets)}: PEFT refuses: {line}") from None
    return shell.get_base_model()
