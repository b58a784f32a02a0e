"""Train one model from a `RunSpec`: resumable, and the same numbers every time."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from rlrs.data import TokenData
from rlrs.files import locked, naming, write_atomic
from rlrs.records import Pruning, RunResult
from rlrs.records.frozen import first_problem
from rlrs.records.results import checksum
from rlrs.settings import HubConfig
from rlrs.training.checkpoint import CheckpointError
from rlrs.training.distributed import World
from rlrs.training.loop import Loop, OnStep
from rlrs.training.spec import RunSpec
from rlrs.training.stopping import StopFlag


def train(
    spec: RunSpec,
    data: TokenData,
    folder: str | Path | None = None,
    *,
    progress: OnStep | None = None,
    resume: bool = True,
    validate: bool = True,
    keep_weights: bool = True,
    prune: Pruning | None = None,
    world: World | None = None,
    stop: StopFlag | None = None,
) -> RunResult:
    """Train one model.

    Weights come from the seed and batches from (seed, step), so a run's numbers depend on `spec` alone, on one
    machine and number of threads and ranks. For numbers that do not depend on what else runs, call
    `torch.set_num_threads(1)` before; it is the caller's to set.

    With a folder, writes run.json (the spec), metrics.jsonl, checkpoints/ and at the end result.json into it, and a
    run that was killed goes on from its last checkpoint with the same numbers as if it had not been. A run that has
    its result.json is not trained again, unless it is to be validated and was not.

    Args:
        spec: the run.
        data: tokens; `data.hash` should be `spec.data_hash`.
        folder: of this run alone; made if missing. None writes nothing and computes no metrics (a search's trial).
        progress: called every `log_every` steps and after the last.
        resume: go on from what the folder holds; False starts again.
        validate: evaluate on the validation sample. False saves its time where only the score is wanted.
        keep_weights: checkpoints/ stays, with the state after the last step. False removes it when the run is
            finished: a study's runs are wanted for their numbers.
        prune: when to end the run early; for runs without a folder.
        world: the ranks that train this run together, each of which calls this; one process by itself if None.
        stop: looked at after every step; when it is set, the run saves and raises.

    Raises:
        Stopped: `stop` was set; the state is saved, and the same call goes on.
        ValueError: data other than the spec's, ratios for a component that the model does not have, pruning of a run
            with a folder, or a guard of one without.
        ConfigError: too little validation text for one batch, or a batch that the ranks cannot divide.
        CheckpointError: files in the folder that are damaged or belong to another run.
        OSError: files could not be written; it names the folder.

    >>> import numpy as np
    >>> from rlrs.settings import ModelConfig, TrainingConfig
    >>> tokens = np.arange(2000) % 7
    >>> data = TokenData(train=tokens, valid=tokens, sequence_length=8, vocab_size=7, hash="seven")
    >>> spec = RunSpec(
    ...     model=ModelConfig(d_model=16, n_layers=1, n_heads=2),
    ...     training=TrainingConfig(dtype="float32", eval_tokens=64),
    ...     steps=3, batch_size=4, seed=0, lr=0.01, final_fraction=0.1, ratios={"embedding": [(0, 5), (1, 0.5)]},
    ...     data_hash=data.hash,
    ... )
    >>> result = train(spec, data)
    >>> result.status, result.steps, result.tokens
    ('finished', 3, 96)
    """
    if data.hash != spec.data_hash:
        raise ValueError(f"the run is of data {spec.data_hash}, but this data is {data.hash}; prepare it again")
    if folder is not None and prune is not None:
        raise ValueError(f"a run that may be pruned keeps no files; leave out the folder {folder}")
    if folder is None and spec.guard is not None:
        raise ValueError("a run with a guard needs a folder: it looks at the lines of metrics and at checkpoints")
    folder = None if folder is None else Path(folder)
    world, stop = world or World(), StopFlag() if stop is None else stop
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(naming(folder))
            finished = world.from_first(
                lambda: stack.enter_context(_held(folder)) or _enter(folder, spec, resume, validate)
            )
            if finished is not None:
                return finished
        # The run's random numbers are its own: the caller's generators are left as they were.
        stack.enter_context(torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []))
        run = stack.enter_context(
            contextlib.closing(Loop(spec, data, folder, world, validate=validate, prune=prune, stop=stop))
        )
        result = run.train(progress)
        if keep_weights and result.status == "finished":
            run.save()
        run.finish()
        if folder is not None:
            world.from_first(lambda: _leave(folder, spec, result, keep_weights))
    return result


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a run's folder: two arms of a study may come to the same run, and the second one waits for its result."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        yield


def _enter(folder: Path, spec: RunSpec, resume: bool, validate: bool) -> RunResult | None:
    """Make the run's folder this spec's; the result if it holds one already."""
    if not resume:
        _clear(folder)
    _read_json(folder / "run.json", spec.id, frozenset())
    result = _read_result(folder, spec.id)
    if result is not None:
        validated = not validate or result.valid_loss is not None or result.status != "finished"
        if validated and (folder / "metrics.jsonl").exists():
            return result
        _clear(folder)  # a search's trial, trained for its score alone, or a run whose losses are gone
    record = {"id": spec.id, **spec.to_plain()}
    if isinstance(spec.model, HubConfig):  # whose code it is; the id says what was asked for, not by whom it is done
        record["transformers"] = version("transformers")
    write_atomic(folder / "run.json", json.dumps(record, indent=1) + "\n")
    return None


def _clear(folder: Path) -> None:
    for name in ("result.json", "metrics.jsonl", "run.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _read_result(folder: Path, run_id: str) -> RunResult | None:
    needed = frozenset(name for name, field in RunResult.model_fields.items() if field.is_required())
    result = _read_json(folder / "result.json", run_id, needed)  # older ones lack what came later
    if result is None:
        return None
    stored = result.pop("checksum", None)  # older files have none
    if stored is not None and stored != checksum(result):
        raise CheckpointError(
            f"{folder / 'result.json'}: does not go with its checksum: it was changed after it was written, or is "
            "damaged; delete the folder to start the run again"
        )
    try:
        return RunResult(**{name: value for name, value in result.items() if name != "id"})
    except ValidationError as error:
        damage = first_problem(error)
        raise CheckpointError(
            f"{folder / 'result.json'}: is damaged: {damage}; delete the folder to start the run again"
        ) from None


def _leave(folder: Path, spec: RunSpec, result: RunResult, keep_weights: bool) -> None:
    """The run is over: its result, from then on given back without training."""
    plain = {"id": spec.id, **result.to_plain()}
    write_atomic(folder / "result.json", json.dumps({**plain, "checksum": checksum(plain)}, indent=1) + "\n")
    if not keep_weights:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _read_json(path: Path, run_id: str, keys: frozenset[str]) -> dict[str, Any] | None:
    """A JSON file of this run, with these keys at least; None if it is not there."""
    if not path.exists():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict) or not keys | {"id"} <= plain.keys():
        raise CheckpointError(f"{path}: is damaged; delete the folder to start the run again")
    if plain["id"] != run_id:
        raise CheckpointError(f"{path}: belongs to another run ({plain['id']}, not {run_id}); use another folder")
    return plain
