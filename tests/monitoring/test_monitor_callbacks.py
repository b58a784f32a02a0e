"""The monitor under transformers' Trainer and under Lightning."""

import importlib.util

import pytest
import torch
from loops import RATIOS, RULES, Small, loss_of

import rlrs
from rlrs.monitoring import Guard, Thresholds, monitor_lightning, monitor_trainer

FAST = Thresholds(thresholds={"loss_rise": 0.5}, disabled=("throughput", "update_ratio_high"))


def needs(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


class WithLoss(Small):
    """What a Trainer trains; the loss is 5 times as high from its batch 24 on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, input_ids, labels=None):
        self.calls += self.training
        logits = super().forward(input_ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss * (5.0 if self.calls >= 24 else 1.0), "logits": logits}


def trainer(tmp_path, callback, **changes):
    from transformers import TrainingArguments

    from rlrs.integrations.transformers import RelativeTrainer

    torch.manual_seed(0)
    rows = [{"input_ids": row, "labels": 3 * row % 16} for row in torch.randint(16, (64, 8))]
    arguments = {
        "output_dir": str(tmp_path),
        "max_steps": 36,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return RelativeTrainer(
        WithLoss(),
        TrainingArguments(**(arguments | changes)),
        train_dataset=rows,
        eval_dataset=rows[:8],
        ratios=RATIOS,
        rules=RULES,
        final_fraction=0.1,
        callbacks=[callback],
    )


def test_the_trainer_is_observed_at_its_logs_and_ended_by_a_guard(tmp_path):
    needs("transformers")
    seen = []
    callback = monitor_trainer(
        thresholds=FAST,
        every=4,
        guard=lambda scheduler: Guard(scheduler, {"loss_rise": "stop"}),
        record=tmp_path / "m.jsonl",
    )
    run = trainer(tmp_path, callback, eval_strategy="steps", eval_steps=8)
    run.train()
    monitor = callback.monitor
    assert monitor.stopped.check == "loss_rise"
    assert 24 <= monitor.stopped.step == run.state.global_step < 36
    from rlrs.records import read_metrics

    seen = list(read_metrics(tmp_path / "m.jsonl"))
    assert [line.step for line in seen if line.loss is not None][:3] == [4, 8, 12]
    assert [line.step for line in seen if line.valid_loss is not None][:2] == [8, 16]
    component = seen[1].components["embedding"]
    assert component.lr == component.scheduled_lr
    assert component.grad_norm > 0
    assert component.update_ratio > 0


def test_a_trainer_that_logs_too_rarely_is_an_error(tmp_path):
    needs("transformers")
    with pytest.raises(ValueError, match="looks every 5 steps, but the loss is logged every 2"):
        trainer(tmp_path, monitor_trainer(every=5)).train()


@pytest.mark.filterwarnings("ignore")
def test_lightning_is_observed_every_step_and_ended_by_a_guard(tmp_path):
    needs("lightning")
    import lightning.pytorch as pl

    from rlrs.integrations.lightning import configure

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Small()

        def training_step(self, batch, index):
            return loss_of(self.model, index) * (5.0 if self.global_step >= 24 else 1.0)

        def validation_step(self, batch, index):
            self.log("val_loss", loss_of(self.model, 99))

        def configure_optimizers(self):
            groups = rlrs.param_groups(
                self.model, RATIOS, lr=1e-2, weight_decay=0.1, parts=rlrs.partition(self.model, RULES)
            )
            return configure(self, torch.optim.AdamW(groups), RATIOS, final_fraction=0.1)

    callback = monitor_lightning(
        thresholds=FAST, every=2, guard=lambda scheduler: Guard(scheduler, {"loss_rise": "stop"})
    )
    torch.manual_seed(0)
    run = pl.Trainer(
        max_steps=40,
        limit_val_batches=1,
        val_check_interval=8,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    loader = torch.utils.data.DataLoader(list(range(40)))
    run.fit(Module(), loader, torch.utils.data.DataLoader([0]))
    monitor = callback.monitor
    assert monitor.stopped.check == "loss_rise"
    assert 24 < monitor.stopped.step == run.global_step < 40
    saved = callback.state_dict()
    assert saved["step"] == monitor.step
    assert [key for key in saved["watch"]["signals"]["windows"] if key == "grad_norm/embedding"]
