"""What `rlrs.verify` says: findings, and the report that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "inert", "twice", "missing", "two_groups", "clipped", "rate", "pace", "decay", "moved", "rescaled", "misplaced"
]
"""`inert`: the rate has no effect; `twice`: a step is done twice; `missing`: in no optimizer; `two_groups`: in several;
`clipped`: the step is cut; `rate`: another rate than promised; `pace`: the scheduler goes at another pace than the
optimizer; `decay`: weight decay is not what the group says; `moved`: frozen, and moves; `rescaled`: something beside
the optimizer changes the step; `misplaced`: a group has another's parameters."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One component, or a part of one, whose rate is not what it says."""

    kind: Kind
    component: str
    factor: float | None
    """What is realised over what is promised, of the step, the rate, the pace or the decay: 0 where the rate has no
    effect; None where there is no such number."""
    cause: str
    remedy: str
    parameters: tuple[str, ...] = ()


class VerificationError(RuntimeError):
    """A verified loop has findings; the message is the report."""


@dataclass(frozen=True)
class Report:
    """What `verify` found. `str()` of it is a table."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    """What is unusual without being wrong, and what could not be judged."""
    steps: int = 0
    """Optimizer steps looked at, of all optimizers together."""
    components: tuple[str, ...] = ()
    """Components of which at least one parameter's rate was tried."""

    @property
    def ok(self) -> bool:
        """Whether there is no finding, and at least one component's rate could be tried."""
        return not self.findings and bool(self.components)

    def raise_for_findings(self) -> None:
        """Raise a `VerificationError` unless the report is `ok`."""
        if not self.ok:
            raise VerificationError(str(self))

    def __str__(self) -> str:
        what = f"{self.steps} optimizer steps, rates tried of: {', '.join(self.components) or 'nothing'}"
        if not self.steps:
            lines = ["rlrs.verify saw no optimizer step: nothing is known"]
        elif not self.findings and not self.components:
            lines = [f"nothing could be judged ({what})"]
        elif not self.findings:
            lines = [f"rates are as promised ({what})"]
        else:
            lines = [f"{len(self.findings)} findings ({what})"] if len(self.findings) > 1 else [f"1 finding ({what})"]
            rows = [("component", "what", "factor"), *map(_row, self.findings)]
            widths = [max(len(row[i]) for row in rows) for i in range(3)]
            pad = " " * (sum(widths) + 6)
            for index, row in enumerate(rows):
                start = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + "  "
                if not index:
                    lines.append(f"{start}cause, and what to do")
                    continue
                finding, before = self.findings[index - 1], self.findings[index - 2] if index > 1 else None
                if before and (finding.cause, finding.remedy) == (before.cause, before.remedy):
                    lines.append(f"{start}as above")
                else:
                    lines += [f"{start}{finding.cause}", f"{pad}-> {finding.remedy}"]
                if finding.parameters:
                    lines.append(f"{pad}   {_some(finding.parameters)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _row(finding: Finding) -> tuple[str, str, str]:
    factor = "-" if finding.factor is None else f"{finding.factor:.3g}"
    return finding.component, finding.kind.replace("_", " "), factor


def _some(names: Sequence[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
