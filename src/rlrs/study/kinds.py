"""What a study trains: runs of the reference trainer, or of the user's own; and how its settings become such runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rlrs.data import TokenData
from rlrs.inspection import describe, meta_model, trainer_model
from rlrs.models import training_flops
from rlrs.records import ModelSize, Recipe
from rlrs.runs import OwnRun
from rlrs.search import Commands, Engine, Processes, Ray
from rlrs.search.engines.verification_run import verified as verified_run
from rlrs.search.space import AnySpec
from rlrs.settings import ModelConfig, ScaleConfig, StudyConfig
from rlrs.study.spaces import trained_components
from rlrs.study.trainer_checks import own_components, own_size
from rlrs.training import RunSpec
from rlrs.training.verified_steps import verified as verified_steps
from rlrs.verify import Report


class RunKind(Protocol):
    """One kind of run. A study knows its runs by this alone."""

    @property
    def data(self) -> dict[str, Any]:
        """What is known of the data, for results.json."""
        ...

    def spec(self, scale: ScaleConfig, recipe: Recipe, seed: int, *, lr: float, steps: int | None = None) -> AnySpec:
        """The run that a size, what was found, a seed and a base rate stand for."""
        ...

    def components(self) -> list[str]:
        """Of the proxy, those that are trained."""
        ...

    def made_out(self, scale: ScaleConfig, recipe: Recipe) -> Recipe:
        """A recipe with its factors made ratios of a size's layers and adapters."""
        ...

    def size(self, scale: ScaleConfig) -> ModelSize:
        """One size of model, with how long it is trained."""
        ...

    def flops(self, spec: Any, steps: int) -> float:
        """FLOPs of so many steps of a run; 0 where they are not known."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides numbers beside the settings."""
        ...

    def engine(self, folder: Path) -> Engine:
        """Where the runs of a study are trained."""
        ...

    def verified(self, spec: Any, folder: Path, steps: int, tick: Callable[[int], None]) -> Report:
        """What `rlrs.verify` finds in the first steps of a run; its files, if any, are in a folder of its own."""
        ...


class ReferenceRuns:
    """Runs of the reference trainer.

    Args:
        study: settings, resolved.
        data: prepared.
    """

    def __init__(self, study: StudyConfig, data: TokenData) -> None:
        self._study, self._tokens = study, data
        self._flops: dict[str, float] = {}

    @property
    def data(self) -> dict[str, Any]:
        """What is known of the data, for results.json."""
        return self._tokens.summary

    def spec(self, scale: ScaleConfig, recipe: Recipe, seed: int, *, lr: float, steps: int | None = None) -> RunSpec:
        """The run that a size, what was found, a seed and a base rate stand for."""
        model, recipe = scale.model, self.made_out(scale, recipe)
        if recipe.init_scale is not None and isinstance(model, ModelConfig):  # others initialise themselves
            model = model.model_copy(update={"init_scale": recipe.init_scale})
        return RunSpec(
            model=model,
            training=recipe.training(self._study.training),
            steps=steps or scale.steps,
            batch_size=scale.batch_size,
            seed=seed,
            lr=lr,
            final_fraction=recipe.final_fraction,
            ratios=recipe.run_ratios(),
            data_hash=self._tokens.hash,
        )

    def components(self) -> list[str]:
        """Of the proxy, those that are trained."""
        return trained_components(meta_model(self._study.proxy.model, self._tokens.vocab_size))

    def made_out(self, scale: ScaleConfig, recipe: Recipe) -> Recipe:
        """A recipe with its factors made ratios of a size's layers and adapters."""
        return recipe.on(meta_model(scale.model, self._tokens.vocab_size)) if recipe.factors else recipe

    def size(self, scale: ScaleConfig) -> ModelSize:
        """One size of model, with how long it is trained."""
        model = meta_model(scale.model, self._tokens.vocab_size)
        return ModelSize(
            **describe(scale.model, self._tokens.vocab_size),
            flops_per_token=training_flops(model, self._tokens.sequence_length),
            steps=scale.steps,
            batch_size=scale.batch_size,
            tokens=scale.steps * scale.batch_size * self._tokens.sequence_length,
        )

    def flops(self, spec: RunSpec, steps: int) -> float:
        """FLOPs of so many steps of a run; a model's are counted once."""
        shape, length = spec.model.model_dump_json(), self._tokens.sequence_length
        if shape not in self._flops:
            self._flops[shape] = float(training_flops(meta_model(spec.model, self._tokens.vocab_size), length))
        return steps * spec.batch_size * length * self._flops[shape]

    def identity(self) -> dict[str, Any]:
        """What decides numbers beside the settings."""
        return {"data_hash": self._tokens.hash}

    def engine(self, folder: Path) -> Engine:
        """Where the runs of a study are trained."""
        study, asked = self._study, self._study.engine
        if asked.kind == "processes":
            return Processes(
                *(folder / "data", study.processes), time_limit=asked.time_limit, gpus=asked.gpus, ranks=asked.ranks
            )
        return Ray(
            *(folder / "data", asked.address),
            processes=study.processes,
            time_limit=asked.time_limit,
            cpus=asked.cpus,
            gpus=asked.gpus,
            resources=asked.resources,
            ranks=asked.ranks,
        )

    def verified(self, spec: RunSpec, folder: Path, steps: int, tick: Callable[[int], None]) -> Report:
        """What `rlrs.verify` finds in the first steps of a run, which is trained in this process; no files."""
        return verified_steps(spec, self._tokens, steps)


