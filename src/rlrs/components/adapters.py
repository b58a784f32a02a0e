"""What parameter-efficient fine-tuning adds to a model, told by where it stands.

PEFT puts a shell around what it adapts: around a layer (`base_layer`), a module that it copies (`original_module`), a
block, or the whole model. All that a shell holds beside what it is around, it has added. Copies by `modules_to_save`
are the model's own layers, and no adapters. Other libraries have no shells; there the words of a name decide.
"""

from __future__ import annotations

import re

from torch import nn

from rlrs.components.module_tree import path_steps

_AROUND = ("original_module", "base_model", "model", "lora_model")
"""What a shell calls the module that it is around; the first that it has."""
# torchtune's `lora_a`, loralib's `lora_A`, AdapterHub's and others' bottlenecks.
_NAMED = re.compile(r"^(?:lora|adapters?)(?:_.*)?$", re.IGNORECASE)


_SECOND = re.compile(r"lora_(?:embedding_)?B", re.IGNORECASE)


def is_lora_b(name: str) -> bool:
    """Whether a parameter is the second of LoRA's two matrices, B of B A, the one that begins at zero.

    >>> is_lora_b("layers.0.q_proj.lora_B.default.weight"), is_lora_b("layers.0.q_proj.lora_A.default.weight")
    (True, False)
    """
    return any(_SECOND.fullmatch(step) for step in path_steps(name))


def adapter_names(model: nn.Module) -> set[str]:
    """Names of the parameters, aliases of tied ones included, that an adapter has added to the model."""
    everything = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    added = {name for name in everything if any(_NAMED.match(step) for step in path_steps(name))}
    for path, module in model.named_modules(remove_duplicate=False):
        if (around := _base(module)) is not None:
            prefix = f"{path}." if path else ""
            kept = (f"{prefix}{around}.", f"{prefix}modules_to_save.")
            added |= {name for name in everything if name.startswith(prefix) and not name.startswith(kept)}
    return added


def _base(module: nn.Module) -> str | None:
    """The name by which a shell holds what it is around; None for a module that is no shell."""
    held = module._modules
    if held.get("base_layer") is not None:
        return "base_layer"
    if type(module).__module__.partition(".")[0] != "peft":
        return None
    return next((name for name in _AROUND if held.get(name) is not None), None)
