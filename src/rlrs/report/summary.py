"""The head of a study's page, for those who decide: what to do, what it saves, how sure that is, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlrs.comparison import Account, PaysOff, Verdict, account, judged_again, saving_shown, unstable
from rlrs.comparison.savings import saved_by_winner
from rlrs.comparison.seed_stopping import stopping
from rlrs.records import Interval, Refutation, Results, SpeedUp, Standing, Unstable
from rlrs.report import text
from rlrs.report.wording import Wording
from rlrs.settings import Arm

TERMS = ("nat", "proxy", "target", "arm", "seed")
"""Words that the head explains where they first occur."""


@dataclass(frozen=True)
class Saving:
    """Steps saved against one control, as the head of the page shows them.

    Args:
        big: the number in large type, or words where no saving is shown.
        shown: whether the results show a saving.
        control: the arm that it is against.
        against: the line below the number.
        details: bound, interval, steps and loss, a few words each.
        source: place in results.json.
    """

    big: str
    shown: bool
    control: str
    against: str
    details: list[str]
    source: str


@dataclass(frozen=True)
class Fact:
    """A question of those who decide, with its answer, and the places in results.json that it was made from."""

    name: str
    question: str
    answer: str
    sources: list[str]
    terms: list[tuple[str, str]] = field(default_factory=list)
    """Words that stand here for the first time, each with its meaning."""


class Head:
    """The head of one study's page.

    Args:
        results: of the study, with a comparison.
        words: of the page's language.
        refutations: claims of it that were run again on fresh seeds.
    """

    def __init__(self, results: Results, words: Wording, refutations: Sequence[Refutation] = ()) -> None:
        assert results.comparison is not None
        self.refutations = tuple(refutations)
        self.results, self.comparison, self.words = results, results.comparison, words
        self.judged = judged_again(results.comparison)
        self.winner: Arm = results.comparison.decision.winner
        self.arm: Arm = "rlrs" if self.winner == "uniform" else self.winner
        """Whose savings are shown."""
        against = self.judged.against
        saved = saved_by_winner(results.comparison)
        self.saved: Mapping[Arm, SpeedUp] = {c: found for c, found in saved.items() if (self.arm, c) in against}
        self.verdict = Verdict(
            self.judged,
            self.comparison.speed_up,
            self.comparison.winner_speed_up,
            words,
            self.comparison.general,
            self.comparison.looked_at,
        )
        found = account(results)
        assert found is not None
        self.account: Account = found
        self.fair: Arm | None = self.judged.fair_control
        self._explained: set[str] = set()

    @property
    def controls(self) -> list[Arm]:
        """Controls whose saving was measured: the strongest, then the others, the simplest last."""
        others: list[Arm] = [control for control in reversed(list(self.saved)) if control != self.fair]
        return [self.fair, *others] if self.fair is not None and self.fair in self.saved else others

    @property
    def fair_saved(self) -> SpeedUp | None:
        """Against the strongest control; None where that was not measured, or is no gain."""
        return self.saved[self.fair] if self.fair is not None and self.shown(self.fair) else None

    def headline(self) -> str:
        """Decision and saving in one line."""
        words, fair = self.words, self.fair
        action = words(f"action.{self.winner}")
        if fair is None or not self.verdict.decided:
            return words("head.bought" if self.judged.bought else "head.diverged")
        if self.judged.undecided:
            return words("head.undecided", action=action)
        if self.winner == "uniform":
            return words("head.none", action=action)
        if self.shown(fair):
            return words("head.saves", saved=self.share(self.saved[fair]), control=words.way(fair), action=action)
        gap = self.judged.against[self.arm, fair].mean
        return words("head.lower", gap=f"{-gap:.3f}", control=words.way(fair), action=action)

    def shown(self, control: Arm) -> bool:
        """Whether steps saved against a control may be called a gain."""
        return self.winner != "uniform" and saving_shown(self.saved.get(control), self.standing(control))

    def standing(self, control: Arm) -> Standing | None:
        """Of the arm whose savings are shown, against a control."""
        return self.judged.standings.get((self.arm, control))

    def share(self, saved: SpeedUp) -> str:
        """A saved share in percent, with the sign of its bound."""
        signs = {"none": "", "lower": "\N{GREATER-THAN OR EQUAL TO} ", "upper": "\N{LESS-THAN OR EQUAL TO} "}
        digits = 0 if saved.bound == "lower" else text.digits_for(saved.low, saved.high)
        return signs[saved.bound] + text.percent(saved.mean, digits)

    def interval(self, saved: SpeedUp) -> str:
        """Of a saved share."""
        ends = self.words.between(saved.low, saved.high, text.digits_for(saved.low, saved.high))
        return self.words("saving.interval", level=text.percent(saved.level, 0), ends=ends)

    def savings(self) -> list[Saving]:
        """One card for each control, the fair one first: a number only where the whole interval shows a gain."""
        return [self._card(control) for control in self.controls]

    def _card(self, control: Arm) -> Saving:
        words, saved = self.words, self.saved[control]
        loss: Interval = self.judged.against[self.arm, control]
        gap, least, most = (text.difference(value, 3) for value in (loss.mean, loss.low, loss.high))
        difference = words("saving.difference", gap=gap, range=words.span(least, most))
        place = "speed_up" if self.arm == "rlrs" else "winner_speed_up"
        source, fair = f"comparison.{place}.{control}", control == self.fair and control != "uniform"
        if not self.shown(control):
            never = saved.bound == "upper" and not any(saved.per_seed)
            key = "saving.never" if never else "saving.at_least" if saved.bound == "lower" else "saving.estimate"
            mean = text.percent(saved.mean, text.digits_for(saved.low, saved.high))
            estimate = words(key, mean=mean, interval=self.interval(saved))
            standing = self.standing(control)
            big = words("saving.worse" if standing == "worse" else "saving.none")
            against = words("saving.than" if standing == "worse" else "saving.against", control=words.way(control))
            said = words(f"standing.short.{standing}")
            return Saving(big, False, control, against, [said, estimate, difference], source)
        needed = sum(saved.steps_needed) / len(saved.steps_needed)
        steps = words("saving.steps", needed=text.count(needed), steps=text.count(self.comparison.steps))
        notes = [] if saved.bound == "none" else [words(f"saving.bound.{saved.bound}")]
        interval = [] if saved.bound == "lower" else [self.interval(saved)]
        against = words("saving.fewer_fair" if fair else "saving.fewer", control=words.way(control))
        return Saving(self.share(saved), True, control, against, [*notes, *interval, steps, difference], source)

    def facts(self) -> list[Fact]:
        """Questions of those who decide, each with its answer in a sentence or two."""
        place = "comparison.speed_up" if self.arm == "rlrs" else "comparison.winner_speed_up"
        decision = "comparison.decision.winner"
        parts = [
            (
                "saved",
                self._saved(),
                [*(f"{place}.{c}.mean" for c in self.controls if c in self.saved), "models.target"],
            ),
            ("sure", self._sure(), ["comparison.seeds", "comparison.decision.p_values", "comparison.losses"]),
            ("costs", self._costs(), ["cost", "models.proxy", "models.target", "comparison.runs"]),
            ("pays", self._pays(), ["cost", *(f"{place}.{control}" for control in self.controls)]),
            ("risk", self._risk(), ["models.target.parameters", "comparison.decision.notes"]),
            ("next", self.words(f"next.{'undecided' if self.judged.undecided else self.winner}"), [decision]),
        ]
        return [
            Fact(name, self.words(f"question.{name}"), answer, sources, self.explained(answer))
            for name, answer, sources in parts
        ]

    def explained(self, *sentences: str) -> list[tuple[str, str]]:
        """Terms that occur in these sentences and in none before, each with its meaning."""
        said = " ".join(sentences)
        new = [term for term in TERMS if term not in self._explained and self.words(f"term.{term}.sign") in said]
        self._explained.update(new)
        return [(self.words(f"term.{term}.word"), self.words(f"term.{term}.means")) for term in new]

    def meeting(self) -> list[str]:
        """Three sentences for a meeting: what was found, what it costs, what to do."""
        words = self.words
        times = self.times()
        found = words("meeting.found", verdict=self.verdict.sentence(), times=times)
        return [found, words.sentences(self._costs(), self._pays()), words(f"meeting.next.{self._next_kind()}")]

    def _next_kind(self) -> str:
        return "none" if self.winner == "uniform" or not self.verdict.decided or self.judged.undecided else "gain"

    def _saved(self) -> str:
        words, fair = self.words, self.fair
        gain = self.judged.against.get((self.winner, "uniform"))
        if self.winner == "uniform" or fair is None:
            return words("facts.saved.none")
        if gain is None:  # one rate diverged
            return words("facts.saved.unknown")
        if not self.shown(fair):
            lower = words("facts.saved.lower", gap=f"{-gain.mean:.3f}") if gain.standing == "better" else ""
            return lower or words("facts.saved.none")
        saved = self.saved[fair]
        key = "facts.saved.fair" if fair != "uniform" else "facts.saved.one"
        interval = "" if saved.bound == "lower" else words("facts.saved.interval", interval=self.interval(saved))
        said = [words(key, share=self.share(saved), interval=interval, control=words.way(fair))]
        if fair != "uniform" and self.shown("uniform"):
            said.append(
                words("facts.saved.also", share=self.share(self.saved["uniform"]), control=words.way("uniform"))
            )
        said.append(words("facts.saved.run", amounts=self._amounts(saved.mean)))
        return words.sentences(*said)

    def _amounts(self, share: float) -> str:
        """A share of one run of the target, in every unit that is known."""
        words, whole = self.words, self.account.run
        part = whole * share
        assert part.steps is not None
        assert whole.steps is not None
        said = [words("amount.steps", part=text.count(part.steps), whole=text.count(whole.steps))]
        if part.tokens is not None:
            said.append(words("amount.tokens", part=text.compact(round(part.tokens))))
        if part.hours is not None:
            said.append(words("amount.hours", part=words.duration(3600 * part.hours)))
        if self.account.machine is not None and part.machine_hours is not None and part.money is not None:
            machine = self.account.machine
            money = words.money(part.money, machine.currency)
            hours = words.duration(3600 * part.machine_hours)
            said.append(words("amount.machine", hours=hours, money=money, machine=machine.name))
        return words.list(said)

    def _sure(self) -> str:
        words, comparison = self.words, self.comparison
        said = [words("facts.sure.seeds", seeds=words.n(len(comparison.seeds), "seed"))]
        if comparison.stopping is not None:
            limits = (comparison.stopping.margin, comparison.stopping.max_seeds)
            said.append(stopping(self.judged.losses, comparison.decision, *limits, words).sentence)
        standings = [
            words(
                "facts.sure.standing",
                standing=words(f"standing.{standing}", arm=words.way(control)),
                p=words("number.p", p="< 0.001" if p < 0.001 else f"= {p:.2g}"),
            )
            for (arm, control), standing in self.judged.standings.items()
            if arm == self.arm and (p := self.judged.p_values[arm, control]) is not None
        ]
        if standings:
            arm = words.way(self.arm)
            said.append(words("facts.sure.standings", arm=arm, standings=words("list.parts").join(standings)))
        saved = self.fair_saved
        if saved is not None and saved.bootstrap is not None and saved.bound != "lower":
            ends = words.between(*saved.bootstrap, text.digits_for(*saved.bootstrap))
            said.append(words(f"facts.sure.bootstrap.{'agrees' if saved.agrees else 'differs'}", ends=ends))
        said += [
            words(
                "facts.sure.again",
                seeds=words("refuting.fresh", n=len(one.seeds)),
                upheld=words(f"refuting.upheld.{one.upheld}"),
            )
            for one in self.refutations
            if (one.claim.arm, one.claim.control) == (self.arm, self.fair)
        ]
        return words.sentences(*said)

    def _costs(self) -> str:
        words, stages, total = self.words, self.account.stages, self.account.total
        runs = {name: self.account.in_runs(spent) for name, spent in stages.items()}
        whole = self.account.in_runs(total)
        if whole is None or any(value is None for value in runs.values()):
            amounts = {name: text.count(spent.steps) for name, spent in stages.items()}
            said = [words("facts.costs.steps", parts=self._parts("steps_of", amounts))]
        else:
            amounts = {name: f"{value:.2g}" for name, value in runs.items()}
            said = [words("facts.costs.runs", whole=f"{whole:.2g}", parts=self._parts("runs_of", amounts))]
        if total.hours is not None:
            processes = self.results.environment.get("processes")
            beside = processes if isinstance(processes, int) and processes > 0 else 1
            said.append(words("facts.costs.hours", hours=words.duration(3600 * total.hours), n=beside))
        machine = self.account.machine
        if machine is not None and total.machine_hours is not None and total.money is not None:
            money, hours = words.money(total.money, machine.currency), words.duration(3600 * total.machine_hours)
            said.append(words("facts.costs.machine", money=money, hours=hours, machine=machine.name))
        return words.sentences(*said)

    def _parts(self, unit: str, amounts: Mapping[str, str]) -> str:
        """What each stage took, in a row."""
        return self.words.list([self.words(f"facts.costs.{unit}.{n}", amount=value) for n, value in amounts.items()])

    def _pays(self) -> str:
        words = self.words
        shown: list[Arm] = [control for control in self.controls if self.shown(control)]
        found: dict[Arm, PaysOff | None] = {one: self.account.pays_off(self.saved[one]) for one in shown}
        said = [
            words(
                "facts.pays.first" if place == 0 else "facts.pays.then",
                when=self._when(when, self.saved[one].bound),
                control=words.way(one),
            )
            for place, (one, when) in enumerate(found.items())
            if when is not None
        ]
        if self.judged.undecided:
            return words("facts.pays.undecided")
        if not said:
            unknown = "unknown" if shown else "never" if self.saved or self.winner == "uniform" else "unmeasured"
            return words(f"facts.pays.{unknown}")
        return words.sentences(
            words("facts.pays.joined", said=words("list.parts").join(said)), words("facts.pays.larger")
        )

    def _when(self, found: PaysOff, bound: str) -> str:
        words = self.words
        if bound == "lower":
            return words("facts.pays.at_most", runs=words.n(found.runs, "run"))
        if found.latest is None:
            return words("facts.pays.or_never", runs=words.n(found.runs, "run"), soonest=found.soonest)
        if found.latest == found.soonest:
            return words("facts.pays.plain", runs=words.n(found.runs, "run"))
        span = words.span(text.count(found.soonest), text.count(found.latest))
        return words("facts.pays.range", runs=words.n(found.runs, "run"), range=span)

    def _risk(self) -> str:
        words, notes = self.words, self.verdict.notes()
        if self.winner == "uniform":
            return words.sentences(words("facts.risk.none"), *notes)
        saved = self.fair_saved
        notes += [*self._unstable(), *self.bounds(self.winner)]
        bound = [words("facts.risk.bound")] if saved is not None and saved.bound == "upper" else []
        return words.sentences(*notes, *bound, words("facts.risk.carry", times=self.times()), words("facts.risk.scale"))

    def _unstable(self) -> list[str]:
        """What is known of how near the winner is to the edge of stability; a sentence each."""
        words, found, arm = self.words, self.results.arms[self.winner], self.words.way(self.winner)
        own, said = self.unstable[self.winner], []
        if own.outliers:  # an arm that diverged is in the verdict's notes
            said.append(words("facts.risk.unstable", arm=arm, n=len(own.seeds), runs=own.runs))
        if found.search is not None and found.search.stability is not None and not found.search.stability.stable:
            said.append(words("facts.risk.answer", arm=arm, factor=f"{found.search.stability.factor:g}"))
        if found.transfer is not None and (factor := found.transfer.diverged_at) is not None:
            said.append(words("facts.risk.edge", arm=arm, factor=f"{factor:.3g}"))
        return said

    @property
    def unstable(self) -> Mapping[Arm, Unstable]:
        """Arm -> its unstable runs; made out here for results that are older."""
        comparison = self.comparison
        return comparison.unstable or {
            arm: unstable(losses.per_seed, comparison.seeds) for arm, losses in comparison.losses.items()
        }

    def bounds(self, arm: Arm) -> list[str]:
        """A sentence if an arm's search ended at a bound of its space."""
        words, search = self.words, self.results.arms[arm].search
        found = search.at_bounds if search is not None else ()
        if not found:
            return []
        where = [
            words(f"limits.at_bound.{at.bound}", name=words.parameter(at.name), value=f"{at.value:g}") for at in found
        ]
        wider = [f"{at.name}: {{{at.bound}: {at.wider:g}}}" for at in found if at.wider is not None]
        then = words("limits.widen", wider=", ".join(wider)) if wider else words("limits.fixed")
        return [words("limits.bounds", arm=words.way(arm), where=words("list.between").join(where)) + then]

    def growth(self) -> float | None:
        """The target's parameters over the proxy's; None where they are not known."""
        proxy, target = self.results.models.proxy.parameters, self.results.models.target.parameters
        return target.total / proxy.total if proxy and target else None

    def times(self) -> str:
        """How much larger the target is, in words."""
        times = self.growth()
        return self.words("times.unknown") if times is None else self.words("times.known", times=f"{times:.3g}")
