"""LoRA fine-tuning with PEFT and TRL's SFTTrainer: python examples/peft_finetune.py

An adapter's weights have the rate of the component that they adapt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import toy
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from rlrs.integrations.transformers import RelativeTrainer  # +


class RelativeSFTTrainer(RelativeTrainer, SFTTrainer):  # +
    """TRL's trainer with relative rates."""


def main(argv: Sequence[str] | None = None) -> None:
    args = toy.arguments(argv)
    words = Tokenizer(WordLevel({str(token): token for token in range(toy.VOCAB)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="1", pad_token="2", unk_token="0")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=toy.VOCAB,
        hidden_size=toy.WIDTH,
        intermediate_size=2 * toy.WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    trainer = RelativeSFTTrainer(  # +
        model=LlamaForCausalLM(config),
        args=SFTConfig(
            output_dir=str(args.folder),
            learning_rate=3e-3,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": 0.1},
            warmup_steps=0.1,
            max_steps=args.steps,
            logging_steps=1,
            save_steps=args.middle,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_dict({"input_ids": toy.sequences(args.steps * toy.BATCH).tolist()}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]),
        ratios={"attention": (1.0, 0.2), "feed_forward": (0.5, 1.5)},  # +
    )
    trainer.train(resume_from_checkpoint=str(args.folder / f"checkpoint-{args.middle}") if args.resume else None)

    prefix = "learning_rate/"
    for line in trainer.state.log_history:
        if "loss" in line:
            rates = {key.removeprefix(prefix): rate for key, rate in line.items() if key.startswith(prefix)}
            toy.write(args.record, line["step"] - 1, line["loss"], rates, trainer.args.process_index)


if __name__ == "__main__":
    main()
