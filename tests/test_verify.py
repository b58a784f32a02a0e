"""The report of `rlrs.verify`, its errors, and that it leaves nothing behind."""

import subprocess
import sys

import pytest
import torch
from torch.optim import optimizer as torch_optimizer
from torch.optim.lr_scheduler import LambdaLR

import rlrs
from rlrs.verify import Finding, Report, VerificationError
from verified_loops import Decoder, groups, loss_of, plain

ONE = Finding(kind="inert", component="embedding", factor=0.0, cause="it has none", remedy="give it one")


def hooks():
    return len(torch_optimizer._global_optimizer_pre_hooks), len(torch_optimizer._global_optimizer_post_hooks)


def test_the_report_is_a_table_with_cause_and_remedy():
    other = Finding(
        kind="two_groups", component="norm", factor=None, cause="twice", remedy="once", parameters=("a", "b", "c", "d")
    )
    assert str(Report((ONE, other), ("a note",), 3, ("embedding", "norm"))).splitlines() == [
        "2 findings (3 optimizer steps, rates tried of: embedding, norm)",
        "component  what        factor  cause, and what to do",
        "embedding  inert       0       it has none",
        "                               -> give it one",
        "norm       two groups  -       twice",
        "                               -> once",
        "                                  a, b, c and 1 more",
        "note: a note",
    ]


def test_what_is_said_of_the_component_before_is_not_repeated():
    other = Finding(kind="inert", component="norm", factor=0.0, cause=ONE.cause, remedy=ONE.remedy)
    assert str(Report((ONE, other), (), 1, ("norm",))).splitlines()[-1].endswith("norm       inert  0       as above")


def test_a_report_is_ok_only_if_a_rate_was_tried():
    assert Report((), (), 3, ("norm",)).ok
    assert not Report((ONE,), (), 3, ("norm",)).ok
    assert not Report((), (), 3, ()).ok
    with pytest.raises(VerificationError, match="saw no optimizer step"):
        Report(()).raise_for_findings()
    with pytest.raises(VerificationError, match="nothing could be judged"):
        Report((), (), 3, ()).raise_for_findings()


def test_a_loop_without_a_step_is_not_ok():
    model = Decoder()
    with rlrs.verify(model, torch.optim.AdamW(groups(model))) as check:
        loss_of(model).backward()
    assert check.report.steps == 0
    assert not check.report.ok


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "model"}, "model should be a torch.nn.Module, not str"),
        ({"optimizer": []}, "give the optimizer, or a list of them"),
        ({"optimizer": "adam"}, "optimizer should be a torch optimizer or a list of them, not str"),
        ({"scheduler": 3}, "scheduler should be a torch scheduler or a list of them, not int"),
        ({"steps": 0}, "steps should be a whole number of at least 1, not 0"),
        ({"steps": True}, "steps should be a whole number of at least 1, not True"),
        ({"ratios": {"router": 2.0}}, "ratios name router, which the model does not have"),
    ],
)
def test_an_argument_that_cannot_be_is_named_at_once(arguments, message):
    model = Decoder()
    arguments = {"model": model, "optimizer": torch.optim.AdamW(groups(model)), **arguments}
    with pytest.raises(ValueError, match=message):
        rlrs.verify(**arguments)


def test_there_is_no_report_before_the_steps_are_done():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    loop = plain(model, optimizer)
    with rlrs.verify(model, optimizer, steps=2) as check:
        loop.step(0)
        with pytest.raises(ValueError, match="no report yet"):
            _ = check.report
        loop.step(1)
        assert check.done
        assert check.report.steps == 2


def test_nothing_is_left_behind_after_the_steps_or_after_an_error():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    loop = plain(model, optimizer)
    before, backward = hooks(), torch.autograd.backward
    with rlrs.verify(model, optimizer, steps=1):
        assert hooks() != before
        loop.step(0)
        assert (hooks(), torch.autograd.backward) == (before, backward)
    with pytest.raises(KeyError, match="data"), rlrs.verify(model, optimizer):
        raise KeyError("data")
    assert (hooks(), torch.autograd.backward) == (before, backward)


def test_only_the_steps_that_were_asked_for_are_looked_at():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    loop = plain(model, optimizer, turns=6)
    with rlrs.verify(model, optimizer, steps=2) as check:
        for i in range(6):
            loop.step(i)
    assert check.report.steps == 2


def test_an_optimizer_that_fails_in_a_second_step_is_said_and_left_as_it_was():
    class Once(torch.optim.SGD):
        def step(self, closure=None):
            if sys._getframe(1).f_code.co_name == "_step":  # called by a replay
                raise OSError("only once")
            super().step(closure)

    model = Decoder()
    optimizer = Once(groups(model, 0.1))
    loop = plain(model, optimizer)
    with rlrs.verify(model, optimizer, steps=1) as check:
        loop.step(0)
    assert not check.report.ok
    assert any("Once could not be replayed (OSError: only once)" in note for note in check.report.notes)
    assert all(p.grad is not None for p in model.parameters())


def test_own_rules_name_the_components():
    model = Decoder()
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if "q_proj" not in n], lr=0.1)
    loop = plain(model, optimizer)
    with rlrs.verify(model, optimizer, rules=[rlrs.Rule("queries", "q_proj")], steps=1) as check:
        loop.step(0)
    assert [(f.component, f.kind, f.parameters) for f in check.report.findings] == [
        ("queries", "missing", ("layers.0.q_proj.weight",))
    ]


def test_a_scheduler_per_epoch_is_not_to_be_given():
    """The pace is that of steps: one that stands still is a finding, and no scheduler given is none."""
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    scheduler = LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    for given, ok in ((None, True), (scheduler, False)):
        loop = plain(model, optimizer)
        with rlrs.verify(model, optimizer, scheduler=given) as check:
            for i in range(3):
                loop.step(i)
        assert check.report.ok is ok


def test_importing_the_package_loads_the_judges_only_when_they_are_used():
    code = "import sys, rlrs; print(*(name for name in sys.modules if name.startswith('rlrs._verify.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rlrs._verify.report"]  # what findings are called, for those who read a report
