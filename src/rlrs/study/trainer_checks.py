"""What is checked, before anything runs, of a trainer of the user's own."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from typing import Any

from rlrs.components import partition
from rlrs.inspection import component_rows, trainer_model
from rlrs.messages import shown
from rlrs.models.counts import TABLES
from rlrs.runs import RunError
from rlrs.runs.calling import function_at
from rlrs.settings import ConfigError, ScaleConfig, StudyConfig, TrainerConfig, TransformersConfig
from rlrs.settings.trainer_config import FILES, GIVEN


def own_components(trainer: TrainerConfig, scale: ScaleConfig, where: str) -> tuple[list[str], Collection[str]]:
    """The components of a size, and those that are tied to another.

    Raises:
        ConfigError: see `own_model`; or a model that cannot be split into components.
    """
    if trainer.components:
        return list(trainer.components), ()
    model = trainer_model(trainer, scale, where)
    parts, trained = partition(model), {name for name, weight in model.named_parameters() if weight.requires_grad}
    # With adapters, whole components are frozen: a ratio for one would do nothing.
    return [component for component, names in parts.components.items() if trained & set(names)], parts.tied_components


def own_size(trainer: TrainerConfig, scale: ScaleConfig, where: str) -> dict[str, Any]:
    """Shape, parameter counts and component table of a size, as `rlrs.inspection.describe` gives them; sizes are None
    where only the components' names are known. All parameters count as active: which ones a token uses is not known.
    """
    if trainer.components:
        return {"shape": dict(scale.set or {}), "parameters": None, "components": []}
    rows, _, total = component_rows(trainer_model(trainer, scale, where))
    tables = sum(row.parameters for row in rows if row.component in TABLES)
    return {
        "shape": dict(scale.set or {}),
        "parameters": {"total": total, "active": total, "embedding": tables, "non_embedding": total - tables},
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


def check_command(study: StudyConfig, components: Sequence[str]) -> None:
    """Check that a command can be started, and gets what its runs are to have.

    Raises:
        ConfigError: a placeholder that stands for nothing, a program that is not there, or a command that would train
            another run than the study asks for.
    """
    trainer = study.trainer
    assert trainer is not None
    if trainer.transformers is not None:
        return _check_arguments(trainer.transformers, study)
    if trainer.call is not None:
        try:
            function_at(trainer.call)
        except RunError as error:
            raise ConfigError(f"trainer.call: {error}") from None
        return
    names = trainer.placeholders()
    known = [*GIVEN, *FILES, *(study.proxy.set or {})]
    for name in names:
        component, _, end = name.partition(".")
        if not (name in known or (component in components and end in ("start", "end"))):
            raise ConfigError(
                f"trainer.command: {{{name}}} stands for nothing; there are {', '.join(known)}, and "
                f"COMPONENT.start and COMPONENT.end with a COMPONENT of {', '.join(components)}"
            )
    program = trainer.words()[0]
    if "{" not in program and shutil.which(program) is None:
        raise ConfigError(f"trainer.command: there is no program {shown(program)} to start")
    for part in ("loss", "valid_loss"):
        reading = getattr(trainer, part)
        if reading is not None and reading.file is not None:
            try:
                reading.file.format_map({**(study.proxy.set or {}), "folder": ""})
            except (KeyError, ValueError, IndexError) as error:
                raise ConfigError(f"trainer.{part}.file: {shown(reading.file)}: {error} stands for nothing") from None
    if trainer.loss is not None and "run" not in names:
        # A program whose losses are read from its output knows nothing but its command line.
        for name in ("lr", "steps", "seed", *(("muon_rate",) if study.training.optimizer == "muon" else ())):
            if name not in names:
                raise ConfigError(f"trainer.command: the program never gets {name}: give it {{{name}}}")
        if "ratios" not in names and not any("." in name for name in names):
            raise ConfigError(
                "trainer.command: the program never gets the ratios: give it {ratios}, the path of a ratios.yaml, or "
                f"{{{components[0]}.start}} and so on"
            )


def _check_arguments(config: TransformersConfig, study: StudyConfig) -> None:
    """Check the arguments of transformers' trainer, at both sizes."""
    from rlrs.training.hub_trainer import make_arguments

    for scale in (study.proxy, study.target):
        sizes = {name: value for name, value in (scale.set or {}).items() if name not in ("model", "content")}
        make_arguments(config, {**config.arguments, **sizes}, {"max_steps": scale.steps})
