"""`search.space` of a study: which parameters are searched, fixed, tied or excluded, by one syntax."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlrs.search.space import Parameter, Point, Space, bounds, knot_progress, parameter
from rlrs.settings import ConfigError

_TIE = re.compile(r"=\s*(?:(?P<factor>[0-9.eE+-]+)\s*\*\s*)?(?P<name>[A-Za-z_*][\w.%*/-]*)")
_CONDITION = re.compile(r"(?P<name>[A-Za-z_][\w.%/-]*)\s*(?P<sign>[<>])\s*(?P<value>[0-9.eE+-]+)")


def read_space(
    settings: Mapping[str, object],
    start: Point,
    components: Sequence[str],
    defaults: Mapping[str, float],
    *,
    only: Sequence[str] | None = None,
) -> Space:
    """The space that `search.space` of a study describes, on top of the paper's: base rate, final fraction, all ratios.

    A key is a parameter, a component (all its ratios), or a pattern with `*`. Its value is one of

    - `search`, or a mapping of any of `low`, `high`, `start`, `when: "NAME > VALUE"` (or `<`): searched;
    - `fixed`, or a number: it stays at its start, or at that number;
    - `"= NAME"` or `"= 0.5 * NAME"`: tied to another parameter; in a pattern, `*` stands for the same text;
    - `exclude`: no ratio of its own, the component follows the base rate.

    Later keys take precedence.

    Args:
        settings: as in the YAML.
        start: the paper's parameters and where they start, as `start_point` gives them.
        components: names of the model's components.
        defaults: where parameters start that are not in `start`: `weight_decay`, `init_scale` and so on.
        only: components that are searched; what the settings say of others is passed over. All if None.

    Raises:
        ConfigError: one line that names the key, the value, and what would be right.

    >>> start = {"lr": 0.01, "embedding.start": 5.0, "embedding.end": 1.0}
    >>> space = read_space({"lr": "fixed", "embedding.end": "= 0.5 * embedding.start"}, start, ["embedding"], {})
    >>> space.names, space.start()
    (['embedding.start'], {'lr': 0.01, 'embedding.start': 5.0, 'embedding.end': 2.5})
    """
    parameters = {name: parameter(name, value) for name, value in start.items()}
    left_out = set() if only is None else set(components) - set(only)
    for key, value in settings.items():
        if not left_out.isdisjoint(_components_in(key, value, components)) or ("*" in key and only == []):
            continue
        for name in _matching(key, parameters, components, defaults):
            if value == "exclude":
                if knot_progress(name.rpartition(".")[2]) is None:
                    raise ConfigError(f"search.space.{key}: only ratios can be excluded; write fixed, or a number")
                parameters.pop(name, None)
                continue
            old = parameters.get(name) or parameter(name, _first(name, parameters, defaults))
            try:
                parameters[name] = _read(old, value, _star(key, name))
            except ValueError as error:
                raise ConfigError(f"search.space.{key}: {error}") from None
    _check(parameters)
    return Space(_ordered(parameters))


def held_constant(space: Space) -> Space:
    """The same space with one ratio from start to end for every component: its later knots are tied to its start.

    A start that is fixed is free here where a later knot was: constant ratios are searched wherever moving ones are.
    Ties and conditions on a later knot are on the start.

    Args:
        space: as `read_space` gives it.

    Raises:
        ConfigError: nothing is left to search.
    """

    def at_start(name: str) -> str:
        component, _, part = name.rpartition(".")
        return f"{component}.start" if component and knot_progress(part) is not None else name

    freed = {at_start(parameter.name) for parameter in space.free}

    def root(name: str, seen: tuple[str, ...] = ()) -> tuple[float, str]:
        """What a parameter is a multiple of in the end; itself if it is free, fixed, or tied to itself in a circle."""
        name = at_start(name)
        tie = space.parameters[name].tie
        if tie is None or name in freed or at_start(tie[1]) in (name, *seen):
            return 1.0, name
        factor, other = root(tie[1], (*seen, name))
        return tie[0] * factor, other

    held: dict[str, Parameter] = {}
    for old in space:
        factor, name = root(old.name)
        if name != old.name:
            held[old.name] = replace(old, tie=(factor, name), fixed=False, when=None)
            continue
        if old.free or name not in freed:
            new = replace(old, tie=None, fixed=name not in freed)
        else:
            new = parameter(name, old.start)
        if old.when is not None:
            factor, other = root(old.when[0])
            new = replace(new, when=None if other == name else (other, old.when[1], old.when[2] / factor))
        held[name] = new
    _check(held)
    return Space(list(held.values()))


def with_frozen(space: Space, components: Sequence[str]) -> Space:
    """The same space with ratios of 0 for components, from start to end."""
    zero = [Parameter(f"{c}.{end}", 0.0, 0.0, 0.0, fixed=True) for c in components for end in ("start", "end")]
    return Space([*space, *zero])


def _components_in(key: str, value: object, components: Sequence[str]) -> set[str]:
    """Components that a line of the settings names, on either side."""
    text = f"{key} {value.get('when', '')}" if isinstance(value, Mapping) else f"{key} {value}"
    return {c for c in components if re.search(rf"(?<![\w.]){re.escape(c)}(?![\w])", text)}


def _matching(
    key: str, parameters: Mapping[str, Parameter], components: Sequence[str], defaults: Mapping[str, float]
) -> list[str]:
    """Names of the parameters that a key speaks of, new ones included."""
    if "*" in key:
        pattern = re.compile(re.escape(key).replace(r"\*", "(.+)"))
        found = [name for name in parameters if pattern.fullmatch(name)]
        component, _, part = key.rpartition(".")
        if not found and component == "*" and (part == "weight_decay" or knot_progress(part) is not None):
            found = [f"{c}.{part}" for c in dict.fromkeys(n.rpartition(".")[0] for n in parameters if "." in n)]
    elif key in parameters or key in defaults:
        found = [key]
    elif key in components:
        found = [n for n in parameters if n.rpartition(".")[0] == key] or [f"{key}.start", f"{key}.end"]
    else:
        component, _, part = key.rpartition(".")
        known = part == "weight_decay" or knot_progress(part) is not None
        found = [key] if known and component in components else []
    if not found:
        options = [*parameters, *defaults, *components]
        near = difflib.get_close_matches(key, options, n=1, cutoff=0.6)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"there are {', '.join(options)}, COMPONENT.weight_decay and knots COMPONENT.50%"
        )
        raise ConfigError(f"search.space: no parameter {key!r}; {hint}")
    return found


def _first(name: str, parameters: Mapping[str, Parameter], defaults: Mapping[str, float]) -> float:
    """Where a parameter starts that the paper's space does not have."""
    component, _, part = name.rpartition(".")
    if (progress := knot_progress(part)) is None:
        return defaults[part if component else name]
    start, end = (parameters.get(f"{component}.{p}") for p in ("start", "end"))
    # A new knot starts between its neighbours, on the logarithmic line from start to end.
    return 1.0 if start is None or end is None else start.start ** (1 - progress) * end.start**progress


