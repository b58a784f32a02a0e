import sys

import pytest
import torch
from running import STEPS, differing_steps, largest_error, needs, run

import rlrs
from rlrs.integrations import require

needs("transformers", "accelerate", extra="transformers")
RATIOS = {"embedding": (5.0, 0.666), "attention": (1.0, 0.2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("transformers")


@pytest.fixture(scope="module")
def whole(folder):
    return run("transformers_trainer", folder)[0]


def test_every_logged_rate_is_the_formulas(whole, record_property):
    error = largest_error(whole)
    record_property("measured", f"largest relative error {error:.1g}")
    assert error < 1e-12


def test_a_resumed_run_is_the_uninterrupted_one(folder, whole, record_property):
    resumed = run("transformers_trainer", folder, resume=True)[0]
    assert len(resumed) == len(whole) == STEPS  # the Trainer keeps the log of the steps before
    differing = differing_steps(resumed[STEPS // 2 :], whole)
    record_property("measured", f"{differing} steps differ")
    assert differing == 0


@pytest.mark.long
def test_two_processes_have_the_rates_of_one(folder, whole, record_property):
    two = run("transformers_trainer", folder / "two", ranks=2)
    for lines in two:
        assert [line["rates"] for line in lines] == [line["rates"] for line in whole]
    record_property("measured", f"equal to one process in {len(two[1])} steps")


def trainer(folder, ratios=RATIOS, *, callbacks=(), rules=(), final_fraction=None, optimizers=(None, None), **options):
    """A Trainer on a small Llama for 6 optimizer steps, none of them done yet."""
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

    from rlrs.integrations.transformers import RelativeTrainer

    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    defaults = {"max_steps": 6, "learning_rate": 0.01, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    row = torch.arange(6) % 16
    return RelativeTrainer(
        model=LlamaForCausalLM(config),
        args=TrainingArguments(str(folder), **{**defaults, "save_strategy": "no", **options}),
        train_dataset=[{"input_ids": row, "labels": row}] * 12,
        callbacks=list(callbacks),
        optimizers=optimizers,
        ratios=ratios,
        rules=rules,
        final_fraction=final_fraction,
    )


def test_the_log_has_the_rates_that_the_optimizer_used(tmp_path, record_property):
    from transformers import TrainerCallback

    class Spy(TrainerCallback):
        used = ()

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            rates = {f"learning_rate/{g['component']}": g["lr"] for g in kwargs["optimizer"].param_groups}
            self.used = (*self.used, rates)

    spy = Spy()
    running = trainer(tmp_path, callbacks=[spy], logging_steps=1, warmup_steps=2, final_fraction=0.5)
    running.train()
    logged = [line for line in running.state.log_history if "loss" in line]
    assert len(logged) == len(spy.used) == 6
    for line, used in zip(logged, spy.used, strict=True):
        assert {key: line[key] for key in used} == used
        assert line["learning_rate"] == used["learning_rate/norm"]  # the base rate, which no ratio changes
    shown = [key for key in logged[0] if key.startswith("learning_rate/")]
    record_property("measured", ", ".join(f"`{key}`" for key in shown[:2]) + ", ...")


def schedule_of(running, total=100):
    running.create_optimizer()
    return running.create_scheduler(total).schedule


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        ({"lr_scheduler_type": "linear"}, {"shape": "linear", "final_fraction": 0.0}),
        ({"lr_scheduler_type": "cosine", "warmup_steps": 7}, {"final_fraction": 0.0, "warmup_steps": 7}),
        ({"lr_scheduler_type": "cosine", "warmup_steps": 0.05}, {"final_fraction": 0.0, "warmup_steps": 5}),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.2}},
            {"final_fraction": 0.2},
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.001}},
            {"final_fraction": 0.1},
        ),
        ({"lr_scheduler_type": "constant", "warmup_steps": 5}, {"shape": "constant"}),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}, {"shape": "constant", "warmup_steps": 5}),
        (
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 30, "decay_type": "linear", "min_lr_ratio": 0.1},
            },
            {"shape": "wsd", "decay_fraction": 0.3, "final_fraction": 0.1},
        ),
    ],
)
def test_the_base_schedule_is_that_of_the_training_arguments(tmp_path, options, schedule):
    expected = rlrs.BaseSchedule(total_steps=100, **schedule)
    assert schedule_of(trainer(tmp_path, {"embedding": 5}, **options)) == expected


