"""The monitor in a plain loop: what it measures, what it leaves alone, what it saves; and on two ranks."""

import json
import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist
from loops import COMPONENTS, RATIOS, RULES, Small, loss_of, make, one_step

import rlrs
from ports import free_port
from rlrs.monitoring import Monitor, Thresholds
from rlrs.monitoring.alerts import Alerts
from rlrs.records import read_metrics

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["pytest", "rlrs.monitoring.monitor", "torch.distributed.fsdp", "torch._dynamo"])


class Keep(Alerts):
    def __init__(self):
        self.seen, self.alarms = [], []

    def observation(self, seen):
        self.seen.append(seen)

    def alarm(self, alarm):
        self.alarms.append(alarm)


def train(steps, *, monitor=None, parts=None, start=0, clip=None):
    model, optimizer, scheduler = parts or make()
    for step in range(start, steps):
        loss, norm = one_step(model, optimizer, scheduler, step, clip=clip)
        if monitor is not None:
            monitor.observe(step + 1, loss, grad_norm=norm)
    return model


def test_components_are_measured_as_a_naive_loop_does():
    model, optimizer, scheduler = make()
    keep = Keep()
    monitor = Monitor(optimizer, scheduler, every=1, alerts=[keep])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rates = scheduler.rates()
    loss = loss_of(model, 0)
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    optimizer.step()
    scheduler.step()
    monitor.observe(1, loss)
    (seen,) = keep.seen
    assert set(seen.components) == COMPONENTS
    assert seen.loss == pytest.approx(loss.item())
    numbers = seen.components["feed_forward"]
    names = ("up_proj.weight", "down_proj.weight")
    after = dict(model.named_parameters())
    weights = torch.cat([after[name].flatten() for name in names])
    moved = weights - torch.cat([before[name].flatten() for name in names])
    assert numbers.grad_norm == pytest.approx(torch.cat([gradients[n].flatten() for n in names]).norm().item())
    assert numbers.weight_norm == pytest.approx(weights.norm().item())
    assert numbers.update_ratio == pytest.approx((moved.norm() / weights.norm()).item())
    assert seen.components["embedding"].lr == seen.components["embedding"].scheduled_lr == rates["embedding"]
    assert seen.grad_norm == pytest.approx(torch.cat([g.flatten() for g in gradients.values()]).norm().item())


def test_gradient_norms_are_those_before_clipping_where_the_norm_is_told():
    clipped, free = Keep(), Keep()
    for keep, clip in ((clipped, 1e-3), (free, None)):
        model, optimizer, scheduler = make()
        monitor = Monitor(optimizer, scheduler, every=1, clip=clip, alerts=[keep])
        loss, norm = one_step(model, optimizer, scheduler, 0, clip=clip)
        monitor.observe(1, loss, grad_norm=norm)
    for name, numbers in free.seen[0].components.items():
        assert clipped.seen[0].components[name].grad_norm == pytest.approx(numbers.grad_norm, rel=1e-4)


