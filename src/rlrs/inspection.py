"""What a model is made of: its components, counted; for study settings, transformers' configs and model types."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlrs.components import Partition, partition, refine, undecayed
from rlrs.data import vocabulary_size
from rlrs.extras import install
from rlrs.messages import shown
from rlrs.models import (
    LanguageModel,
    ParameterCount,
    Rung,
    build_model,
    concrete,
    count_parameters,
    ladder,
    training_flops,
)
from rlrs.models.hub_folders import folder_model
from rlrs.runs import RunError
from rlrs.runs.own_model import model_at, own_model
from rlrs.settings import HubConfig, ModelConfig, ScaleConfig, StudyConfig, TrainerConfig, load_study

_CALL = re.compile(r"(?P<place>[^:()]+:[A-Za-z_]\w*)(?:\((?P<values>.*)\))?", re.DOTALL)
"""A function that makes a model, and what it is called with."""


class InspectionError(ValueError):
    """A model that cannot be found or built."""


@dataclass(frozen=True)
class ComponentRow:
    """One component of a model; counts are of tensors and of their elements."""

    component: str
    tensors: int
    parameters: int
    undecayed: int


def component_rows(model: nn.Module, keys: Iterable[str] = ()) -> tuple[list[ComponentRow], Partition, int]:
    """A row per component, the partition behind them, and the number of parameters, each counted once.

    Args:
        model: any module.
        keys: names of ratios; those finer than a component (`attention/layer.0-3`) get rows of their own. Experts in
            one tensor have one row.

    Raises:
        PartitionError: a key for layers or experts that the model does not have.
    """
    known = partition(model)
    # A component that the model lacks is said below the table, as it is for ratios that are not finer.
    parts = refine(model, known, [key for key in keys if key.partition("/")[0] in known]).parts
    parameters = dict(model.named_parameters())
    rows = [
        ComponentRow(
            component,
            len(names),
            sum(parameters[name].numel() for name in names),
            sum(
                parameters[name].numel()
                for name in names
                if undecayed(name, parameters[name], component.partition("/")[0])
            ),
        )
        for component, names in parts.items()
    ]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.parameters for row in rows) == total, "a parameter is counted twice or not at all"
    return rows, parts, total


def describe(config: ModelConfig | HubConfig, vocab_size: int) -> dict[str, Any]:
    """Shape, parameter counts and component table of a study's model, as plain data."""
    model = meta_model(config, vocab_size)
    rows, _, total = component_rows(model)
    return {
        "shape": {**config.model_dump(mode="json"), "vocab_size": vocab_size},
        "parameters": asdict(count_parameters(model)),
        "components": [
            {
                "component": row.component,
                "tensors": row.tensors,
                "parameters": row.parameters,
                "share": row.parameters / total,
            }
            for row in rows
        ],
    }


def ladder_rows(study: StudyConfig, factors: Iterable[float]) -> Iterator[tuple[Rung, ParameterCount, int]]:
    """A study's proxy, then the proxy times each factor: the model, its counts, and its training FLOPs on one token."""
    if study.trainer is not None:
        raise InspectionError(f"{study.name} has a trainer of its own, whose sizes are what `set` says")
    vocab_size = vocabulary_size(study.data)
    for factor in (1.0, *factors):
        rung = ladder(study.proxy.model, factor)
        model = meta_model(rung.config, vocab_size)
        yield rung, count_parameters(model), training_flops(model, study.data.sequence_length)


def meta_model(config: ModelConfig | HubConfig, vocab_size: int) -> LanguageModel:
    """A study's model without memory for its weights."""
    with torch.device("meta"):
        return build_model(config, vocab_size)


def trainer_model(trainer: TrainerConfig, scale: ScaleConfig, where: str) -> nn.Module:
    """The model of a size of a trainer that is not the reference trainer, without memory for its weights.

    Args:
        trainer: of the study; has `model` or `transformers`.
        scale: the size.
        where: the values of the size stand, for messages.

    Raises:
        ConfigError: there is no such model.
    """
    if trainer.transformers is None:
        return own_model(trainer, scale, where)
    with torch.device("meta"):
        return folder_model(trainer.transformers, str((scale.set or {})["model"]))


def build_models(text: str) -> Iterator[tuple[str, nn.Module]]:
    """Titles and models, without memory for weights, of what a user named on the command line.

    Args:
        text: a study.yaml (its proxy and its target), a function or class that makes a model (`train.py:GPT`,
            `package.module:make(width=64)`), a folder or config.json of a transformers model, or a transformers model
            type such as `llama`, with that type's default sizes. Nothing is downloaded.

    Raises:
        InspectionError: nothing of that name, or it makes no model.
    """
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        study = load_study(path)
        if study.trainer is not None and study.trainer.components:
            raise InspectionError(f"{text}: trainer.components are all that is known of its models; give trainer.model")
        size = vocabulary_size(study.data) if study.trainer is None else 0
        for name, scale in (("proxy", study.proxy), ("target", study.target)):
            if study.trainer is not None:
                yield f"{study.name}, {name}", trainer_model(study.trainer, scale, f"{name}.set")
                continue
            yield f"{study.name}, {name}", meta_model(concrete(scale).model, size)
    elif call := _CALL.fullmatch(text):
        try:
            yield text, model_at(call["place"], _values(text, call["values"] or ""), f"({call['values'] or ''})")
        except RunError as error:
            hint = "" if call["values"] else f"; arguments go in parentheses: '{text}(width=64)'"
            raise InspectionError(f"{error}{hint if 'argument' in str(error) else ''}") from None
    else:
        yield text, _transformers_model(path, text)


def _values(text: str, values: str) -> dict[str, Any]:
    """Arguments by name, as a call in Python has them."""
    try:
        call = ast.parse(f"f({values})", mode="eval").body
        assert isinstance(call, ast.Call)
        if not call.args and all(keyword.arg for keyword in call.keywords):
            return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        pass
    raise InspectionError(f"{shown(text)}: arguments should be names with plain values, as in (width=64, tied=True)")


def _transformers_model(path: Path, text: str) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise InspectionError(f"{text}: needs transformers: {install('transformers')}") from None
    types = transformers.CONFIG_MAPPING
    if path.is_dir() or path.suffix == ".json":
        try:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise InspectionError(f"{text}: not a transformers config: {str(error).splitlines()[0]}") from None
    elif text in types:
        config = transformers.AutoConfig.for_model(text)
    else:
        near = difflib.get_close_matches(text, list(types), n=3)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "give a STUDY.yaml, a config.json, or a type such as llama"
        )
        raise InspectionError(f"{text}: neither a file nor a transformers model type; {hint}")
    with torch.device("meta"):
        for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel):
            if type(config) in auto._model_mapping:
                return auto.from_config(config)
    raise InspectionError(f"{text}: transformers has no model for {type(config).__name__}")
