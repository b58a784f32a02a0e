"""One thread, and a run small enough to train many times."""

import pytest
import torch
from small import make_data, make_spec

torch.set_num_threads(1)  # models this small only lose by more


@pytest.fixture(scope="session")
def data():
    return make_data()


@pytest.fixture
def spec():
    """Call with fields to change; see `make_spec`."""
    return make_spec
