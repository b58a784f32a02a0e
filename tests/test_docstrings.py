"""The examples in the docstrings of the core."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module", ["schedules", "ratios", "param_groups", "lr_scheduler", "extras", "integrations.optax"]
)
def test_examples_in_docstrings_give_what_they_say(module):
    if module == "integrations.optax":
        pytest.importorskip("optax")
    failed, tried = doctest.testmod(importlib.import_module(f"rlrs.{module}"))
    assert tried
    assert not failed
