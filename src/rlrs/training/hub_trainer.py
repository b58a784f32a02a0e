"""A run that transformers' `Trainer` or TRL's `SFTTrainer` makes: a study's `trainer: {transformers: ...}`.

Its process is `python -m rlrs.runs.calling rlrs.training.hub_trainer:train`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoTokenizer, TrainingArguments, set_seed

from rlrs.data import TokenData
from rlrs.data.records import load_records
from rlrs.extras import install
from rlrs.integrations.reporting import trainer_callback
from rlrs.integrations.transformers import RelativeTrainer  # which says what is missing
from rlrs.models.hub_folders import folder_model
from rlrs.runs import Run
from rlrs.settings import ConfigError, TransformersConfig

DEFAULTS: dict[str, Any] = {
    **{"logging_steps": 1, "save_steps": 100, "save_total_limit": 2, "disable_tqdm": True, "report_to": "none"},
    **{"bf16": False, "logging_nan_inf_filter": False},
}
"""Arguments that differ from the trainers' own where the study does not give them: every loss is reported, one that is
no number is not hidden, and 16 bits are said (TRL's own default)."""
CHECKPOINTS = "checkpoints"


def train(run: Run) -> None:
    """Train a run, or go on with it from its last whole checkpoint.

    Args:
        run: whose file says what is trained: `transformers`, `data`, and `set` with the model's folder.

    Raises:
        ConfigError: a folder, an argument or adapters that cannot be used.
        RunError: see `Run.finish`.
    """
    trainer = make_trainer(run)
    assert run.folder is not None
    trainer.train(resume_from_checkpoint=_last_whole(run.folder / CHECKPOINTS))
    if run.result is None:
        loss = trainer.evaluate()["eval_loss"] if run.asked.validate_at_end else None
        run.finish(valid_loss=loss)
    if trainer.is_world_process_zero():  # a study's runs are wanted for their numbers
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)


def make_trainer(run: Run) -> Any:
    """The trainer of a run, with its model, data and rates."""
    asked = run.asked
    config = asked.transformers
    assert config is not None
    assert asked.data is not None
    set_seed(run.seed)  # of adapters, and of weights that are not loaded
    folder, data = str(run.args["model"]), Path(asked.data)
    if config.trainer == "SFTTrainer":
        train_records, valid_records, facts = load_records(data)
        names = {"max_length": facts["sequence_length"], "dataset_text_field": facts["text_field"]}
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        from datasets import Dataset as Records

        return _made_from(_sft_trainer(), run)(
            model=folder_model(config, folder, len(tokenizer)),
            args=_arguments(run, names),
            train_dataset=Records.from_list(train_records),
            eval_dataset=Records.from_list(valid_records) if asked.validate_at_end else None,
            processing_class=tokenizer,
        )
    tokens, arguments = TokenData.load(data), _arguments(run, {})
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return _made_from(RelativeTrainer, run)(
        model=folder_model(config, folder, tokens.vocab_size),
        args=arguments,
        train_dataset=_Windows(tokens, run.seed, run.steps * batch),
        eval_dataset=_Sample(tokens, config.eval_tokens) if asked.validate_at_end else None,
    )


def _arguments(run: Run, more: dict[str, Any]) -> Any:
    """The `TrainingArguments`, or `SFTConfig`, of a run."""
    config = run.asked.transformers
    assert config is not None
    sizes = {name: value for name, value in run.args.items() if name not in ("model", "content")}
    beta1, beta2 = run.betas
    folder = str(run.folder / CHECKPOINTS) if run.folder is not None else CHECKPOINTS
    own: dict[str, Any] = {
        **{"output_dir": folder, "max_steps": run.steps, "seed": run.seed, "data_seed": run.seed},
        **{"learning_rate": run.lr, "weight_decay": run.weight_decay, "adam_beta1": beta1, "adam_beta2": beta2},
    }
    return make_arguments(config, {**config.arguments, **sizes}, {**own, **more})


def make_arguments(config: TransformersConfig, given: dict[str, Any], own: dict[str, Any]) -> Any:
    """Arguments of a trainer: what the study gives, what is of the run, and `DEFAULTS` for the rest.

    Raises:
        ConfigError: an argument that there is not, or a value that is refused.
    """
    kind = _sft_config() if config.trainer == "SFTTrainer" else TrainingArguments
    where = "trainer.transformers.arguments"
    if unknown := [name for name in given if name not in kind.__dataclass_fields__]:
        raise ConfigError(f"{where}.{unknown[0]}: {kind.__name__} has no such argument")
    try:
        return kind(**{**DEFAULTS, **given, **own})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"{where}: {kind.__name__} refuses them: {' '.join(str(error).split())[:300]}") from None


def _made_from(base: Any, run: Run) -> Any:
    """A trainer class whose rates are a run's, and which reports to it."""

    class RunTrainer(base):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, ratios=run.ratios, weight_decays=run.component_weight_decay)
            self.add_callback(trainer_callback(run))

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if self.lr_scheduler is None:
                self.lr_scheduler = run.scheduler(self.optimizer if optimizer is None else optimizer, self.model)
                self._created_lr_scheduler = True
            return self.lr_scheduler

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            dataset = self.train_dataset if train_dataset is None else train_dataset
            if isinstance(dataset, _Windows):
                return SequentialSampler(dataset)  # its order is the study's already
            return super()._get_train_sampler(train_dataset)

    return RunTrainer


class _Windows(Dataset[dict[str, Any]]):
    """The windows of the reference trainer's batches, one after another; T + 1 tokens each, for T predictions."""

    def __init__(self, data: TokenData, seed: int, count: int) -> None:
        self.data, self.seed, self.count = data, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return _example(self.data.batch(self.seed, index, 1))


class _Sample(Dataset[dict[str, Any]]):
    """A fixed sample of the validation split."""

    def __init__(self, data: TokenData, tokens: int) -> None:
        self.examples = [_example(rows) for rows in data.valid_batches(1, tokens)]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]


def _example(rows: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    inputs_BT, targets_BT = rows
    tokens = torch.cat([inputs_BT[0], targets_BT[0, -1:]])
    return {"input_ids": tokens, "labels": tokens}


def _last_whole(folder: Path) -> str | None:
    """The last checkpoint that was written to its end; what was killed before is removed."""
    steps = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(steps, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())  # which the Trainer writes last
            return str(path)
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
    return None


def _sft_trainer() -> Any:
    try:
        from trl import SFTTrainer
    except ImportError:
        raise ConfigError(f"trainer.transformers.trainer: SFTTrainer needs trl: {install('trl')}") from None

    class RelativeSFTTrainer(RelativeTrainer, SFTTrainer):
        """TRL's trainer with relative rates."""

    return RelativeSFTTrainer


def _sft_config() -> Any:
    try:
        from trl import SFTConfig
    except ImportError:
        raise ConfigError(f"trainer.transformers.trainer: SFTTrainer needs trl: {install('trl')}") from None
    return SFTConfig