def _star(key: str, name: str) -> str:
    """The text that `*` stands for in a key, given a name that it matches."""
    if "*" not in key:
        return ""
    matched = re.fullmatch(re.escape(key).replace(r"\*", "(.+)"), name)
    assert matched is not None
    return matched[1]


def _read(old: Parameter, value: object, star: str) -> Parameter:
    """A parameter as a value of `search.space` wants it."""
    if value == "search":
        return replace(old, fixed=False, tie=None)
    if value == "fixed":
        return replace(old, fixed=True, tie=None)
    if isinstance(value, Mapping):
        return _read_mapping(old, value)
    if isinstance(value, str) and value.startswith("="):
        tie = _TIE.fullmatch(value.strip())
        if tie is None:
            raise ValueError(f'a tie should be "= NAME" or "= FACTOR * NAME", not {value!r}')
        factor = _number(tie["factor"] or 1.0, "factor")
        return replace(old, tie=(factor, tie["name"].replace("*", star)), fixed=False)
    if isinstance(value, str) and not re.fullmatch(r"[0-9.eE+-]+", value):
        raise ValueError(f'should be search, fixed, exclude, a number, "= NAME" or a mapping, not {value!r}')
    return replace(old, start=_within(old.name, _number(value, "value"), "value"), fixed=True, tie=None)


