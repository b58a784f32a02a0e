"""Decoupled relative learning-rate schedules for Transformers and mixtures of experts (arXiv:2507.03526).

ratios = rlrs.Ratios.preset("paper-moe")
optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=3e-3, weight_decay=0.1))
scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=10_240, warmup_steps=102, final_fraction=0.0444)
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rlrs.component_rules import load_rules
from rlrs.components import Partition, PartitionError, Rule, partition, tower_rules
from rlrs.lr_scheduler import RelativeLR
from rlrs.moments import load_moments
from rlrs.muon import StackedMuon
from rlrs.muon_presets import MuonPreset, muon_preset
from rlrs.param_groups import param_groups, split_groups
from rlrs.presets import layer_decay, lora_plus, mup_width, new_tokens
from rlrs.ratios import Ratio, Ratios, RatiosError
from rlrs.restarts import Restarts
from rlrs.schedules import BaseSchedule, relative_factor
from rlrs.verify import verify

if TYPE_CHECKING:
    from rlrs.runs import Run, RunError, current_run
    from rlrs.search.ask_and_tell import Search
    from rlrs.study.python import Study

try:
    __version__ = version("rlrs")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "BaseSchedule",
    "MuonPreset",
    "Partition",
    "PartitionError",
    "Ratio",
    "Ratios",
    "RatiosError",
    "RelativeLR",
    "Restarts",
    "Rule",
    "Run",
    "RunError",
    "Search",
    "StackedMuon",
    "Study",
    "__version__",
    "current_run",
    "layer_decay",
    "load_moments",
    "load_rules",
    "lora_plus",
    "muon_preset",
    "mup_width",
    "new_tokens",
    "param_groups",
    "partition",
    "relative_factor",
    "split_groups",
    "tower_rules",
    "verify",
]

_LAZY = {
    **{"Run": "rlrs.runs", "RunError": "rlrs.runs", "current_run": "rlrs.runs"},
    **{"Search": "rlrs.search.ask_and_tell", "Study": "rlrs.study.python"},
}
"""Names that need an extra, and where they are: imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from rlrs.extras import install

    try:
        return getattr(import_module(_LAZY[name]), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "rlrs":
            raise
        raise ImportError(f"rlrs.{name} needs the library {error.name}: {install('study')}") from None
