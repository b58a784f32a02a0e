"""Where alarms go: log, JSON lines, webhook, experiment tracker, Prometheus, audit trail.

None of them ever stops a training: one that fails says so in the log, once. They run on rank 0.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlrs.files import cut_half_line, write_atomic
from rlrs.monitoring.alarms import Alarm
from rlrs.monitoring.observation import Observation

_log = logging.getLogger("rlrs.monitoring")
_HELP = {
    "rlrs_step": "Optimizer steps done.",
    "rlrs_loss": "Mean training loss since the observation before, nats per token.",
    "rlrs_valid_loss": "Loss on held-out data, nats per token.",
    "rlrs_grad_norm": "Norm of all gradients before clipping.",
    "rlrs_lr_base": "Base learning rate.",
    "rlrs_speed": "Tokens or steps per second.",
    "rlrs_router_entropy": "Entropy of the routers' probabilities, nats per token.",
    "rlrs_component_lr": "Learning rate of the component.",
    "rlrs_component_scheduled_lr": "Learning rate that the schedule gives the component.",
    "rlrs_component_ratio": "Relative rate of the component.",
    "rlrs_component_grad_norm": "Norm of the component's gradient before clipping.",
    "rlrs_component_update_ratio": "Norm of the component's last change over the norm of its weights.",
    "rlrs_component_weight_norm": "Norm of the component's weights.",
    "rlrs_observed_timestamp_seconds": "When the run was last observed, seconds since the epoch.",
    "rlrs_alarms_total": "Alarms that were raised.",
}
"""Every metric of `PrometheusFile`, as `promtool check metrics` wants it explained."""


class Alerts:
    """A place that alarms go to. Subclasses override `alarm`, `observation`, or both."""

    _failed = False

    def tell(self, seen: Observation, alarms: Sequence[Alarm]) -> None:
        """Pass on an observation and its alarms; an error is logged, the first time, and goes no further."""
        try:
            self.observation(seen)
            for alarm in alarms:
                self.alarm(alarm)
        except Exception as error:
            if not self._failed:
                self._failed = True
                _log.warning("alerts to %s fail: %s: %s", type(self).__name__, type(error).__name__, error)

    def observation(self, seen: Observation) -> None:
        """What was measured."""

    def alarm(self, alarm: Alarm) -> None:
        """A check went off."""

    def close(self) -> None:
        """The run is over."""


class AlertLog(Alerts):
    """Warnings of Python's logging, by the logger `rlrs.monitoring`; rich's `RichHandler` shows them in colour."""

    def alarm(self, alarm: Alarm) -> None:
        """Log it as a warning."""
        _log.warning("%s", alarm.message)


class JSONLinesAlerts(Alerts):
    """A file with one JSON object for each alarm, for `tail -f` and log shippers.

    Args:
        path: of the file; it is appended to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        cut_half_line(self.path)

    def alarm(self, alarm: Alarm) -> None:
        """Append it."""
        with self.path.open("ab") as file:
            file.write(alarm.model_dump_json().encode() + b"\n")


