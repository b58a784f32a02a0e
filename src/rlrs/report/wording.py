"""Names and numbers in the language of a page."""

from __future__ import annotations

from rlrs.report import text
from rlrs.words import Words


class Wording(Words):
    """A catalogue, with what a page names and counts.

    Args:
        language: `en` or `ja`.

    Examples:
        >>> Wording("en").parameter("embedding.start"), Wording("en").duration(341.2)
        ('embedding, start', '5 min 41 s')
    """

    def arm(self, name: str) -> str:
        """An arm as figures and tables name it."""
        return self.get(f"arm.name.{name}") or name.replace("_", " ")

    def way(self, name: str) -> str:
        """An arm in a sentence: "one tuned learning rate"."""
        return self.get(f"arm.sentence.{name}") or self.arm(name)

    def component(self, name: str) -> str:
        """A component as read by people; a part of one (`experts/expert.2`) keeps the name of the part."""
        base, slash, part = name.partition("/")
        known = self.get(f"component.{base}") or base.replace("_", " ")
        return f"{known}{slash}{part.replace('_', ' ')}"

    def parameter(self, name: str) -> str:
        """A searched parameter: `embedding.start` is "embedding, start"."""
        component, _, part = name.rpartition(".")
        plain = self.get(f"parameter.{part}") or part.replace("_", " ")
        return self("parameter.of", component=self.component(component), part=plain) if component else plain

    def n(self, n: int, what: str) -> str:
        """A count with its noun: 1 trial, 4 trials."""
        return self(f"count.{what}", n=n)

    def between(self, low: float | None, high: float | None, digits: int) -> str:
        """An interval of shares in percent, nothing above all."""
        if low is None or high is None:
            return text.NONE
        high = min(high, 1.0)  # no share is above 1; Student's interval of a few seeds may be
        return self("number.between", low=text.number(100 * low, f".{digits}f"), high=text.percent(high, digits))

    def span(self, low: str, high: str) -> str:
        """Two numbers that something lies between."""
        return self("number.between", low=low, high=high)

    def duration(self, seconds: float) -> str:
        """A time span: 48 s, 5 min 41 s, 3 h 20 min; 400 h from a hundred on."""
        whole = round(seconds)
        if seconds < 10:
            return self("time.s", s=text.number(seconds, ".2g"))
        if whole < 60:
            return self("time.s", s=whole)
        if whole < 3600:
            return self("time.min", min=whole // 60, s=whole % 60)
        if whole < 360_000:
            return self("time.h", h=whole // 3600, min=whole % 3600 // 60)
        return self("time.hours", h=text.count(whole / 3600))

    def money(self, value: float, currency: str) -> str:
        """A sum, to the cent below a hundred."""
        digits = text.count(value) if value >= 100 else text.number(value, ".2f")
        digits = "< 0.01" if 0 < value < 0.005 else digits
        return f"{digits}\N{NO-BREAK SPACE}{currency}"

    def sentences(self, *parts: str) -> str:
        """Whole sentences one after another; empty ones are left out."""
        return self("sentence.between").join(part for part in parts if part)
