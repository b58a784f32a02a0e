"""PyTorch Lightning and Fabric."""

import csv
from types import SimpleNamespace

import pytest
import torch
from running import differing_steps, largest_error, needs, run

import rlrs
from rlrs.integrations.lightning import configure

needs("lightning", extra="lightning")


@pytest.fixture(scope="module", params=["lightning_module", "fabric_loop"])
def example(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, example):
    return tmp_path_factory.mktemp(example)


@pytest.fixture(scope="module")
def whole(example, folder):
    return run(example, folder)[0]


def test_every_rate_is_the_formulas(whole, record_property):
    error = largest_error(whole)
    record_property("measured", f"largest relative error {error:.1g}")
    assert error < 1e-12


def test_a_resumed_run_is_the_uninterrupted_one(example, folder, whole, record_property):
    resumed = run(example, folder, resume=True)[0]
    differing = differing_steps(resumed, whole)
    record_property("measured", f"{differing} steps differ")
    assert differing == 0


def test_two_processes_have_the_rates_of_one(example, folder, whole, record_property):
    two = run(example, folder / "two", ranks=2)
    for lines in two:
        assert [line["rates"] for line in lines] == [line["rates"] for line in whole]
    record_property("measured", f"equal to one process in {len(two[1])} steps")


def test_the_learning_rate_monitor_shows_components(tmp_path, record_property):
    lines = run("lightning_module", tmp_path)[0]
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    shown = sorted(key for key in rows[0] if key.startswith("learning_rate/"))
    assert shown == sorted(f"learning_rate/{name}" for name in lines[0]["rates"])
    logged = {(int(row["step"]), float(row[shown[0]])) for row in rows if row[shown[0]]}
    name = shown[0].removeprefix("learning_rate/")
    assert logged == {(line["step"], line["rates"][name]) for line in lines}
    record_property("measured", ", ".join(f"`{key}`" for key in shown[:2]) + ", ...")


def fake(steps):
    return SimpleNamespace(trainer=SimpleNamespace(estimated_stepping_batches=steps))


def optimizer():
    group = {"name": "norm", "component": "norm", "params": [torch.nn.Parameter(torch.ones(1))]}
    return torch.optim.SGD([group], lr=1.0)


@pytest.mark.parametrize("steps", [float("inf"), -1])
def test_a_run_of_unknown_length_is_refused(steps):
    with pytest.raises(ValueError, match="does not know its number of steps: give it max_steps, or give total_steps"):
        configure(fake(steps), optimizer(), {})
    configure(fake(steps), optimizer(), {}, total_steps=5)


def test_the_trainers_estimate_and_the_schedules_options_are_used():
    made = configure(fake(8.0), optimizer(), {"norm": 2}, warmup_steps=4, final_fraction=0.5)
    assert made["lr_scheduler"]["interval"] == "step"
    schedule = made["lr_scheduler"]["scheduler"].schedule
    assert schedule == rlrs.BaseSchedule(total_steps=8, warmup_steps=4, final_fraction=0.5)


def thawed(tmp_path, monkeypatch, add_group):
    """Rates of a run in which the embedding thaws in its second epoch."""
    import lightning
    from lightning.pytorch.callbacks import BaseFinetuning

    monkeypatch.chdir(tmp_path)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.embedding, self.lm_head = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 20)
            self.rates = []

        def training_step(self, batch, index):
            self.rates.append({g.get("name"): g["lr"] for g in self.optimizers().param_groups})
            return self.lm_head(self.embedding(batch[0])).logsumexp(-1).mean()

        def configure_optimizers(self):
            groups = rlrs.param_groups(self, {"embedding": 5.0}, lr=1e-2, include_frozen=not add_group)
            return configure(self, torch.optim.AdamW(groups), {"embedding": 5.0}, total_steps=8)

    class Thaw(BaseFinetuning):
        def freeze_before_training(self, module):
            self.freeze(module.embedding)

        def finetune_function(self, module, epoch, optimizer):
            if epoch == 1 and add_group:
                self.unfreeze_and_add_param_group(module.embedding, optimizer, lr=1e-3)
            elif epoch == 1:
                self.make_trainable(module.embedding)

    data = torch.utils.data.TensorDataset(torch.randint(0, 20, (16, 4)))
    module = Module()
    before = module.embedding.weight.detach().clone()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", callbacks=[Thaw()], **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    return module.rates, (module.embedding.weight - before).abs().max().item()


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_parameters_may_thaw_in_groups_made_with_frozen_ones(tmp_path, monkeypatch):
    rates, moved = thawed(tmp_path, monkeypatch, add_group=False)
    assert rates[0]["embedding"] == 5e-2
    assert len(rates) == 8
    assert moved > 0


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_group_that_lightning_adds_without_a_name_is_refused_with_the_way_out(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"has no 'name': .*include_frozen=True"):
        thawed(tmp_path, monkeypatch, add_group=True)
