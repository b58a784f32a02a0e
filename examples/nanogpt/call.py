"""The same training as functions that a study calls: `trainer: {call: call.py:train, model: call.py:make}`."""

import train as script


def train(run):
    """Train one run; the values of `set` are the script's own options."""
    options = {"width": run.args["width"], "layers": run.args["layers"], "batch-size": run.args.get("batch", 8)}
    options |= {"steps": run.steps, "lr": run.lr, "seed": run.seed, "log-every": 1}
    script.main([f"--{name}={value}" for name, value in options.items()])


def make(width, layers, **others):
    """The model of a size."""
    return script.GPT(width, layers)
