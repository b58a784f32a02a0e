"""`rlrs plan`: what a study will cost, what would pay for it, and the smallest that could decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rlrs.cli.number_options import above_zero
from rlrs.cli.terminal import out

if TYPE_CHECKING:
    from rlrs.settings import ComparisonConfig, StudyConfig
    from rlrs.study import PlanRow
    from rlrs.study.timing import StepTimes


def plan(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Settings of the study.", show_default=False)],
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Run directory, whose runs tell pace and noise; runs/NAME if not given."),
    ] = None,
    gain: Annotated[
        float | None,
        typer.Option(
            parser=above_zero("a gain"),
            metavar="NATS",
            help="Nats over the strongest control that would be worth it; for the smallest study.",
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            parser=above_zero("a noise"),
            metavar="NATS",
            help="Of paired differences from seed to seed, in nats; an earlier study's if there is one.",
        ),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Time some steps here, where no run has told the pace.")
    ] = True,
) -> None:
    """Say what a study will cost, here and on a described machine, and what it could show; nothing is written."""
    from rlrs.settings import load_study
    from rlrs.study import check_sources, resolve
    from rlrs.study.timing import step_times

    settings = resolve(load_study(study))
    check_sources(settings)
    where = folder or Path("runs") / settings.name
    times = step_times(settings, where, probe=probe)
    print_plan(settings, times, _smallest(settings, times, where, gain, noise))


def print_plan(study: StudyConfig, times: StepTimes | None = None, more: Iterable[str] = ()) -> None:
    """What a study may cost at most, stage by stage; nothing is trained.

    Args:
        study: settings, resolved.
        times: of a step here.
        more: lines to say after it.
    """
    from rlrs.study import growth, ladder_lines
    from rlrs.study import plan as planned

    rows = planned(study, times)
    table = Table(title=f"Plan of {study.name}: at most")
    for column in ("stage", "runs", "steps each", "tokens", "FLOPs"):
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    if times is not None:
        table.add_column("hours here", justify="right")
    if (machine := study.machine) is not None:
        table.add_column("hours there", justify="right")
        table.add_column(machine.currency, justify="right")
    for name, part in [*((row.stage, [row]) for row in rows), ("all", rows)]:
        table.add_row(name, *_cells(study, part, times is not None), style="bold" if name == "all" else None)
    out.print(table)
    if (factor := growth(study)) is not None:
        out.print(f"The target has {factor:.3g} times the proxy's parameters, without embeddings.", highlight=False)
    if times is not None:
        out.print(f"Hours here are of runs one at a time: {times.how}.{_beside(study, rows)}", highlight=False)
    if machine is not None:
        out.print(f"There is {machine.name}, {machine.price_per_hour:g} {machine.currency} an hour.", highlight=False)
    else:
        out.print("No money is named: the study has no `machine` with a price.", highlight=False)
    rungs = ladder_lines(study) if study.ladder is not None else ()
    for line in (
        *_what_is_searched(study),
        *rungs,
        *_what_is_odd(study),
        *_what_pays(study, rows, times),
        *_what_is_seen(study.comparison),
        *more,
    ):
        out.print(line, highlight=False)
    out.print("Nothing was trained and nothing was written." if times is None else "Nothing was written.")


def _beside(study: StudyConfig, rows: Sequence[PlanRow]) -> str:
    """How long it takes with runs side by side, where they are trained on this machine."""
    from rlrs.environment import cores

    hours, count = [row.hours for row in rows], study.processes or cores()
    if None in hours or count < 2 or study.engine.kind != "processes":
        return ""
    return f" With {count} side by side, about {sum(value or 0.0 for value in hours) / count:.2g} hours."


def _cells(study: StudyConfig, rows: Sequence[PlanRow], timed: bool) -> list[str]:
    """What rows of a plan add up to."""
    runs, tokens, flops = (sum(getattr(row, name) for row in rows) for name in ("runs", "tokens", "flops"))
    steps = str(rows[0].steps) if len(rows) == 1 else ""
    cells = [str(runs), steps, f"{tokens:,}" if tokens else "-", f"{flops:.2e}" if flops else "-"]
    wanted = [("hours", ".2f")] if timed else []
    wanted += [("machine_hours", ".3g"), ("money", ",.2f")] if study.machine is not None else []
    for name, form in wanted:
        values = [getattr(row, name) for row in rows]
        cells.append("-" if None in values else format(sum(values), form))
    return cells


def _what_is_searched(study: StudyConfig) -> Iterator[str]:
    """What every arm's search moves."""
    from rlrs.study.plan import searched

    yield "Searched on the proxy, by arm:"
    for arm, names in searched(study).items():
        yield f"  {arm}: {', '.join(names)}"