@pytest.mark.parametrize(("cycles", "warmup", "total"), [(1, 0, 12), (3, 0, 12), (4, 6, 46), (3, 1, 100), (10, 0, 10)])
def test_restarts_have_the_values_of_transformers(tmp_path, cycles, warmup, total):
    from transformers import get_cosine_with_hard_restarts_schedule_with_warmup as theirs

    options = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": cycles}}
    ours = schedule_of(trainer(tmp_path, {"embedding": 5}, warmup_steps=warmup, **options), total)
    factor = theirs(torch.optim.SGD([torch.zeros(1)], lr=1.0), warmup, total, cycles).lr_lambdas[0]
    for step in range(warmup, total + 1):
        assert ours(step) == pytest.approx(factor(step), abs=1e-12), step
    assert ours.restarts is None or len(ours.restarts.at) == cycles - 1


def test_restarts_that_do_not_divide_the_steps_begin_at_whole_ones(tmp_path):
    options = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}}
    ours = schedule_of(trainer(tmp_path, {"embedding": 5}, **options), 10)
    assert ours.restarts.at == (4, 7)  # after 10 / 3 and 20 / 3 steps
    assert [ours(step) for step in (0, 4, 7)] == [1.0, 1.0, 1.0]
    low = schedule_of(trainer(tmp_path, {"embedding": (5, 1)}, final_fraction=0.1, **options), 10)
    assert low(10) == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": cycles}}, message)
            for cycles, message in ((0, "a whole number from 1, not 0"), (1.5, "not 1.5"), (101, "at most 100"))
        ),
        ({"lr_scheduler_type": "inverse_sqrt"}, "lr_scheduler_type='inverse_sqrt' has no relative form; should be one"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "no relative form for num_cycles of 'linear'"),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 30}},
            "wants lr_scheduler_kwargs with num_decay_steps and decay_type='linear'",
        ),
        ({"lr_scheduler_type": "cosine"}, "ends at 0, where the end ratio of embedding, attention has no effect"),
    ],
)
def test_a_schedule_that_cannot_follow_the_ratios_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        schedule_of(trainer(tmp_path, **options))


def test_the_final_fraction_given_comes_before_the_one_of_the_arguments(tmp_path):
    assert schedule_of(trainer(tmp_path, final_fraction=0.3, lr_scheduler_type="cosine")).final_fraction == 0.3


def test_epochs_and_accumulation_give_the_total_steps(tmp_path):
    running = trainer(
        tmp_path,
        {"embedding": 5},
        max_steps=-1,
        num_train_epochs=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    running.train()
    assert running.state.global_step == 6  # 12 rows, 6 batches, 2 steps an epoch: the second of 2 batches
    assert running.lr_scheduler.schedule.total_steps == 6
    assert running.lr_scheduler.last_epoch == 6


def test_the_optimizer_is_the_one_of_the_training_arguments_with_its_weight_decay(tmp_path):
    running = trainer(tmp_path, weight_decay=0.3, adam_beta2=0.95, optim="adamw_torch")
    optimizer = running.create_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays["attention"] == 0.3
    assert decays["norm/no_decay"] == 0.0
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    assert running.optimizer_cls_and_kwargs is None


def test_rules_come_before_the_partition(tmp_path):
    running = trainer(tmp_path, {"queries": 3}, rules=[rlrs.Rule("queries", r"q_proj")])
    assert "queries" in {group["name"] for group in running.create_optimizer().param_groups}


def test_a_given_optimizer_is_kept_and_a_given_scheduler_refused(tmp_path):
    first = trainer(tmp_path)
    optimizer = torch.optim.SGD(rlrs.param_groups(first.model, RATIOS, lr=0.5))
    running = trainer(tmp_path, optimizers=(optimizer, None), final_fraction=0.1)
    assert running.create_optimizer() is optimizer
    assert running.create_scheduler(10).base_rate() == 0.5
    other = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
    running = trainer(tmp_path, optimizers=(optimizer, other))
    with pytest.raises(ValueError, match="optimizers= has a LambdaLR, which would overwrite the relative rates"):
        running.create_scheduler(10)


def test_an_optimizer_that_chooses_its_own_parameters_is_refused(tmp_path):
    running = trainer(tmp_path)
    running.optimizer_cls_and_kwargs = (torch.optim.AdamW, {"params": []})
    with pytest.raises(ValueError, match="makes its own parameter groups, so they cannot have ratios"):
        running.create_optimizer()


def test_training_twice_starts_a_new_schedule(tmp_path):
    running = trainer(tmp_path, {"embedding": 5})
    running.train()
    running.args.max_steps = 3
    running.train()
    assert running.lr_scheduler.schedule.total_steps == 3
    assert running.lr_scheduler.last_epoch == 3


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "rlrs.integrations.transformers", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=r"transformers is not installed: pip install -e '.\[transformers\]' in a checkout"
    ):
        import rlrs.integrations.transformers  # noqa: F401
    assert require("json", "any").__name__ == "json"


def test_a_package_that_is_there_but_broken_keeps_its_own_error(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        require("broken", "any")
