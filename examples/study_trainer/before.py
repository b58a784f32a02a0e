"""A small Llama trained by transformers' `Trainer` on the source text of Python's standard library, bytes as tokens."""

import argparse
import sysconfig
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=32)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--folder", default="out")

LENGTH = 32


def make(width=32, layers=2, **others):
    """A Llama over 256 bytes."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, use_cache=False, **sizes, **heads))


def examples(*modules):
    """Sequences of the source of some modules."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join((folder / f"{name}.py").read_bytes() for name in modules)
    rows = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return [{"input_ids": row, "labels": row} for row in rows[: len(rows) // LENGTH * LENGTH].view(-1, LENGTH)]


def main(arguments=None):
    """Train."""
    args = parser.parse_args(arguments)
    training = TrainingArguments(
        output_dir=args.folder,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.lr,
        weight_decay=0.1,
        lr_scheduler_type="cosine",
        warmup_steps=args.steps // 20,
        seed=args.seed,
        logging_steps=1,
        save_steps=50,
        report_to="none",
        disable_tqdm=True,
    )
    set_seed(args.seed)
    model = make(args.width, args.layers)
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=examples("argparse", "ast", "datetime", "decimal", "doctest", "inspect"),
        eval_dataset=examples("typing")[:64],
    )
    trainer.train()
    print(trainer.evaluate()["eval_loss"])


if __name__ == "__main__":
    main()
