"""What the evidence of a study does not show, from its own numbers."""

from __future__ import annotations

from rlrs.records import ArmSearch, Comparison
from rlrs.report import text
from rlrs.report.summary import Head


def limits(head: Head) -> list[str]:
    """Sentences, the most general first.

    Args:
        head: of the study's page.
    """
    words, results, comparison = head.words, head.results, head.comparison
    horizons = sorted({run.horizon for run in comparison.runs if run.arm == "rlrs"})
    found = [
        _intervals(head),
        words("limits.horizons", lengths=words.list([text.percent(h, 0) for h in horizons])),
        words("limits.one_target", times=head.times()),
        words("limits.seeds"),
        *_tokens(head),
        *head.verdict.notes(),
    ]
    found += [sentence for arm in results.arms for sentence in head.bounds(arm)]
    edge = [words.arm(arm) for arm, a in results.arms.items() if a.transfer and _at_edge(a.transfer)]
    if edge:
        found.append(words("limits.edge", arms=words.list(edge)))
    if any(s.bound == "lower" for s in head.saved.values()):
        found.append(words("limits.lower"))
    if any(not s.agrees for s in head.saved.values()):
        found.append(words("limits.bootstrap"))
    if head.winner == "uniform":
        found.append(words("limits.none"))
    if results.arms.get("constant") is not None and results.arms["constant"].search is None:
        found.append(words("limits.constant"))
    if "embedding_only" not in comparison.losses:
        found.append(words("limits.no_embedding"))
    return found + _diverged(head, comparison)


def _diverged(head: Head, comparison: Comparison) -> list[str]:
    names = [
        head.words("limits.run", arm=head.words.arm(run.arm), seed=run.seed)
        for run in comparison.runs
        if run.status == "diverged"
    ]
    return [head.words("limits.diverged", runs=head.words.list(names))] if names else []


def _tokens(head: Head) -> list[str]:
    """Tokens per active parameter of the target: a gain over a short horizon may be another over a long one."""
    size, tokens = head.results.models.target.parameters, head.comparison.tokens
    if size is None or not tokens or not size.active:
        return []
    return [head.words("limits.tokens", ratio=f"{tokens / size.active:.2g}")]


def _intervals(head: Head) -> str:
    words = head.words
    kind = "student" if head.comparison.stopping is None else "sequence"
    return words.sentences(
        words(f"limits.intervals.{kind}", seeds=words.n(len(head.comparison.seeds), "seed")), words("limits.holm")
    )


def budgets(head: Head) -> str:
    """The budget that all arms had, in words; empty if they did not all have the same."""
    arms = head.results.arms.values()
    proxy = {arm.search.budget for arm in arms if arm.search}
    target = {arm.transfer.budget for arm in arms if arm.transfer}
    if len(proxy) != 1 or len(target) != 1:
        return ""
    return head.words("tuning.budget", proxy=head.words.n(proxy.pop(), "trial"), target=target.pop())


def _at_edge(transfer: ArmSearch) -> bool:
    """Whether the best base rate has no worse one beyond it on some side."""
    rates = [trial.params["lr"] for trial in transfer.trials if "lr" in trial.params]
    return bool(rates) and transfer.best["lr"] in (min(rates), max(rates))
