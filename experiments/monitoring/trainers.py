"""The monitor's cost in trainers, in pairs; and the guard of the reference trainer.

Shape suffixes: B sequences, T tokens per sequence.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import rlrs
from experiments.monitoring.runs import LENGTH, VOCAB, chain
from rlrs.data import TokenData
from rlrs.monitoring import Monitor
from rlrs.monitoring.probe import StepProbe
from rlrs.settings import GuardConfig, ModelConfig, TrainingConfig
from rlrs.training import RunSpec, train

Row = dict[str, Any]
PAPER = rlrs.Ratios.preset("paper-moe")
CASES: dict[str, dict[str, Any]] = {
    "rlrs train: ratio of attention 1000": {"ratios": {**PAPER, "attention": 1000.0}},
    "rlrs train: base rate 100 times as high": {"lr": 0.6},
}
GUARD = GuardConfig(
    actions=dict.fromkeys(("non_finite", "loss_rise", "loss_spike", "update_ratio_high"), "rollback"),
    lookback=20,
    pause=10,
    most=10,
    smaller=0.3,
    pull=0.25,
)


def tokens(length: int = LENGTH, vocab: int = VOCAB, count: int = 60_000) -> TokenData:
    """Of the Markov chain of the other runs."""
    probabilities = chain(0).numpy() if vocab == VOCAB else None
    generator = np.random.default_rng(0)
    if probabilities is None:
        drawn = generator.integers(vocab, size=count)
    else:
        steps, drawn = np.cumsum(probabilities, 1), np.zeros(count, int)
        for place, chance in enumerate(generator.random(count - 1), start=1):
            drawn[place] = min(int(np.searchsorted(steps[drawn[place - 1]], chance)), vocab - 1)
    text = drawn.astype(np.uint16)
    part = count // 6
    return TokenData(
        train=text[part:], valid=text[:part], sequence_length=length, vocab_size=vocab, hash=f"chain-{vocab}-{length}"
    )


def run_of(data: TokenData, **changes: Any) -> RunSpec:
    """A run of the reference trainer."""
    ratios = changes.pop("ratios", PAPER)
    training = {"log_every": 5, "checkpoint_every": 20, "eval_tokens": 2048, **changes.pop("training", {})}
    given: Row = {"steps": 300, "batch_size": 8, "seed": 0, "lr": 6e-3, "final_fraction": 0.05, **changes}
    given.setdefault("model", ModelConfig(d_model=16, n_layers=1, n_heads=2, d_ff=16, n_experts=4))
    knots = {name: list(rlrs.Ratios({name: ratio})[name].knots) for name, ratio in dict(ratios).items()}
    return RunSpec(training=TrainingConfig(**training), ratios=knots, data_hash=data.hash, **given)


def guarded_trainer(case: str, seed: int, guard: bool, commit: str | None) -> Row:
    """A run of the reference trainer that goes wrong, with a guard or without."""
    torch.set_num_threads(1)
    data = tokens()
    with tempfile.TemporaryDirectory() as folder:
        spec = run_of(data, seed=seed, guard=GUARD if guard else None, **CASES[case])
        result = train(spec, data, folder)
        alarms = Path(folder) / "alarms.jsonl"
        found = alarms.read_text().splitlines() if alarms.exists() else []
    taken = [rlrs.monitoring.Alarm.model_validate_json(line) for line in found]
    return {
        "kind": "guard",
        "case": case,
        "seed": seed,
        "commit": commit,
        "method": "rollback" if guard else "none",
        "valid_loss": result.valid_loss,
        "steps": result.steps,
        "taken": [[one.step, one.check, one.component, one.action] for one in taken if one.action],
    }


@contextmanager
def inside() -> Iterator[list[float]]:
    """Seconds that are spent in the monitor: its calls, and its hooks on the optimizer, inside the block."""
    spent, depth = [0.0], 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal depth
            depth, began = depth + 1, time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                depth -= 1
                if not depth:  # one that another of them called is counted there
                    spent[0] += time.perf_counter() - began

        return call

    with ExitStack() as patches:
        for owner, names in ((Monitor, ("observe", "evaluated", "expect")), (StepProbe, ("_begin", "_end"))):
            for name in names:
                patches.enter_context(mock.patch.object(owner, name, counted(getattr(owner, name))))
        yield spent


def reference_cost(number: int) -> tuple[float, float, float, float, float]:
    """Seconds of a run of the reference trainer with checks and without: wall clock, and processor time, of each.

    The last: seconds of the run with checks that are spent in them.
    """
    data = tokens(128, 1024)
    model = ModelConfig(d_model=64, n_layers=4, n_heads=4, n_experts=8)
    watch = GuardConfig(actions={"loss_rise": "warn"})
    times: dict[bool, tuple[float, float]] = {}
    within = 0.0
    for on in (True, False) if number % 2 else (False, True):
        training = {"log_every": 10, "checkpoint_every": 1000, "evaluations": 1, "eval_tokens": 1024}
        spec = run_of(data, steps=40, model=model, training=training, guard=watch if on else None)
        with tempfile.TemporaryDirectory() as folder, inside() as spent:
            start = time.perf_counter(), time.process_time()
            train(spec, data, folder)
            times[on] = time.perf_counter() - start[0], time.process_time() - start[1]
        within = spent[0] if on else within
    return (*times[True], *times[False], within)


def transformers_cost(number: int) -> tuple[float, float, float, float, float]:
    """The same of transformers' `Trainer`, from its first step to its last."""
    times: dict[bool, tuple[float, float]] = {}
    within = 0.0
    for on in (True, False) if number % 2 else (False, True):
        with inside() as spent:
            times[on] = _one_fit(on)
        within = spent[0] if on else within
    return (*times[True], *times[False], within)


def _one_fit(monitored: bool) -> tuple[float, float]:
    import transformers

    from rlrs.integrations.transformers import RelativeTrainer
    from rlrs.monitoring import monitor_trainer

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter(), time.process_time()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.took = time.perf_counter() - self.began[0], time.process_time() - self.began[1]

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=4,
        num_attention_heads=4,
        use_cache=False,
    )
    tokens_BT = torch.randint(1024, (320, 128), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in tokens_BT]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=40,
            per_device_train_batch_size=8,
            logging_steps=10,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            learning_rate=1e-3,
        )
        trainer = RelativeTrainer(
            model=transformers.LlamaForCausalLM(config), args=arguments, train_dataset=rows, ratios={"embedding": 5.0}
        )
        if monitored:
            trainer.add_callback(monitor_trainer())
        trainer.add_callback(clock)
        trainer.train()
    return clock.took
