"""transformers' Trainer: python examples/transformers_trainer.py, or torchrun --nproc-per-node 2 ..."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import toy
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

import rlrs  # +
from rlrs.integrations.transformers import RelativeTrainer  # +


def main(argv: Sequence[str] | None = None) -> None:
    args = toy.arguments(argv)
    training = TrainingArguments(
        output_dir=str(args.folder),
        learning_rate=3e-3,
        weight_decay=0.1,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=0.1,
        num_train_epochs=2,
        gradient_accumulation_steps=2,
        logging_steps=1,
        save_steps=args.middle,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    training.per_device_train_batch_size = toy.BATCH // training.world_size
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=toy.VOCAB,
        hidden_size=toy.WIDTH,
        intermediate_size=2 * toy.WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    data = [{"input_ids": row, "labels": row} for row in toy.sequences(args.steps * toy.BATCH)]
    trainer = RelativeTrainer(  # +
        model=LlamaForCausalLM(config),
        args=training,
        train_dataset=data,
        ratios=rlrs.Ratios.preset("paper-dense"),  # +
    )
    trainer.train(resume_from_checkpoint=str(args.folder / f"checkpoint-{args.middle}") if args.resume else None)

    prefix = "learning_rate/"
    for line in trainer.state.log_history:
        if "loss" in line:
            rates = {key.removeprefix(prefix): rate for key, rate in line.items() if key.startswith(prefix)}
            toy.write(args.record, line["step"] - 1, line["loss"], rates, training.process_index)


if __name__ == "__main__":
    main()