class Webhook(Alerts):
    """POSTs each alarm as JSON from a thread: `text` for chat services (Slack, Mattermost), and the alarm's fields.

    Training never waits: what cannot be sent in time is dropped, and said in the log.

    Args:
        url: `https://...` or `http://...`; its path is a secret often, and is never logged.
        run: a name for the run, in the text.
        timeout: seconds for one attempt, and for what is left when the run ends.
        waiting: alarms that wait at most.

    Raises:
        ValueError: another kind of URL.
    """

    def __init__(self, url: str, *, run: str = "", timeout: float = 5.0, waiting: int = 100) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the webhook's url should begin with http:// or https:// and have a host")
        self._url, self._host, self._run, self._timeout = url, parts.hostname, run, timeout
        self._queue: queue.Queue[bytes | None] = queue.Queue(waiting)
        self._dropped = 0
        self._thread = threading.Thread(target=self._send_all, name="rlrs-webhook", daemon=True)
        self._thread.start()

    def alarm(self, alarm: Alarm) -> None:
        """Hand it to the thread."""
        plain = json.loads(alarm.model_dump_json())
        text = f"{self._run}: {alarm.message}" if self._run else alarm.message
        try:
            self._queue.put_nowait(json.dumps({"text": text, "run": self._run, **plain}).encode())
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Wait for what is on its way, as long as the timeout."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=self._timeout)
        self._thread.join(self._timeout)
        if self._dropped or self._thread.is_alive():
            _log.warning("webhook at %s: not all alarms were sent", self._host)

    def _send_all(self) -> None:
        while (body := self._queue.get()) is not None:
            request = urllib.request.Request(self._url, data=body, headers={"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=self._timeout):
                    pass
            except Exception as error:
                _log.warning("webhook at %s: %s", self._host, type(error).__name__)


class TrackerAlerts(Alerts):
    """Measurements and alarms in an experiment tracker, by anything with `log(values, step)`.

    Args:
        logger: `rlrs.integrations.loggers.TensorBoard` or `MLflow`, a Weights & Biases run, the trackio module.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def observation(self, seen: Observation) -> None:
        """Log all numbers of a step."""
        self._logger.log({f"monitor/{name}": value for name, value in scalars(seen).items()}, seen.step)

    def alarm(self, alarm: Alarm) -> None:
        """Log it as `alarm/CHECK` or `alarm/CHECK/COMPONENT`, with its value."""
        where = f"/{alarm.component}" if alarm.component else ""
        self._logger.log({f"alarm/{alarm.check}{where}": alarm.value}, alarm.step)


class PrometheusFile(Alerts):
    """A file for node_exporter's textfile collector, replaced in one step at every observation.

    Gauges `rlrs_step`, `rlrs_loss` and so on, `rlrs_component_lr{component="router"}` and so on, the counter
    `rlrs_alarms_total{check="...",component="..."}`, and `rlrs_observed_timestamp_seconds`, by which a run that hangs
    shows.

    Args:
        path: in the collector's folder; its name should end in `.prom`.
        run: label of all samples.

    Raises:
        ValueError: another ending, which the collector would not read.
    """

    def __init__(self, path: str | Path, *, run: str = "") -> None:
        self.path = Path(path)
        if self.path.suffix != ".prom":
            raise ValueError(f"{self.path}: node_exporter reads files that end in .prom alone")
        self._run = run
        self._alarms: Counter[tuple[str, str]] = Counter()
        self._values: dict[str, float] = {}

    def observation(self, seen: Observation) -> None:
        """Write the file anew."""
        self._values |= {"step": seen.step, **scalars(seen)}  # an evaluation has a loss of its own alone
        self._write()

    def alarm(self, alarm: Alarm) -> None:
        """Count it, and write the file anew."""
        self._alarms[alarm.check, alarm.component or ""] += 1
        self._write()

    def _write(self) -> None:
        samples: dict[str, list[str]] = {}
        for name, value in self._values.items():
            what, _, component = name.partition("/")
            metric = f"rlrs_component_{what}" if component else f"rlrs_{what}"
            labels = {"component": component} if component else {}
            samples.setdefault(metric, []).append(self._sample(metric, labels, value))
        samples["rlrs_observed_timestamp_seconds"] = [
            self._sample("rlrs_observed_timestamp_seconds", {}, round(time.time(), 3))
        ]
        counts = [
            self._sample("rlrs_alarms_total", {"check": check, "component": component}, count)
            for (check, component), count in sorted(self._alarms.items())
        ]
        lines = []
        for metric, rows in (samples | ({"rlrs_alarms_total": counts} if counts else {})).items():
            kind = "counter" if metric.endswith("_total") else "gauge"
            lines += [f"# HELP {metric} {_HELP[metric]}", f"# TYPE {metric} {kind}", *rows]
        write_atomic(self.path, "\n".join(lines) + "\n")

    def _sample(self, metric: str, labels: dict[str, str], value: float) -> str:
        named = {**({"run": self._run} if self._run else {}), **labels}
        inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in named.items())
        number = str(value).replace("inf", "Inf").replace("nan", "NaN")
        return f"{metric}{{{inside}}} {number}" if inside else f"{metric} {number}"


class AuditAlerts(Alerts):
    """Alarms in the audit trail of a folder (`rlrs.audit`), and what a guard did as decisions.

    Args:
        folder: of the run; it must exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = folder

    def alarm(self, alarm: Alarm) -> None:
        """Note it."""
        from rlrs.audit import note

        facts = json.loads(alarm.model_dump_json())
        said = alarm.model_copy(update={"action": ""}).message
        note(self._folder, "alarm", message=said, **facts)
        if alarm.action:
            note(self._folder, "decision", decision=alarm.action, reason=said, step=alarm.step)


def scalars(seen: Observation) -> dict[str, float]:
    """The numbers of an observation that are known: `loss`, `grad_norm`, and `lr/COMPONENT` and so on."""
    whole = ("loss", "valid_loss", "grad_norm", "lr_base", "speed", "router_entropy")
    found = {name: getattr(seen, name) for name in whole}
    for component, numbers in seen.components.items():
        found |= {f"{name}/{component}": value for name, value in vars(numbers).items()}
    return {name: value for name, value in found.items() if value is not None}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
