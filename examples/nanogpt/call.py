"""The same training as a function that a study calls, in the place of a command."""

import train as script


def train(run):
    """Train one run; the values of `set` are the script's own options."""
    options = {**run.args, "steps": run.steps, "lr": run.lr, "seed": run.seed}
    script.main([f"--{name}={value}" for name, value in options.items()])
