"""Run a search method against a function in place of training."""

from rlrs.search.methods import Feedback


def drive(method, loss):
    """The batches that a method proposed when its points score `loss(params)`, and how it stopped."""
    batches, scores = [], None
    while True:
        try:
            batch = next(method) if scores is None else method.send(scores)
        except StopIteration as stop:
            return batches, stop.value
        batches.append(batch)
        scores = [Feedback(loss(proposal.params)) for proposal in batch]