def _read_mapping(old: Parameter, value: Mapping[object, object]) -> Parameter:
    for key in value:
        if key not in ("low", "high", "start", "when"):
            raise ValueError(f"unknown key {key!r}; should be low, high, start or when")
    given = {key: _within(old.name, _number(value[key], key), key) for key in ("low", "high", "start") if key in value}
    new = parameter(old.name, given.get("start", old.start), given.get("low"), given.get("high"))
    if not new.low <= new.start <= new.high or not new.low < new.high:
        raise ValueError(
            f"start should be within bounds, low below high: start={new.start:g}, low={new.low:g}, high={new.high:g}"
        )
    if "when" in value:
        condition = _CONDITION.fullmatch(str(value["when"]).strip())
        if condition is None:
            raise ValueError(f'when should be "NAME > VALUE" or "NAME < VALUE", not {value["when"]!r}')
        new = replace(new, when=(condition["name"], condition["sign"], _number(condition["value"], "when")))
    return new


def _check(parameters: Mapping[str, Parameter]) -> None:
    """Raise a ConfigError for ties and conditions on what is not there, or is itself tied, and for half a ratio."""
    knots: dict[tuple[str, float], str] = {}
    for name, mine in parameters.items():
        for what, other in (
            ("tie", mine.tie[1] if mine.tie else None),
            ("when", mine.when[0] if mine.when else None),
        ):
            if other is None:
                continue
            if other not in parameters or other == name:
                raise ConfigError(
                    f"search.space.{name}: {what} names {other!r}; should be another parameter that is there"
                )
            if parameters[other].tie is not None:
                raise ConfigError(
                    f"search.space.{name}: {what} names {other!r}, which is tied itself; name what it is tied to"
                )
        least, most = bounds(name)
        if mine.free and not least <= mine.start <= most:
            raise ConfigError(
                f"search.space.{name}: starts at {mine.start:g}, and a search moves it by factors: should start from "
                f"{least:g} to {most:g} ({_source(name)}), or be fixed: search.space: {{{name}: fixed}}"
            )
        component, _, part = name.rpartition(".")
        progress = knot_progress(part)
        if component and progress is not None:
            if part not in ("start", "end") and not 0 < progress < 1:
                raise ConfigError(
                    f"search.space.{name}: a knot should be above 0% and below 100%: those two are "
                    f"{component}.start and {component}.end"
                )
            if (first := knots.setdefault((component, progress), name)) != name:
                raise ConfigError(f"search.space.{name}: is the same knot as {first}: give one of them")
            for end in ("start", "end"):
                if f"{component}.{end}" not in parameters:
                    raise ConfigError(
                        f"search.space.{name}: {component} has no {end}, and a ratio needs both: "
                        f"give {component}.{end}, or leave it out as a whole (search.space: {{{component}: exclude}})"
                    )
    if not any(p.free for p in parameters.values()):
        raise ConfigError("search.space: every parameter is fixed or tied; nothing is left to search")


def _source(name: str) -> str:
    """The setting that says where a parameter starts."""
    component, _, part = name.rpartition(".")
    if component and knot_progress(part) is not None:
        return "search.start"
    places = {"lr": "search.lr", "beta1": "training.betas", "beta2": "training.betas", "batch_size": "proxy.batch_size"}
    return places.get(part, "proxy.model.init_scale" if part == "init_scale" else f"training.{part}")


def _ordered(parameters: Mapping[str, Parameter]) -> list[Parameter]:
    """Base first, then components in their order, each with its knots from start to end."""

    def key(name: str) -> tuple[int, float]:
        component, _, part = name.rpartition(".")
        return (order.index(component), -1 if (p := knot_progress(part)) is None else p)

    order = list(dict.fromkeys(name.rpartition(".")[0] for name in ["lr", *parameters]))
    return sorted(parameters.values(), key=lambda p: key(p.name))


def _number(value: object, what: object) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)  # type: ignore[arg-type]  # YAML 1.1 reads 3e-3 as text
    except (TypeError, ValueError):
        raise ValueError(f"{what} should be a number, not {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} should be a finite number, not {value!r}")
    return number


def _within(name: str, value: float, what: object) -> float:
    low, high = bounds(name)
    if not low <= value <= high:
        raise ValueError(f"{what} should be from {low:g} to {high:g}, not {value:g}")
    return value
