"""Relative rates per component: values, presets, and the `ratios.yaml` that carries them with their provenance."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrs.files import write_atomic
from rlrs.schedules import check_knots
from rlrs.yaml_files import YAMLError, dump_yaml, load_yaml

SCHEMA = 1
"""Version of ratios.yaml that this code writes; it reads this one and earlier ones."""


class RatiosError(ValueError):
    """Ratios, or a ratios.yaml, that cannot be used; one line: what is wrong, where, what would be right."""


@dataclass(frozen=True)
class Ratio:
    """One component's relative rate over a run.

    Args:
        knots: pairs (progress, ratio), from progress 0 (end of the warm-up) to 1 (last step). The ratio scales
            the base rate at that point; between knots the rate follows `rlrs.schedules.Curve`.
    """

    knots: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        try:
            check_knots(self.knots)
        except ValueError as error:
            raise RatiosError(str(error)) from None

    @classmethod
    def of(cls, value: Ratio | float | Sequence[Any] | Mapping[str, Any]) -> Ratio:
        """A ratio from a number (held), a pair (start, end), a list of knots, or the mapping of ratios.yaml.

        Raises:
            RatiosError: none of these, or a value that is not a number >= 0.
        """
        if isinstance(value, Ratio):
            return value
        if isinstance(value, Mapping):
            return cls._of_mapping(value)
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) == 2 and not any(isinstance(part, Sequence | Mapping) for part in value):
                return cls._between(value[0], value[1])
            return cls._of_knots(value)
        return cls._between(value, value)

    @classmethod
    def _between(cls, start: Any, end: Any) -> Ratio:
        return cls(((0.0, _number(start, "start")), (1.0, _number(end, "end"))))

    @classmethod
    def _of_knots(cls, value: Any) -> Ratio:
        if not isinstance(value, Sequence) or not all(isinstance(k, Sequence) and len(k) == 2 for k in value):
            raise RatiosError(f"knots should be a list of pairs [progress, ratio], not {value!r}")
        return cls(tuple((_number(p, "progress"), _number(r, f"ratio at progress {p}")) for p, r in value))

    @classmethod
    def _of_mapping(cls, value: Mapping[str, Any]) -> Ratio:
        if set(value) == {"knots"}:
            return cls._of_knots(value["knots"])
        for key in value:
            if key not in ("start", "end"):
                raise RatiosError(f"unknown key {key!r}; should be start and end, or knots")
        for key in ("start", "end"):
            if key not in value:
                raise RatiosError(f"{key} is missing; should be start and end, or knots")
        return cls._between(value["start"], value["end"])

    @property
    def start(self) -> float:
        """Ratio at the end of the warm-up."""
        return self.knots[0][1]

    @property
    def end(self) -> float:
        """Ratio at the last step."""
        return self.knots[-1][1]

    def times(self, factor: float) -> Ratio:
        """The same change over a run, at `factor` times the rate."""
        return Ratio(tuple((progress, ratio * factor) for progress, ratio in self.knots))

    def to_plain(self) -> dict[str, Any]:
        """The ratio as in ratios.yaml."""
        if len(self.knots) == 2:
            return {"start": self.start, "end": self.end}
        return {"knots": [list(knot) for knot in self.knots]}


BASE = Ratio(((0.0, 1.0), (1.0, 1.0)))
"""The base rate itself, which every component follows that no ratio names."""

# Tables of arXiv:2507.03526, tuned by its authors on 8-block, d_model = 512 proxies.
PRESETS: dict[str, dict[str, tuple[float, float]]] = {
    "uniform": {},
    "paper-moe": {
        "embedding": (5.0, 0.666),
        "attention": (1.0, 1.0),
        "router": (0.666, 1.0),
        "experts": (0.3, 1.125),
        "unembedding": (0.666, 0.444),
    },
    "paper-dense": {
        "embedding": (5.0, 0.6666),
        "attention": (1.0, 0.2),
        "feed_forward": (1.0, 0.6666),
        "unembedding": (1.0, 0.4444),
    },
}


class Ratios(Mapping[str, Ratio]):
    """Component name -> `Ratio`, with provenance. Components that are not named follow the base rate.

    A name may be finer than a component: `attention/layer.0-3`, `experts/expert.2` (`rlrs.components.granularity`).

    Args:
        ratios: values as `Ratio.of` takes them: `{"embedding": (5.0, 0.666), "norm": 1.0}`.
        provenance: where the values come from; plain data, kept as it is.

    Raises:
        RatiosError: a value that is not a ratio; the message names the component.
    """

    def __init__(self, ratios: Mapping[str, Any] | None = None, provenance: Mapping[str, Any] | None = None) -> None:
        self._ratios: dict[str, Ratio] = {}
        self.provenance: dict[str, Any] = dict(provenance or {})
        for component, value in (ratios or {}).items():
            if not isinstance(component, str) or not component:
                raise RatiosError(f"a component's name should be text, not {component!r}")
            try:
                self._ratios[component] = Ratio.of(value)
            except RatiosError as error:
                raise RatiosError(f"{component}: {error}") from None

    @classmethod
    def preset(cls, name: str) -> Ratios:
        """Ratios that come with the library: `paper-moe`, `paper-dense`, `uniform`.

        Raises:
            RatiosError: no preset of that name.
        """
        if name not in PRESETS:
            raise RatiosError(f"no preset {name!r}; there are {', '.join(sorted(PRESETS))}")
        source = {} if name == "uniform" else {"source": "arXiv:2507.03526"}
        return cls(PRESETS[name], {"preset": name, **source})

    @classmethod
    def load(cls, path: str | Path) -> Ratios:
        """Read a ratios.yaml.

        Raises:
            RatiosError: the file cannot be read, or is not a ratios.yaml of a schema that this code knows.
        """
        path = Path(path)
        try:
            raw = load_yaml(path)
        except YAMLError as error:
            raise RatiosError(str(error)) from None
        try:
            return cls._from_plain(raw)
        except RatiosError as error:
            raise RatiosError(f"{path}: {error}") from None

    @classmethod
    def _from_plain(cls, raw: Any) -> Ratios:
        if not isinstance(raw, Mapping):
            raise RatiosError("should be a mapping with the keys schema, ratios and provenance")
        for key in raw:
            if key not in ("schema", "ratios", "provenance"):
                near = difflib.get_close_matches(str(key), ("schema", "ratios", "provenance"), n=1)
                raise RatiosError(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        schema = raw.get("schema")
        if isinstance(schema, bool) or not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
            raise RatiosError(f"schema should be a whole number from 1 to {SCHEMA}, not {schema!r}")
        for key in ("ratios", "provenance"):
            if not isinstance(raw.get(key, {}), Mapping):
                raise RatiosError(f"{key} should be a mapping, not {raw[key]!r}")
        if "ratios" not in raw:
            raise RatiosError("ratios is missing")
        return cls(raw["ratios"], raw.get("provenance"))

    def save(self, path: str | Path) -> None:
        """Write a ratios.yaml, atomically; the same ratios and provenance give the same bytes."""
        plain = {
            "schema": SCHEMA,
            "ratios": {component: ratio.to_plain() for component, ratio in self._ratios.items()},
            "provenance": self.provenance,
        }
        write_atomic(Path(path), dump_yaml(plain, default_flow_style=None, width=100))

    def __getitem__(self, component: str) -> Ratio:
        return self._ratios[component]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ratios)

    def __len__(self) -> int:
        return len(self._ratios)

    def __repr__(self) -> str:
        listed = ", ".join(
            f"{component}: " + " -> ".join(f"{value:g}" for _, value in ratio.knots)
            for component, ratio in self._ratios.items()
        )
        return f"Ratios({listed})"

    def check_used(self, components: Sequence[str], where: str) -> None:
        """Raise a RatiosError that names the ratios for components that are not there: they would do nothing.

        Args:
            components: names of the components that are there.
            where: what they are components of, for the message.
        """
        unused = [component for component in self if component not in components]
        if unused:
            near = difflib.get_close_matches(unused[0], components, n=1, cutoff=0.75)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(components)}"
            raise RatiosError(f"ratios name {', '.join(unused)}, which {where} does not have{hint}")


def _number(value: Any, what: str) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 3e-1 as text
        try:
            value = float(value)
        except ValueError:
            raise RatiosError(f"{what} should be a number, not {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RatiosError(f"{what} should be a number, not {value!r}")
    if not math.isfinite(value) or value < 0:
        raise RatiosError(f"{what} should be 0 or more, not {value!r}")
    return float(value)
