"""One thread: models this small only lose by more, and numbers do not depend on how many there are."""

import torch

torch.set_num_threads(1)
