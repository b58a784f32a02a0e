"""Monitoring: what a run does is measured, checked against healthy runs, told to people, and, if asked, acted on.

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlrs.monitoring.alarms import Alarm
    from rlrs.monitoring.alerts import AlertLog, AuditAlerts, JSONLinesAlerts, PrometheusFile, TrackerAlerts, Webhook
    from rlrs.monitoring.calibration import calibrate
    from rlrs.monitoring.callbacks import monitor_lightning, monitor_trainer
    from rlrs.monitoring.checker import check_file
    from rlrs.monitoring.checks import CHECKS, Check
    from rlrs.monitoring.guard import Guard, Snapshots
    from rlrs.monitoring.monitor import Monitor
    from rlrs.monitoring.observation import ComponentNumbers, Observation
    from rlrs.monitoring.thresholds import Thresholds

__all__ = [
    "CHECKS",
    "Alarm",
    "AlertLog",
    "AuditAlerts",
    "Check",
    "ComponentNumbers",
    "Guard",
    "JSONLinesAlerts",
    "Monitor",
    "Observation",
    "PrometheusFile",
    "Snapshots",
    "Thresholds",
    "TrackerAlerts",
    "Webhook",
    "calibrate",
    "check_file",
    "monitor_lightning",
    "monitor_trainer",
]

_MODULES = {
    "alarms": ("Alarm",),
    "alerts": ("AlertLog", "AuditAlerts", "JSONLinesAlerts", "PrometheusFile", "TrackerAlerts", "Webhook"),
    "calibration": ("calibrate",),
    "callbacks": ("monitor_lightning", "monitor_trainer"),
    "checks": ("CHECKS", "Check"),
    "guard": ("Guard", "Snapshots"),
    "monitor": ("Monitor",),
    "observation": ("ComponentNumbers", "Observation"),
    "thresholds": ("Thresholds",),
    "checker": ("check_file",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"rlrs.monitoring.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
