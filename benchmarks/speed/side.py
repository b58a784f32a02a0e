"""One side of a comparison in a process of its own: trains, and stops at every round until it is told to go on.

    python -m benchmarks.speed.side '{"kind": "rlrs", "shape": "dense 64", "threads": 1, "data": "..."}'

The pause is where a step asks for its batch, which every loop does, so that each side runs its own whole loop.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.shapes import BETAS, CLIP, LEARNING_RATE, SHAPES, WEIGHT_DECAY, Shape
from rlrs.data import TokenData

FOREVER = 1_000_000  # steps; the process is ended long before
LOG_EVERY = 10

Pause = Callable[[], None]
"""Called at the beginning of every step."""


def memory(field: str) -> float:
    """Megabytes that the process holds (`VmRSS`), or held at most (`VmHWM`)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[0]) / 1024


def waited() -> float:
    """Seconds that threads of this process were ready and had no core, because others had it."""
    tasks = Path("/proc/self/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[1]) for task in tasks) / 1e9


class Rounds:
    """Pauses every so many steps: says how long they took, and waits for `go`, or `end`."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0
        self.started = self.waited = 0.0
        self.says = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is not ours to say
        self.before = 0.0

    def __call__(self) -> None:
        """A step begins."""
        if self.done % self.steps == 0:
            if self.done:
                self.say(seconds=time.perf_counter() - self.started, waited=waited() - self.waited)
            else:
                self.before = memory("VmRSS")
            if sys.stdin.readline() != "go\n":
                self.say(peak=memory("VmHWM"), before=self.before)
                os._exit(0)  # in the middle of somebody's loop
            self.started, self.waited = time.perf_counter(), waited()
        self.done += 1

    def say(self, **what: float) -> None:
        """One line to who asked."""
        print(json.dumps(what), file=self.says, flush=True)


def rlrs_trainer(shape: Shape, data: TokenData, pause: Pause, *, compile: bool = False) -> None:
    """Our trainer with files, its lines of metrics.jsonl among them."""
    from rlrs.settings import TrainingConfig
    from rlrs.training import RunSpec, train

    spec = RunSpec(
        model=shape.model,
        training=TrainingConfig(
            weight_decay=WEIGHT_DECAY,
            clip=CLIP,
            betas=BETAS,
            log_every=LOG_EVERY,
            evaluations=1,
            checkpoint_every=FOREVER,
            compile=compile,
        ),
        steps=FOREVER,
        batch_size=shape.batch_size,
        seed=0,
        lr=LEARNING_RATE,
        final_fraction=0.1,
        ratios={"embedding": [(0.0, 5.0), (1.0, 0.6)]},
        data_hash=data.hash,
    )
    draw = data.batch

    def batch(*which: int) -> tuple[Tensor, Tensor]:
        pause()
        return draw(*which)

    data.batch = batch  # pyright: ignore[reportAttributeAccessIssue]  # a stand-in for the method, with the same arguments
    with tempfile.TemporaryDirectory() as folder:
        train(spec, data, folder)


def plain_loop(shape: Shape, data: TokenData, pause: Pause) -> None:
    """Our model in the loop that one would write by hand."""
    from torch.optim.lr_scheduler import CosineAnnealingLR

    from rlrs.models import build_model

    model = build_model(shape.model, data.vocab_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    scheduler = CosineAnnealingLR(optimizer, FOREVER)
    for step in count():
        pause()
        inputs_BT, targets_BT = data.batch(0, step, shape.batch_size)
        optimizer.zero_grad()
        output = model(inputs_BT, targets_BT)
        output.objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        if step % LOG_EVERY == 0:
            print(step, output.loss.item())


def loader(shape: Shape, data: TokenData, pause: Pause) -> dict[str, Any]:
    """Arguments of a `DataLoader`: single sequences, put together into a batch, as trainers expect."""
    rows = [torch.cat((x_T, y_T[-1:])) for step in range(64) for x_T, y_T in zip(*data.batch(0, step, 16), strict=True)]

    def collate(batch: list[Tensor]) -> Any:
        pause()
        rows_BT = torch.stack(batch)
        return rows_BT[:, :-1], rows_BT[:, 1:]

    return {"dataset": rows * 1_000, "collate": collate, "batch_size": shape.batch_size}


def transformers_trainer(shape: Shape, data: TokenData, pause: Pause) -> None:
    """The model of transformers with the same shape in its `Trainer`."""
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    kind, settings = shape.hub()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    source = loader(shape, data, pause)

    def collate(batch: list[Tensor]) -> dict[str, Tensor]:
        inputs_BT, _ = source["collate"](batch)
        return {"input_ids": inputs_BT, "labels": inputs_BT}  # the model shifts them

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=shape.batch_size,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            max_grad_norm=CLIP,
            optim="adamw_torch_fused",
            lr_scheduler_type="cosine",
            logging_steps=LOG_EVERY,
            save_strategy="no",
            max_steps=FOREVER,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        Trainer(model=model, args=arguments, train_dataset=source["dataset"], data_collator=collate).train()


def lightning_trainer(shape: Shape, data: TokenData, pause: Pause) -> None:
    """Our model in a `LightningModule`."""
    import lightning
    from lightning.pytorch.loggers import CSVLogger
    from torch.optim.lr_scheduler import CosineAnnealingLR
    from torch.utils.data import DataLoader

    from rlrs.models import build_model

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_model(shape.model, data.vocab_size)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            output = self.model(*batch)
            self.log("loss", output.loss)
            return output.objective

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(
                self.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": CosineAnnealingLR(optimizer, FOREVER), "interval": "step"},
            }

    source = loader(shape, data, pause)
    with tempfile.TemporaryDirectory() as folder:
        lightning.Trainer(
            accelerator="cpu",
            max_steps=FOREVER,
            gradient_clip_val=CLIP,
            log_every_n_steps=LOG_EVERY,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=CSVLogger(folder),
            default_root_dir=folder,
        ).fit(
            Module(),
            DataLoader(source["dataset"], batch_size=source["batch_size"], shuffle=True, collate_fn=source["collate"]),
        )


KINDS: dict[str, Callable[[Shape, TokenData, Pause], None]] = {
    "rlrs": rlrs_trainer,
    "rlrs, compiled": lambda *args: rlrs_trainer(*args, compile=True),
    "plain loop": plain_loop,
    "Lightning": lightning_trainer,
    "transformers": transformers_trainer,
}


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    torch.manual_seed(0)
    kind, shape = KINDS[order["kind"]], SHAPES[order["shape"]]
    kind(shape, TokenData.load(order["data"]), Rounds(shape.steps))


if __name__ == "__main__":
    main()