def _what_is_odd(study: StudyConfig) -> Iterator[str]:
    """Settings that can be used, and may not be meant."""
    search, training, steps = study.search, study.training, study.proxy.steps
    if search.max_steps is not None and search.max_steps < steps:
        yield f"Note: search.max_steps={search.max_steps} is less than one run of the proxy, proxy.steps={steps}."
    if "score_steps" in training.model_fields_set and training.score_steps > steps:
        yield f"Note: training.score_steps={training.score_steps} is more than proxy.steps={steps}: all of them count."
    for name, other in (("points", "seeds"), ("seeds", "points")):
        if not getattr(search.retest, name) and other in search.retest.model_fields_set:
            yield f"Note: search.retest.{name}=0 tests nothing again, whatever search.retest.{other} is."
            break


def _what_pays(study: StudyConfig, rows: Sequence[PlanRow], times: StepTimes | None) -> Iterator[str]:
    """The saving that would pay for a study, by runs of its target."""
    from rlrs.study.plan import MOST_RUNS, run_of_target, share_that_pays

    run = run_of_target(study, times)
    shares = {runs: share_that_pays(rows, run, runs) for runs in MOST_RUNS}
    known = {runs: share for runs, share in shares.items() if share is not None}
    if not known:
        yield "What would pay for it is not known: neither FLOPs nor hours of its runs are."
        return
    yield f"It costs as much as {known[1]:.3g} runs of the target. To pay for itself, it has to save of their steps"
    for runs, share in known.items():
        if share < 1:
            yield f"  {100 * share:.2g} % where {runs} more such runs follow"
    if all(share >= 1 for share in known.values()):
        yield f"  more than all, even where {max(known)} more follow: a larger target or a smaller study is needed"


def _what_is_seen(comparison: ComparisonConfig) -> Iterator[str]:
    """What so many seeds can show, before any is run."""
    from rlrs.comparison import POWER, smallest_difference

    size = smallest_difference(comparison.seeds)
    yield (
        f"With {comparison.seeds} paired seeds a difference of {size:.1f} times the noise from seed to seed is seen "
        f"with a chance of {POWER:.0%}."
    )
    if comparison.stop == "anytime":
        yield (
            f"The comparison stops between {comparison.seeds} and {comparison.most_seeds} seeds, when the arms are "
            f"told apart or a gain of more than {comparison.margin:g} nats is ruled out."
        )


def _smallest(
    study: StudyConfig, times: StepTimes, folder: Path, gain: float | None, noise: float | None
) -> Iterator[str]:
    """The smallest study that could decide, for a gain and a noise; in units of the noise where they are not given."""
    from rlrs.comparison import POWER, seeds_needed
    from rlrs.study.plan import plan as planned
    from rlrs.study.plan import smallest
    from rlrs.study.timing import measured_noise

    anytime = study.comparison.stop == "anytime"
    earlier = measured_noise(folder)
    said = "as given"
    if noise is None and earlier is not None:
        noise, said = earlier[0], f"as {folder} measured it"
    if gain is None or noise is None:
        sizes = {size: seeds_needed(size, 1.0, anytime=anytime) for size in (0.5, 1.0, 2.0, 4.0)}
        seeds = ", ".join(f"{n} for {size:g} times" for size, n in sizes.items())
        yield f"Seeds that see a gain, by its size in units of the noise from seed to seed: {seeds}."
        missing = "--gain" if noise is not None else "--gain and --noise"
        yield f"For the smallest study that could decide, give {missing}, in nats."
        return
    found = smallest(study, gain, noise)
    if found is None:
        yield f"A gain of {gain:g} nats at a noise of {noise:.3g} nats ({said}) needs more than 1,000 seeds."
        return
    count = found.comparison.most_seeds
    chance = "about, until the arms are told apart" if anytime else f"with a chance of {POWER:.0%}"
    yield (
        f"A gain of {gain:g} nats at a noise of {noise:.3g} nats ({said}) is seen with {count} paired seeds, {chance}. "
        f"The smallest study that could decide for it: arms {', '.join(found.comparison.arms)}, {count} seeds, "
        f"transfer.trials {found.transfer.trials}, searches as they are:"
    )
    cells = _cells(found, planned(found, times), True)
    names = ["runs", "", "tokens", "FLOPs", "hours here"]
    if study.machine is not None:
        names += ["hours there", study.machine.currency]
    yield "  " + ", ".join(f"{cell} {name}" for cell, name in zip(cells, names, strict=True) if name and cell != "-")
