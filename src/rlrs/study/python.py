"""`rlrs.Study`: a study of a training function, from Python or a notebook."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rlrs.messages import shown
from rlrs.records import Results, Trial
from rlrs.runs import RUN_VARIABLE, Run
from rlrs.settings import study_from
from rlrs.study.directory import StudyError, StudyProgress
from rlrs.study.runner import run as run_study


class Study:
    """A study whose runs a function of yours trains: what `rlrs run` does with `trainer: {call: ...}`.

    Every run is a process of its own, which imports the function; so it is one of a module or of a script, and the
    script starts the study under `if __name__ == "__main__":`. In a notebook, write it to a file (`%%writefile`).

    Args:
        train: `train(run)`: trains the run that it is given (`rlrs.Run`), reports to it, and finishes it, or returns
            the validation loss. A function, or its place as `module:function`.
        proxy: the size that is searched on: `{"steps": 1000, "set": {"width": 256}}`, as in study.yaml.
        target: the size that is transferred to.
        folder: the run directory; made if missing, gone on with if it holds this study.
        model: a function that makes the model from the values of `set`, for its components.
        components: their names, in place of `model`.
        width: which value of `set` is the model's width, for `ladder` and `transfer`.
        depth: which value of `set` is its number of blocks.
        trials: runs that each arm may spend on the proxy; `search.trials`.
        lr: base peak rate that the search starts from; `search.lr`.
        settings: what else study.yaml may have: `search`, `training`, `comparison`, `processes`, `trainer` (`verify`)
            and so on.

    Raises:
        ConfigError: settings that cannot be used.
        StudyError: a function that another process cannot import.

    Examples:
        >>> study = Study("train:main", proxy={"steps": 10, "set": {}}, target={"steps": 20, "set": {}},
        ...               folder="runs/mine", components=["embedding", "attention"], trials=12, lr=1e-3)
        >>> study.settings.search.trials
        12
    """

    def __init__(
        self,
        train: Callable[[Run], Any] | str,
        *,
        proxy: Mapping[str, Any],
        target: Mapping[str, Any],
        folder: str | Path,
        model: Callable[..., Any] | str | None = None,
        components: Iterable[str] = (),
        width: str | None = None,
        depth: str | None = None,
        trials: int | None = None,
        lr: float | None = None,
        **settings: Any,
    ) -> None:
        self.folder = Path(folder)
        trainer = {
            "call": _place(train, "train"),
            "model": None if model is None else _place(model, "model"),
            "components": tuple(components),
            "width": width,
            "depth": depth,
        }
        search = {name: value for name, value in (("trials", trials), ("lr", lr)) if value is not None}
        plain = {
            "name": self.folder.name,
            **settings,
            "trainer": {**settings.get("trainer", {}), **trainer},
            "proxy": proxy,
            "target": target,
            "search": {**settings.get("search", {}), **search},
        }
        self.settings = study_from(plain, "rlrs.Study")

    def run(self, *, until: str = "report", progress: StudyProgress | None = None) -> Results:
        """Run the study, or go on with it; its results, as in results.json.

        Args:
            until: last stage: `search`, `certificate` (with `ladder`), `comparison` or `report`.
            progress: is told what happens.

        Raises:
            StudyError: the folder is another study's, or this process is a run of a study itself.
            ConfigError, EngineError, StorageError: as their names say; one line each.
        """
        if os.environ.get(RUN_VARIABLE):
            raise StudyError(
                "this process is a run of a study, and starts a study: put rlrs.Study(...).run() under "
                'if __name__ == "__main__":'
            )
        return run_study(self.settings, self.folder, progress or _Silent(), until=until)


class _Silent:
    def stage(self, name: str, steps: int, unit: str = "steps", searches: Mapping[str, int] | None = None) -> None:
        """Say nothing."""

    def tick(self, steps: int) -> None:
        """Say nothing."""

    def trial(self, search: str, trial: Trial, flops: float, *, found: bool) -> None:
        """Say nothing."""


def _place(function: Callable[..., Any] | str, what: str) -> str:
    """Where another process finds a function, as `trainer.call` has it."""
    if isinstance(function, str):
        return function
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not callable(function) or not module or not name.isidentifier():
        raise StudyError(
            f"{what} should be a function or class at the top level of a module, which every run imports, not "
            f"{shown(function)}"
        )
    if module != "__main__":
        return f"{module}:{name}"
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None:
        raise StudyError(
            f"{what}: {name} is defined in a notebook or an interpreter, where no run can import it: write it to "
            "a file (%%writefile train.py), and import it from there"
        )
    path = Path(file).resolve()
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{name}"
