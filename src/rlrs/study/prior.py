"""What `search.prior` names, looked up: a preset, a ratios.yaml, or the trials of an earlier study."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from rlrs.messages import printable
from rlrs.ratios import PRESETS, Ratios
from rlrs.records import Recipe
from rlrs.search import StorageError
from rlrs.search.earlier import earlier_trials
from rlrs.settings import Arm, ConfigError, EarlierTrials, PriorConfig, TrainingConfig

MOST = 96
"""Earlier trials of an arm that are taken, those with the lowest scores: worse ones say little of where the best is.
Chosen here."""
_DATABASES = (".db", ".sqlite", ".sqlite3")


def prior_from(name: str) -> PriorConfig:
    """A prior with its content in the place of its name, so that a study is known by it.

    Args:
        name: a preset, a path to a ratios.yaml, or to a trials.db.

    Raises:
        ConfigError: a database without finished trials of an arm.
        ValueError: neither, or a file that cannot be read; one line.
    """
    path = Path(name).expanduser()
    if path.suffix in _DATABASES:
        return PriorConfig(trials=_by_arm(path))
    ratios = Ratios.named(str(path) if path.is_file() and name not in PRESETS else name)
    plain = {component: ratio.to_plain() for component, ratio in ratios.items()}
    base = ratios.provenance.get("base")
    if not isinstance(base, dict):
        return PriorConfig(ratios=plain)
    recipe = Recipe.from_ratios(ratios, Recipe.from_settings(TrainingConfig(), 1.0))
    final_fraction = recipe.final_fraction if base.get("final_fraction") else None
    return PriorConfig(lr=recipe.lr if "lr" in base else None, final_fraction=final_fraction, ratios=plain)


def _by_arm(path: Path) -> dict[Arm, EarlierTrials]:
    try:
        found = earlier_trials(path)
    except StorageError as error:
        raise ConfigError(str(error)) from None
    trials: dict[Arm, EarlierTrials] = {}
    for arm in get_args(Arm):
        # A search that was driven from Python has one, of all ratios.
        searches = (f"proxy/{arm}", "search") if arm == "rlrs" else (f"proxy/{arm}",)
        of = next((found[search] for search in searches if search in found), [])
        names = tuple(of[0].params) if of else ()
        rows = [(trial.score, *(trial.params[name] for name in names)) for trial in of if tuple(trial.params) == names]
        if rows:
            trials[arm] = EarlierTrials(names=names, rows=tuple(rows[:MOST]))
    if not trials:
        there = ", ".join(sorted(found)) or "no search with a finished trial"
        raise ConfigError(f"{printable(str(path))}: has no finished trial of an arm; it has {there}")
    return trials