def test_the_training_is_bit_for_bit_the_one_without_a_monitor():
    parts = make()
    hooks = len(parts[1]._optimizer_step_pre_hooks), len(parts[1]._optimizer_step_post_hooks)
    with Monitor(parts[1], parts[2], every=3) as monitor:
        watched = train(20, monitor=monitor, parts=parts)
    assert (len(parts[1]._optimizer_step_pre_hooks), len(parts[1]._optimizer_step_post_hooks)) == hooks
    for a, b in zip(train(20).parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_observes_the_first_step_and_every_so_many_with_the_mean_loss_between():
    parts = make()
    keep = Keep()
    monitor = Monitor(parts[1], every=5, alerts=[keep])
    losses = []
    for step in range(12):
        losses.append(one_step(*parts, step)[0])
        monitor.observe(step + 1, losses[-1])
    assert [seen.step for seen in keep.seen] == [1, 5, 10]
    assert keep.seen[1].loss == pytest.approx(torch.stack(losses[1:5]).mean().item())
    assert all(set(seen.components) == COMPONENTS for seen in keep.seen)


def test_a_closure_that_makes_the_gradients_is_followed():
    model, optimizer, _ = make()
    keep = Keep()
    monitor = Monitor(optimizer, every=1, alerts=[keep])

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    monitor.observe(1, optimizer.step(closure))
    assert keep.seen[0].components["embedding"].grad_norm > 0


def test_two_optimizers_and_groups_without_names_are_measured():
    torch.manual_seed(0)
    model = Small()
    first = torch.optim.SGD([model.embed_tokens.weight], lr=0.1)
    second = torch.optim.SGD(
        [
            {"params": [model.lm_head.weight], "name": "head"},
            {"params": [model.up_proj.weight, model.down_proj.weight]},
        ],
        lr=0.1,
    )
    keep = Keep()
    monitor = Monitor([first, second], every=1, alerts=[keep])
    loss = loss_of(model, 0)
    loss.backward()
    first.step()
    second.step()
    monitor.observe(1, loss)
    assert set(keep.seen[0].components) == {"group 0", "head", "group 1"}


def test_a_rate_that_another_writes_for_the_length_of_a_step_is_found():
    parts = make()
    optimizer = parts[1]
    group = next(group for group in optimizer.param_groups if group["component"] == "embedding")
    optimizer.register_step_pre_hook(lambda *_: group.update(lr=2 * group["lr"]))
    optimizer.register_step_post_hook(lambda *_: group.update(lr=group["lr"] / 2))
    monitor = Monitor(optimizer, parts[2], every=2)
    train(4, monitor=monitor, parts=parts)
    (alarm,) = monitor.alarms
    assert (alarm.check, alarm.component, alarm.step, alarm.value) == ("rate_off_schedule", "embedding", 1, 1.0)


def test_a_resumed_run_raises_the_same_alarms():
    def alarms(monitor, parts, start, steps):
        for step in range(start, steps):
            scale = 1.0 if step < 30 else 4.0
            loss, _ = one_step(*parts, step, scale=scale)
            monitor.observe(step + 1, loss)
        found = [alarm for alarm in monitor.alarms if alarm.check != "throughput"]  # the clock's, not the run's
        return [(alarm.check, alarm.component, alarm.step, alarm.value) for alarm in found]

    parts = make()
    whole = alarms(Monitor(parts[1], parts[2], every=3), parts, 0, 40)
    assert {check for check, *_ in whole} >= {"loss_rise"}
    parts = make()
    first = Monitor(parts[1], parts[2], every=3)
    before = alarms(first, parts, 0, 20)
    state = json.loads(json.dumps(first.state_dict()))
    first.close()
    second = Monitor(parts[1], parts[2], every=3)
    second.load_state_dict(state)
    assert before + alarms(second, parts, 20, 40) == whole


def test_what_is_recorded_is_a_metrics_file_that_calibration_reads(tmp_path):
    path = tmp_path / "runs" / "a" / "metrics.jsonl"  # of folders that are made
    parts = make()
    monitor = Monitor(parts[1], parts[2], every=2, clip=1.0, record=path)
    for step in range(4):
        loss, norm = one_step(*parts, step, clip=1.0)
        monitor.observe(step + 1, loss, grad_norm=norm, router_loads=[3, 1], router_entropy=0.5, tokens=36 * (step + 1))
    monitor.evaluated(4, 2.5)
    lines = list(read_metrics(path))
    assert [line.step for line in lines] == [1, 2, 4, 4]
    assert lines[2].components["embedding"].scheduled_lr == lines[2].components["embedding"].lr
    assert lines[2].router.load == (0.75, 0.25)
    assert lines[2].clip == 1.0
    assert lines[3].valid_loss == 2.5


def test_lines_after_a_saved_state_are_taken_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    parts = make()
    monitor = Monitor(parts[1], parts[2], every=2, record=path)
    train(4, monitor=monitor, parts=parts)
    state = monitor.state_dict()
    train(8, monitor=monitor, parts=parts, start=4)
    path.write_bytes(path.read_bytes() + b'{"step": 9, "to')  # torn by a kill
    monitor.load_state_dict(state)
    assert [line.step for line in read_metrics(path)] == [1, 2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0 should be 1 or more"),
        (
            {"every": 5, "thresholds": Thresholds(every=10)},
            "every=5, but the thresholds are of runs with a line every 10",
        ),
        ({"record": "a.jsonl", "updates": False}, "record needs updates=True"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Monitor(make()[1], **options)


def test_a_step_that_does_not_follow_is_refused():
    monitor = Monitor(make()[1])
    monitor.observe(3, 1.0)
    with pytest.raises(ValueError, match="step=3 should be above 3"):
        monitor.observe(3, 1.0)


def test_without_updates_no_weights_are_copied():
    parts = make()
    keep = Keep()
    monitor = Monitor(parts[1], every=1, updates=False, alerts=[keep])
    train(1, monitor=monitor, parts=parts)
    assert keep.seen[0].components["embedding"].update_ratio is None
    assert keep.seen[0].components["embedding"].grad_norm > 0


def one_rank(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for how in ("whole", "sharded"):
        (folder / f"{how}-{rank}.json").write_text(json.dumps(on_ranks(rank, sharded=how == "sharded")))
    dist.destroy_process_group()


def on_ranks(rank, *, sharded):
    """What a rank observes, its alarms, and whether it tells them."""
    from torch.distributed.fsdp import fully_shard

    model, _, _ = make()
    if sharded:
        fully_shard(model)
    parts = rlrs.partition(model, RULES)
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, RATIOS, lr=1e-2, weight_decay=0.1, parts=parts))
    scheduler = rlrs.RelativeLR(optimizer, RATIOS, total_steps=60, final_fraction=0.1)
    keep = Keep()
    monitor = Monitor(optimizer, scheduler, every=2)
    monitor.alerts = [keep]  # on every rank, to compare
    for step in range(4):
        loss = loss_of(model, step, rank)
        loss.backward()
        if not sharded:
            for weight in model.parameters():
                dist.all_reduce(weight.grad)
                weight.grad /= 2
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        # One rank's loss alone is not finite: all ranks hear of it.
        monitor.observe(step + 1, loss * (float("nan") if (rank, step) == (1, 3) else 1))
    plain = [
        [seen.loss, seen.grad_norm, *(vars(numbers) for numbers in seen.components.values())] for seen in keep.seen
    ]
    return [plain, [(alarm.check, alarm.step) for alarm in monitor.alarms], monitor.first]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    processes = [_PROCESSES.Process(target=one_rank, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


def test_all_ranks_see_the_same_and_raise_the_same_alarms(two_ranks):
    for how in ("whole", "sharded"):
        first, second = two_ranks[f"{how}-0"], two_ranks[f"{how}-1"]
        assert repr(first[:2]) == repr(second[:2])  # NaN is not equal to itself
        assert first[1] == [["non_finite", 4]]
        assert (first[2], second[2]) == (True, False)


def test_sharded_weights_are_measured_as_whole_ones(two_ranks):
    whole, sharded = two_ranks["whole-0"][0], two_ranks["sharded-0"][0]
    for a, b in zip(whole[:2], sharded[:2], strict=True):
        assert b[:2] == pytest.approx(a[:2], rel=1e-4)
        for one, other in zip(a[2:], b[2:], strict=True):
            assert other == pytest.approx(one, rel=1e-4)
