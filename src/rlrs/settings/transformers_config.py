"""Settings of a study whose runs transformers' `Trainer` or TRL's `SFTTrainer` makes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from rlrs.messages import shown
from rlrs.settings.base import Count, Settings

OF_THE_RUN = {
    **dict.fromkeys(("learning_rate", "weight_decay", "adam_beta1", "adam_beta2"), "it is of the run"),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler_kwargs"), "say training.schedule"),
    **dict.fromkeys(("warmup_steps", "warmup_ratio"), "say training.warmup_fraction"),
    **dict.fromkeys(("max_steps", "num_train_epochs"), "say proxy.steps and target.steps"),
    **dict.fromkeys(("seed", "data_seed"), "the study gives every run its own"),
    **dict.fromkeys(("output_dir", "resume_from_checkpoint", "save_strategy", "report_to"), "the run's folder has it"),
    **dict.fromkeys(("eval_strategy", "eval_steps", "do_train", "do_eval"), "a run is validated after its last step"),
    "max_length": "say data.sequence_length",
    "dataset_text_field": "say data.text_field",
}
"""Arguments of the trainer that are not to be given, and why."""


class TransformersConfig(Settings):
    """Runs of transformers' `Trainer`, or of TRL's `SFTTrainer`, on a causal language model in a local folder.

    `set` of proxy and target names the folder: `{model: FOLDER}`, and arguments that differ between the two.
    """

    trainer: Literal["Trainer", "SFTTrainer"] = "Trainer"
    """`Trainer`: the study's text as tokens, as for the reference trainer. `SFTTrainer`: JSON records of a text, a
    prompt and its completion, or messages, which TRL makes into tokens with the folder's tokenizer."""
    weights: Literal["load", "random"] = "load"
    """`load` those of the folder, or take its architecture alone (`random`)."""
    lora: dict[str, JsonValue] | None = None
    """Arguments of PEFT's LoraConfig, if adapters are trained: `{r: 16, target_modules: all-linear}`."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Of `TrainingArguments`, or of `SFTConfig`: batch size, accumulation, precision and so on."""
    eval_tokens: Count = 32_768
    """Of `Trainer`: size of the fixed validation sample, as `training.eval_tokens` of the reference trainer."""

    @model_validator(mode="after")
    def _of_the_run(self) -> Self:
        check_arguments(self.arguments, "arguments")
        return self


def check_arguments(arguments: dict[str, JsonValue], where: str) -> None:
    """See that arguments of a trainer leave to the study what is the study's.

    Raises:
        ValueError: one that does not.
    """
    for name in arguments:
        if name in OF_THE_RUN:
            raise ValueError(f"{where}.{name}={shown(arguments[name])} cannot be given: {OF_THE_RUN[name]}")
