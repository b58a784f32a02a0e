"""Between two lines of metrics no number is read from the device: on a GPU each reading would be a wait for it.

On torch's device `meta`, tensors have shapes and no numbers, so that a step that reads one fails.
"""

import contextlib
import functools

import pytest
import torch
from small import make_spec

from rlrs.models.moe import Experts, MoE
from rlrs.training.distributed import World
from rlrs.training.loop import Loop
from rlrs.training.stopping import StopFlag

META = torch.device("meta")
UNEQUAL = {"capacity_factor": None, "d_ff": 16}


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch):
    """What asks is told that products are of bfloat16: the device `meta` has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda *_: torch.bfloat16)


def plain(function):
    """The function without `fused` and `foreach`."""

    @functools.wraps(function)
    def call(*args, fused=None, foreach=None, **more):
        return function(*args, **more)

    return call


@pytest.fixture
def loop(data, monkeypatch):
    """Call with fields to change: a loop on `meta`, one step behind it."""
    # Fused and foreach kernels want a real device; what they are called with is the same.
    for module, name in ((torch.optim, "AdamW"), (torch.optim, "SGD"), (torch.nn.utils, "clip_grad_norm_")):
        monkeypatch.setattr(module, name, plain(getattr(module, name)))
    # As on a GPU in bfloat16.
    monkeypatch.setattr(Experts, "_has_grouped_products", lambda *_: True)

    def make(**changes):
        made = Loop(make_spec(**changes), data, None, World(device=META), validate=False, prune=None, stop=StopFlag())
        made.step = 1
        return made

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {"n_experts": 0, "ratios": {}},
        {"n_experts": 2},
        UNEQUAL,
        {**UNEQUAL, "top_k": 2, "normalise_gates": True, "n_shared_experts": 1},
        {"accumulate": 2},
        {"optimizer": "muon"},
        {"optimizer": "sgd"},
    ],
    ids=str,
)
def test_no_number_is_read_between_lines(loop, changes):
    made = loop(**changes)
    for _ in range(3):  # steps 2 to 4
        made._train_step(log=False)
    assert made.step == 4
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):  # step 5 has a line
        made._train_step(log=False)


def test_a_step_that_reads_one_is_noticed():
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        MoE(8, 8, 2, None).to(META)(torch.empty(1, 4, 8, device=META))
