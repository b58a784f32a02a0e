"""A study's settings: frozen, typed, validated at construction; read from and written to YAML.

Every unknown key, wrong type and value out of range is a `ConfigError` of one line that names the key, the
value and what would be right.
"""

from rlrs.config.base import ConfigError, Settings
from rlrs.config.data import DataConfig
from rlrs.config.model import AnyModelConfig, HubConfig, ModelConfig
from rlrs.config.reading import CHANGES_NO_RESULT, changing, fingerprint, load_study
from rlrs.config.study import (
    Arm,
    ComparisonConfig,
    EngineConfig,
    FidelityConfig,
    RetestConfig,
    ScaleConfig,
    SearchConfig,
    StudyConfig,
    TrainingConfig,
    TransferConfig,
)

__all__ = [
    "CHANGES_NO_RESULT",
    "AnyModelConfig",
    "Arm",
    "ComparisonConfig",
    "ConfigError",
    "DataConfig",
    "EngineConfig",
    "FidelityConfig",
    "HubConfig",
    "ModelConfig",
    "RetestConfig",
    "ScaleConfig",
    "SearchConfig",
    "Settings",
    "StudyConfig",
    "TrainingConfig",
    "TransferConfig",
    "changing",
    "fingerprint",
    "load_study",
]
