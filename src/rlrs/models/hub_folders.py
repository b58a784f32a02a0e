"""A model of transformers from a local folder, as it is trained: with its weights, and with adapters if asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlrs.extras import install
from rlrs.messages import shown
from rlrs.models.hub_weights import load_weights, weight_files
from rlrs.settings import ConfigError, HubConfig, TransformersConfig


def folder_model(config: TransformersConfig, folder: str, vocab_size: int | None = None) -> nn.Module:
    """The model of a folder; inside `with torch.device("meta")` without memory for its weights.

    Random weights are drawn from torch's global generator, and so are those of adapters.

    Args:
        config: of the study: `weights` and `lora`.
        folder: with a config.json, and weights if they are loaded.
        vocab_size: entries of the tokenizer that the data are made with; not compared if None.

    Raises:
        ConfigError: no such folder, no weights in it, a model that is not for this vocabulary or has other weights, or
            adapters that PEFT refuses.
    """
    import transformers

    folder_model_is_there(config, folder)
    meta = torch.get_default_device().type == "meta"
    try:
        settings = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        rows = settings.get_text_config().vocab_size
        fresh = config.weights == "random" or meta
        model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32) if fresh else None
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise ConfigError(f"set.model={shown(folder)}: no causal language model: {_line(error)}") from None
    if model is None:
        size = rows if vocab_size is None else vocab_size
        model = load_weights(HubConfig(hub=str(folder), weights="load"), settings, size)
    elif vocab_size is not None and vocab_size > rows:
        raise ConfigError(
            f"set.model={shown(folder)}: is for {rows} tokens, and data.tokenizer has {vocab_size}: name the folder"
        )
    return _adapted(model, config.lora) if config.lora is not None else model


def folder_model_is_there(config: TransformersConfig, folder: str) -> None:
    """See that a folder holds a model, and the library that builds it is installed.

    Raises:
        ConfigError: it does not, or is not.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise ConfigError(f"trainer.transformers needs transformers: {install('transformers')}") from None
    if not (Path(folder) / "config.json").is_file():
        raise ConfigError(f"set.model={shown(folder)}: no folder with a config.json, looked for from {Path.cwd()}")
    if config.weights == "load" and not weight_files(folder):
        raise ConfigError(
            f"set.model={shown(folder)}: has no weights to load (*.safetensors); trainer.transformers.weights: random "
            "trains its architecture from scratch"
        )


def _adapted(model: Any, lora: dict[str, Any]) -> nn.Module:
    try:
        import peft
    except ImportError:
        raise ConfigError(f"trainer.transformers.lora needs peft: {install('peft')}") from None
    try:
        return peft.get_peft_model(model, peft.LoraConfig(**{"task_type": "CAUSAL_LM", **lora}))
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"trainer.transformers.lora={shown(lora)}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
