"""A study's settings: frozen, typed, validated at construction; read from and written to YAML.

Every unknown key, wrong type and value out of range is a `ConfigError` of one line that names the key, the
value and what would be right.
"""

from rlrs.settings.base import ConfigError, Settings
from rlrs.settings.data import DataConfig, GeneralConfig
from rlrs.settings.guarding import GuardConfig
from rlrs.settings.ladder_config import LadderConfig
from rlrs.settings.loading import (
    CHANGES_NO_RESULT,
    MAY_GROW,
    by_content,
    changing,
    difference,
    fingerprint,
    kept,
    load_study,
    settings_from,
    study_from,
)
from rlrs.settings.machine import MachineConfig
from rlrs.settings.model import AnyModelConfig, HubConfig, LoraConfig, ModelConfig
from rlrs.settings.searching import (
    Arm,
    EarlierTrials,
    FidelityConfig,
    PriorConfig,
    RetestConfig,
    SearchConfig,
    StabilityConfig,
)
from rlrs.settings.study import (
    ComparisonConfig,
    EngineConfig,
    ScaleConfig,
    StudyConfig,
    TrainingConfig,
    TransferConfig,
)
from rlrs.settings.trainer_config import OutputConfig, TrainerConfig
from rlrs.settings.transformers_config import TransformersConfig

__all__ = [
    "CHANGES_NO_RESULT",
    "MAY_GROW",
    "AnyModelConfig",
    "Arm",
    "ComparisonConfig",
    "ConfigError",
    "DataConfig",
    "EarlierTrials",
    "EngineConfig",
    "FidelityConfig",
    "GeneralConfig",
    "GuardConfig",
    "HubConfig",
    "LadderConfig",
    "LoraConfig",
    "MachineConfig",
    "ModelConfig",
    "OutputConfig",
    "PriorConfig",
    "RetestConfig",
    "ScaleConfig",
    "SearchConfig",
    "Settings",
    "StabilityConfig",
    "StudyConfig",
    "TrainerConfig",
    "TrainingConfig",
    "TransferConfig",
    "TransformersConfig",
    "by_content",
    "changing",
    "difference",
    "fingerprint",
    "kept",
    "load_study",
    "settings_from",
    "study_from",
]
