"""Relative rates per component: values, presets, and the `ratios.yaml` that carries them with their provenance."""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlrs.files import write_atomic
from rlrs.restarts import Restarts
from rlrs.schedules import LARGEST_RATE, BaseSchedule, Curve, Cycles, Points, check_knots, factors
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

        Examples:
            >>> Ratio.of(2).knots, Ratio.of((5, 0.5)).end
            (((0.0, 2.0), (1.0, 2.0)), 0.5)
        """
        if isinstance(value, Ratio):
            return value
        if isinstance(value, Mapping):
            return cls._of_mapping(value)
        value = _plain(value)
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) == 2 and all(isinstance(part, str) or not isinstance(part, Sequence) for part in value):
                return cls._between(value[0], value[1])
            return cls._of_knots(value)
        return cls._between(value, value)

    @classmethod
    def _between(cls, start: Any, end: Any) -> Ratio:
        return cls(((0.0, number(start, "start")), (1.0, number(end, "end"))))

    @classmethod
    def _of_knots(cls, value: Any) -> Ratio:
        value = _plain(value)
        pairs = isinstance(value, Sequence) and not isinstance(value, str)
        if not pairs or not all(isinstance(k, Sequence) and not isinstance(k, str) and len(k) == 2 for k in value):
            raise RatiosError(f"knots should be a list of pairs [progress, ratio], not {_shown(value)}")
        return cls(tuple((number(p, "progress"), number(r, f"ratio at progress {p}")) for p, r in value))

    @classmethod
    def _of_mapping(cls, value: Mapping[str, Any]) -> Ratio:
        if set(value) == {"knots"}:
            return cls._of_knots(value["knots"])
        for key in value:
            if key not in ("start", "end"):
                raise RatiosError(f"unknown key {_shown(key)}; should be start and end, or knots")
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

    Examples:
        >>> ratios = Ratios({"embedding": (5.0, 0.666), "norm": 1.0})
        >>> ratios["embedding"].start, ratios["norm"].end
        (5.0, 1.0)

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
                raise RatiosError(f"a component's name should be text, not {_shown(component)}")
            if not component.isprintable():
                raise RatiosError(f"a component's name should be printable text in one line, not {_shown(component)}")
            try:
                self._ratios[component] = Ratio.of(value)
            except RatiosError as error:
                raise RatiosError(f"{component}: {error}") from None

    @classmethod
    def preset(cls, name: str) -> Ratios:
        """Ratios that come with the library: `paper-moe`, `paper-dense`, `uniform`.

        Raises:
            RatiosError: no preset of that name.

        Examples:
            >>> Ratios.preset("paper-dense")["attention"].end
            0.2
        """
        if name not in PRESETS:
            near = _preset_meant(name)
            hint = f"; did you mean {near!r}?" if near else f"; there are {', '.join(sorted(PRESETS))}"
            raise RatiosError(f"no preset {_shown(name)}{hint}")
        source = {} if name == "uniform" else {"source": "arXiv:2507.03526"}
        return cls(PRESETS[name], {"preset": name, **source})

    @classmethod
    def named(cls, name: str) -> Ratios:
        """A preset by its name, or else a ratios.yaml by its path.

        Raises:
            RatiosError: neither; see `preset` and `load`.

        Examples:
            >>> Ratios.named("paper-dense")["attention"].end
            0.2
        """
        if name in PRESETS:
            return cls.preset(name)
        path = Path(name)
        if path.suffix or len(path.parts) > 1 or path.exists():
            return cls.load(path)
        near = _preset_meant(name)
        hint = f"did you mean {near!r}?" if near else f"the presets are {', '.join(sorted(PRESETS))}"
        raise RatiosError(f"no preset or file {_shown(name)}; {hint}")

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
            near = None if path.exists() else _preset_meant(str(path))
            hint = f"; the preset of that name is Ratios.preset({near!r})" if near else ""
            raise RatiosError(f"{error}{hint}") from None
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
                hint = f"did you mean {near[0]!r}?" if near else "components go under the key ratios"
                raise RatiosError(f"unknown key {_shown(key)}; {hint}")
        schema = raw.get("schema", SCHEMA)  # by hand, one writes the ratios alone
        if not isinstance(schema, bool) and isinstance(schema, int) and schema > SCHEMA:
            raise RatiosError(
                f"has schema {_shown(schema)}, of a later rlrs: this one reads {SCHEMA}; use that version"
            )
        if schema != SCHEMA or isinstance(schema, bool):
            raise RatiosError(f"schema should be {SCHEMA}, not {_shown(schema)}")
        for key in ("ratios", "provenance"):
            if not isinstance(raw.get(key, {}), Mapping):
                raise RatiosError(f"{key} should be a mapping, not {_shown(raw[key])}")
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

    def check_used(self, components: Collection[str], where: str) -> list[str]:
        """See that every ratio is for a component that is there; a ratio for another would do nothing.

        Args:
            components: names of the components that are there; of a `Partition`, also those that are tied.
            where: what they are components of, for the messages.

        Returns:
            A sentence for each ratio that does nothing and is no mistake: of a component whose weights are tied to
            another's, and of a preset for a head or a table that the model is made without.

        Raises:
            RatiosError: ratios for components that are not there, nor any of these; the message names the first
                one's nearest name.

        Examples:
            >>> Ratios.preset("paper-dense").check_used(["embedding", "attention", "feed_forward"], "the encoder")
            ['the encoder has no unembedding: the ratio of the preset paper-dense for it does nothing']
            >>> Ratios({"mlp": 2}).check_used(["attention", "feed_forward"], "the model")
            Traceback (most recent call last):
            rlrs.ratios.RatiosError: ratios name mlp, which the model does not have; did you mean 'feed_forward'?
        """
        tied = getattr(components, "tied_components", ())
        owners = _owners_of_tied(components)
        unused = [component for component in self if component not in components]
        notes = [
            f"the ratio of {component} does nothing: its weights are tied to {owners}, whose ratio is theirs too"
            for component in unused
            if component in tied
        ]
        unused = [component for component in unused if component not in tied]
        preset = self.provenance.get("preset")
        if preset in PRESETS and unused and set(unused) <= {"embedding", "unembedding"}:
            return [*notes, *(_lacks(where, component, preset) for component in unused)]
        if unused:
            raise RatiosError(
                f"ratios name {_shortened(', '.join(unused))}, which {where} does not have"
                + self._hint(unused, list(components), preset)
            )
        return notes

    def _hint(self, unused: Sequence[str], components: Sequence[str], preset: Any) -> str:
        other = {"paper-moe": "paper-dense", "paper-dense": "paper-moe"}.get(preset)
        if other and set(PRESETS[other]) <= {*components, "unembedding"}:
            return f"; the preset for it is {other!r}"
        near = _component_meant(unused[0], components)
        return f"; did you mean {near!r}?" if near else f"; it has {', '.join(components)}"

    def rates(
        self,
        step: int,
        *,
        lr: float,
        total_steps: int,
        warmup_steps: int = 0,
        final_fraction: float | None = None,
        schedule: str | Callable[[int], float] = "cosine",
        decay_fraction: float = 0.2,
        restarts: Restarts | None = None,
    ) -> dict[str, float]:
        """Every component's rate at a step, for a loop that sets rates itself: no state, nothing to resume.

        Args:
            step: 0-based, in optimizer steps.
            lr: base peak rate.
            total_steps: `T`, and the rest as for `BaseSchedule`, whose `shape` is `schedule`.
            warmup_steps: `W`.
            final_fraction: base rate at the end over its peak.
            schedule: a shape, or a function of the step that gives the base rate over its peak.
            decay_fraction: share of the steps in which `wsd` decays.
            restarts: further cycles.

        Returns:
            Component -> rate. Any name that the ratios do not have is answered too, with the base rate.

        Raises:
            ValueError: a schedule that cannot be, or a negative step.

        Examples:
            >>> ratios = Ratios({"embedding": (5.0, 0.5)})
            >>> rates = ratios.rates(50, lr=1e-3, total_steps=100, final_fraction=0.1)
            >>> round(rates["embedding"], 6), round(rates["attention"], 6)
            (0.002525, 0.00055)
        """
        lr = number(lr, "lr")
        base = BaseSchedule(
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            final_fraction=final_fraction,
            shape=schedule,
            decay_fraction=decay_fraction,
            restarts=restarts,
        )
        curves = [_points(base, ratio.knots) for ratio in (BASE, *self.values())]
        of_base, *others = factors(base, curves, step)
        return _Rates({name: lr * factor for name, factor in zip(self, others, strict=True)}, lr * of_base)


class _Rates(dict[str, float]):
    """Rates of components, and the base rate for every other name."""

    def __init__(self, rates: Mapping[str, float], base: float) -> None:
        super().__init__(rates)
        self._base = base

    def __missing__(self, component: str) -> float:
        return self._base

    def get(self, component: str, default: Any = None) -> Any:
        """The same as `[]`: there is a rate for every name, so `default` is not used."""
        return self[component]


@lru_cache(maxsize=256)
def _points(schedule: BaseSchedule, knots: tuple[tuple[float, float], ...]) -> Points | Cycles:
    return Curve(schedule, knots).points


# What others call our components; without what is not a letter or a digit.
_ALSO_CALLED = {
    "embedding": "embed embeddings embedtokens tokembeddings tokenembedding tokenembeddings wte emb",
    "position": "wpe pos positions positionembedding positionembeddings posembed",
    "attention": "attn selfattn selfattention qkv mha attentions",
    "feed_forward": "mlp mlps ffn ff ffw feedforward dense",
    "experts": "moe expert routedexperts",
    "shared_experts": "sharedexpert sharedmlp",
    "router": "gate gating routers moegate",
    "norm": "norms ln layernorm rmsnorm layernorms",
    "unembedding": "lmhead head output outputlayer unembed classifier score embedout",
    "adapter": "lora peft adapters",
}


def _component_meant(name: str, components: Sequence[str]) -> str | None:
    """The component that a name is a near miss of, or another word for; finer parts of the name are kept."""
    whole, slash, part = name.partition("/")
    plain = re.sub(r"[^a-z0-9]", "", whole.lower())
    for component, words in _ALSO_CALLED.items():
        if plain in words.split() and component in components:
            return component + slash + part
    near = difflib.get_close_matches(name, components, n=1, cutoff=0.75)
    return near[0] if near else None


def _preset_meant(name: Any) -> str | None:
    plain = str(name).lower().replace("_", "-").removesuffix(".yaml")
    near = difflib.get_close_matches(plain, PRESETS, n=1, cutoff=0.8)
    return near[0] if near else None


def _owners_of_tied(components: Any) -> str:
    """The components whose weights others are tied to, of a `Partition`."""
    tied = getattr(components, "tied", {})
    of = components.component_of() if tied else {}
    return ", ".join(dict.fromkeys(of[name] for name in tied if name in of)) or "another component"


def _lacks(where: str, component: str, preset: str) -> str:
    return f"{where} has no {component}: the ratio of the preset {preset} for it does nothing"


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, numbers.Number) else value


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _shown(value: Any) -> str:
    return _shortened(repr(value), 80)


def number(value: Any, what: str) -> float:
    """A number >= 0 from a number of any library, or from text that is one (YAML 1.1 reads 3e-1 as text).

    Raises:
        RatiosError: it is none, or negative, or above `LARGEST_RATE`; the message names `what`.
    """
    value = _plain(value)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise RatiosError(f"{what} should be a number, not {_shown(value)}") from None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise RatiosError(f"{what} should be a number, not {_shown(value)}")
    try:
        value = float(value)
    except OverflowError:
        raise RatiosError(f"{what} should be a number that a float holds, not {_shown(value)}") from None
    if not math.isfinite(value) or value < 0:
        raise RatiosError(f"{what} should be 0 or more, not {value:g}")
    if value > LARGEST_RATE:
        raise RatiosError(f"{what} should be at most {LARGEST_RATE:g}, not {value:g}")
    return value
