"""What changed between two trails: code, data, settings, ratios, decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlrs.audit.entries import AuditEntry
from rlrs.audit.trail import Trail

_SAID = ("alarm", "decision", "override", "sign_off")
_WHERE = {"begun": "start", "resumed": "start"}


@dataclass(frozen=True)
class TrailDifference:
    """One difference; `None` where a trail has nothing of the kind.

    >>> print(TrailDifference("data.hash", "700e566cb85d", "1f6c0a9e7d21"))
    data.hash: '700e566cb85d' -> '1f6c0a9e7d21'
    """

    what: str
    """Kind and fact, dotted."""
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            there, value = ("only in B", self.after) if self.before is None else ("only in A", self.before)
            return f"{self.what}, {there}: {value!r}"
        return f"{self.what}: {self.before!r} -> {self.after!r}"


def differences(before: Trail, after: Trail) -> list[TrailDifference]:
    """What the second trail says otherwise than the first: the last of each fact, and all alarms and decisions.

    Times, actors and digests of files are not compared: they differ between any two runs.

    Raises:
        AuditError, OSError: a trail cannot be read.

    >>> import tempfile
    >>> a, b = Trail(tempfile.mkdtemp()), Trail(tempfile.mkdtemp())
    >>> for trail, start in ((a, 5), (b, 4)):
    ...     _ = trail.append("ratios", {"arm": "rlrs", "ratios": {"embedding": {"start": start, "end": 0.5}}})
    >>> _ = b.append("override", {"what": "lr", "value": 0.002, "reason": "smaller batch"})
    >>> print(*differences(a, b), sep="\\n")
    ratios.rlrs.embedding.start: 5 -> 4
    override, only in B: 'lr=0.002: smaller batch'
    """
    first, second = _Said(before), _Said(after)
    found = []
    for name in dict.fromkeys([*first.facts, *second.facts]):
        left, right = first.facts.get(name), second.facts.get(name)
        if left != right:
            found.append(TrailDifference(name, left, right))
    for kind in _SAID:
        left, right = list(first.said[kind]), list(second.said[kind])
        for sentence in first.said[kind]:
            if sentence in right:
                left.remove(sentence)
                right.remove(sentence)
        found += [TrailDifference(kind, sentence, None) for sentence in left]
        found += [TrailDifference(kind, None, sentence) for sentence in right]
    return found


def sentence(entry: AuditEntry) -> str:
    """What an entry says, in a line.

    >>> import tempfile
    >>> sentence(Trail(tempfile.mkdtemp()).append("alarm", {"check": "loss", "message": "a loss of 11.2"}))
    'loss: a loss of 11.2'
    """
    facts = entry.facts
    match entry.kind:
        case "alarm":
            check, message = str(facts.get("check")), str(facts.get("message"))
            return message if message.startswith(f"{check} ") else f"{check}: {message}"  # the monitor's begin with it
        case "decision":
            return f"{facts.get('decision')}: {facts.get('reason')}"
        case "override":
            return f"{facts.get('what')}={facts.get('value')}: {facts.get('reason')}"
        case "sign_off":
            return str(facts.get("statement"))
        case "failed":
            return str(facts.get("error"))
        case "begun" | "resumed" if isinstance(code := facts.get("environment"), Mapping):
            return f"rlrs {code.get('rlrs')}, commit {code.get('commit')}"
        case "ratios" if isinstance(ratios := facts.get("ratios"), Mapping):
            return "; ".join([str(facts.get("arm", "ratios")), *(f"{name} {_ends(r)}" for name, r in ratios.items())])
        case "ended" if isinstance(files := facts.get("files"), Mapping):
            return ", ".join([str(facts.get("status")), *(f"{name} {str(d)[:12]}" for name, d in files.items())])
        case _:
            return ", ".join(f"{name} {value}" for name, value in flat(facts, ""))


def _ends(ratio: Any) -> str:
    if isinstance(ratio, Mapping) and {"start", "end"} <= ratio.keys():
        return f"{ratio['start']} -> {ratio['end']}"
    return str(ratio)


def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested facts, by dotted name; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


class _Said:
    """The last of each fact of a trail, and everything that was said in it."""

    def __init__(self, trail: Trail) -> None:
        self.facts: dict[str, Any] = {}
        self.said: dict[str, list[str]] = {kind: [] for kind in _SAID}
        for entry in trail:
            if entry.kind in self.said:
                self.said[entry.kind].append(sentence(entry))
            elif entry.kind != "torn":
                self._keep(entry)

    def _keep(self, entry: AuditEntry) -> None:
        facts, name = dict(entry.facts), _WHERE.get(entry.kind, entry.kind)
        facts.pop("files", None)
        if entry.kind == "ratios":
            name = f"ratios.{facts.get('arm', 'ratios')}"
            facts = {**facts.get("ratios", {}), "provenance": facts.get("provenance", {})}
        for known in [key for key in self.facts if key.startswith(f"{name}.")]:
            del self.facts[known]  # what a later entry of the kind leaves out is no longer so
        self.facts.update((key, value) for key, value in flat(facts, name) if value != {})