class OwnRuns:
    """Runs of a trainer of the user's own.

    Args:
        study: settings, resolved; has `trainer`.
        folder: of data that the study has prepared for a ready-made trainer.
        data: what is known of them.
    """

    def __init__(self, study: StudyConfig, folder: Path | None = None, data: Mapping[str, Any] | None = None) -> None:
        assert study.trainer is not None
        self._study, self._trainer = study, study.trainer
        self._folder, self._data = folder, dict(data or {})

    @property
    def data(self) -> dict[str, Any]:
        """What is known of them; nothing where the data are the trainer's."""
        return self._data

    def spec(self, scale: ScaleConfig, recipe: Recipe, seed: int, *, lr: float, steps: int | None = None) -> OwnRun:
        """The run that a size, what was found, a seed and a base rate stand for."""
        recipe = self.made_out(scale, recipe)
        return OwnRun(
            trainer=self._trainer,
            args=scale.set or {},
            training=recipe.training(self._study.training),
            steps=steps or scale.steps,
            seed=seed,
            lr=lr,
            final_fraction=recipe.final_fraction,
            ratios=recipe.run_ratios(),
            tokens=scale.tokens or 0,
            data=str(self._folder.resolve()) if self._folder is not None else None,
            data_hash=self._data.get("hash", ""),
        )

    def components(self) -> list[str]:
        """Of the proxy."""
        return own_components(self._trainer, self._study.proxy, "proxy.set")[0]

    def made_out(self, scale: ScaleConfig, recipe: Recipe) -> Recipe:
        """A recipe with its factors made ratios of a size's layers and adapters, which only its own model tells."""
        return recipe.on(trainer_model(self._trainer, scale, "set")) if recipe.factors else recipe

    def size(self, scale: ScaleConfig) -> ModelSize:
        """One size of model, with how long it is trained; what is not known is None, and 0 tokens."""
        return ModelSize(
            **own_size(self._trainer, scale, "set"), steps=scale.steps, tokens=scale.steps * (scale.tokens or 0)
        )

    def flops(self, spec: OwnRun, steps: int) -> float:
        """Not known: 0."""
        return 0.0

    def identity(self) -> dict[str, Any]:
        """Nothing but settings and prepared data: a program that was changed is not seen."""
        return {"data_hash": self._data["hash"]} if self._data else {}

    def engine(self, folder: Path) -> Engine:
        """Where the runs of a study are trained."""
        asked = self._study.engine
        if asked.kind == "ray":
            return Ray(
                *(None, asked.address),
                processes=self._study.processes,
                time_limit=asked.time_limit,
                cpus=asked.cpus,
                gpus=asked.gpus,
                resources=asked.resources,
                runs_folder=folder / "runs",
            )
        return Commands(folder / "runs", self._study.processes, time_limit=asked.time_limit, gpus=asked.gpus)

    def verified(self, spec: OwnRun, folder: Path, steps: int, tick: Callable[[int], None]) -> Report:
        """What `rlrs.verify` finds in the first steps of a run, in a process of its own."""
        asked = self._study.engine
        return verified_run(spec, folder, steps=steps, time_limit=asked.time_limit, gpus=asked.gpus, tick=tick)
