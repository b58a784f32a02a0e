"""Run a search method against a function in place of training."""

import math

from rlrs.records import RunResult, SearchResult, Trial


def ended(proposal, number, batch, score, steps=10, **result):
    """The trial of a proposal whose run scored so; it diverged where that is infinite."""
    status = "finished" if math.isfinite(score) else "diverged"
    plain = {"status": status, "steps": steps, "score": score if status == "finished" else None, **result}
    run = RunResult(**{"valid_loss": None, "tokens": steps, "seconds": 0.1, **plain})
    return Trial(**dict(proposal), number=number, batch=batch, run=f"{number:012x}", result=run)


def after(history, proposals, results):
    """A history with one more batch; `results` says what came of a proposal."""
    batch = history[-1].batch + 1 if history else 0
    return [*history, *(results(p, len(history) + n, batch) for n, p in enumerate(proposals))]


def follow(method, results):
    """The trials of a whole search, and its result."""
    history = []
    while not isinstance(asked := method.ask(history), SearchResult):
        assert asked, "a batch of nothing"
        history = after(history, asked, results)
    return history, asked


def drive(method, loss):
    """The batches that a method asked for when its points score `loss(params)`, and what it ended with."""
    history, result = follow(method, lambda p, number, batch: ended(p, number, batch, loss(p.params)))
    batches = {}
    for trial in history:
        batches.setdefault(trial.batch, []).append(trial)
    return list(batches.values()), result


class Fixed:
    """A method that asks for stated batches, and ends with a stated point."""

    def __init__(self, *batches, best=None, reason="over"):
        self.batches, self.best, self.reason = batches, best, reason

    def ask(self, history):
        asked = history[-1].batch + 1 if history else 0
        return list(self.batches[asked]) if asked < len(self.batches) else self.result(history, self.reason)

    def result(self, history, reason):
        best = self.best or history[0].params
        score = next((t.score for t in history if t.params == best and t.whole and t.measured), None)
        return SearchResult(best=best, score=score, reason=reason, rounds=1)
