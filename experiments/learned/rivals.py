"""Two published rivals, on the reference trainer: rates by layers' spectra (LLR), and by groups of momenta (SGG).

Both multiply what an optimizer does to a weight, decay included. So here they are hooks around `step()` that take each
update times a factor: of a matrix, or of every element. Written from the papers' descriptions; where those leave
something open, it stands at the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlrs.components import partition
from rlrs.data import TokenData
from rlrs.records import RunResult
from rlrs.training import RunSpec, StopFlag, World
from rlrs.training.loop import Loop

HIDDEN = ("attention", "feed_forward", "experts", "shared_experts")
TABLES = ("embedding", "unembedding")


class Rival(Protocol):
    """A rule that gives factors of rates, looked at before every step."""

    def factors(self, step: int, moments: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """By the name of a weight, what its update is multiplied by; 1 for those that are not named.

        Args:
            step: 0-based.
            moments: first moments (Adam's, or Muon's momentum) of the weights that have one, before the step.
        """
        ...


class Spectral:
    """LLR: a layer's rate by how heavy the tail of its spectrum is (He et al., 2026, arXiv:2605.22297).

    Of a matrix with eigenvalues `l` of `W^T W`, sorted, the tail exponent is Hill's over the larger half,
    `alpha = 1 + n / sum(log l_i - log l_min)`. Over all matrices alpha is mapped linearly to factors from `least` to
    `most`: weaker tails get larger rates. Assigned anew every `every` of the first `until` of a run, approached
    linearly over half of that, and held from then on.

    What was open: the authors' code leaves matrices with fewer than 50 eigenvalues out, which would be all of these
    models; gives table and head the largest factor, which the abstract does not say; and assigns every 40 steps of
    runs of 3,200 and more, taken here as a share of the run. Fused experts are one matrix each. Routers and norms
    have the base rate.
    """

    def __init__(self, model: nn.Module, steps: int, least: float = 1.0, most: float = 3.0) -> None:
        owner = partition(model).component_of()
        named = dict(model.named_parameters())
        self.matrices = {n: w for n, w in named.items() if owner[n].partition("/")[0] in HIDDEN and w.ndim >= 2}
        self.tables = [name for name in named if owner[name] in TABLES]
        self.least, self.most = least, most
        self.every, self.until = max(1, steps // 80), steps // 5
        self._from: dict[str, Any] = {}
        self._to: dict[str, Any] = {}

    def factors(self, step: int, moments: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """See `Rival.factors`."""
        if step <= self.until and step % self.every == 0:
            self._from, self._to = self._now(self.every), self.assigned()
        return self._now(step % self.every if step <= self.until else self.every)

    def assigned(self) -> dict[str, Any]:
        """Factors by the present spectra: of a stack of matrices [experts, 1, 1]."""
        alphas = {name: tail_exponents(weight) for name, weight in self.matrices.items()}
        every = torch.cat([alpha.reshape(-1) for alpha in alphas.values()])
        low, span = every.min(), (every.max() - every.min()).clamp(min=1e-12)
        mapped = {n: self.least + (self.most - self.least) * (alpha - low) / span for n, alpha in alphas.items()}
        return {**mapped, **dict.fromkeys(self.tables, self.most)}

    def _now(self, since: int) -> dict[str, Any]:
        part = min(1.0, since / max(1, self.every // 2))
        return {name: (1 - part) * self._from.get(name, 1.0) + part * to for name, to in self._to.items()}


def tail_exponents(weight: Tensor) -> Tensor:
    """Hill's estimate over the larger half of the eigenvalues of `W^T W`: [] of a matrix, [E, 1, 1] of a stack of E.

    >>> tail_exponents(torch.diag(torch.tensor([1.0, 1.0, 1.0, 2.718281828])))  # of squares 1 and e^2: 1 + 2 / 2
    tensor(2.)
    """
    logs = torch.linalg.svdvals(weight.detach().float()).clamp(min=1e-12).log() * 2
    tail = logs.flip(-1)[..., logs.shape[-1] // 2 :]
    alpha = 1 + tail.shape[-1] / (tail - tail[..., :1]).sum(-1).clamp(min=1e-12)
    return alpha[..., None, None] if weight.ndim == 3 else alpha


class Grouped:
    """SGG: momenta of a layer clustered by size, a factor for each cluster (Li et al., 2025, arXiv:2506.01049).

    Every `every` of a run, the absolute momenta of each weight go into `clusters` groups (mini-batch k-means). A
    group's factor is the layer's median deviation from the layer's mean over the group's own, within 1/10 and 10,
    smoothed by `memory`: groups that stand out are brought back to the layer.

    What was open: the paper speaks of a median of deviations to the average, the authors' released code of means;
    its `memory` is 0.999 in code, with which nothing moves within a run, and 0.9 in its later settings, taken here; it
    groups every 500 steps of runs of 10,000 and more, taken here as a share of the run; whether decay is multiplied
    too. "Layer" is a weight.
    """

    def __init__(self, steps: int, clusters: int = 3, memory: float = 0.9, every: float = 0.05) -> None:
        self.clusters, self.memory, self.every = clusters, memory, max(1, round(every * steps))
        self._models: dict[str, Any] = {}
        self._scales: dict[str, np.ndarray] = {}
        self._factors: dict[str, float | Tensor] = {}

    def factors(self, step: int, moments: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """See `Rival.factors`."""
        if step and step % self.every == 0:
            self._factors = {n: self._group(n, m) for n, m in moments.items() if m.numel() > self.clusters}
        return self._factors

    def _group(self, name: str, moment: Tensor) -> Tensor:
        from sklearn.cluster import MiniBatchKMeans

        values = moment.detach().reshape(-1).float().numpy()
        sizes = np.abs(values)[:, None]
        if name not in self._models:
            self._models[name] = MiniBatchKMeans(n_clusters=self.clusters, random_state=0, n_init=3)  # pyright: ignore[reportArgumentType]
            self._scales[name] = np.ones(self.clusters)
        unit = float(sizes.mean()) or 1.0  # k-means is not given numbers near the smallest
        labels = self._models[name].fit(sizes / unit).labels_
        order = np.argsort(np.argsort(self._models[name].cluster_centers_[:, 0]))  # the same place for the same size
        deviations = np.abs(values - values.mean())
        labels, whole = order[labels], float(np.median(deviations))
        for k in range(self.clusters):
            own = float(np.median(deviations[labels == k])) if (labels == k).any() else whole
            raw = min(max(whole / own, 0.1), 10.0) if own else 1.0
            self._scales[name][k] = self.memory * self._scales[name][k] + (1 - self.memory) * raw
        return torch.from_numpy(self._scales[name][labels]).to(moment.dtype).view_as(moment)


class ScaledUpdates:
    """Hooks by which a rival multiplies what optimizers do."""

    def __init__(self, model: nn.Module, optimizers: list[Optimizer], rival: Rival) -> None:
        self.names = {id(weight): name for name, weight in model.named_parameters()}
        self.rival, self.step = rival, -1
        self._factors: dict[str, float | Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self.optimizers = optimizers
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(self._begin)
            optimizer.register_step_post_hook(self._end)

    def _weights(self, optimizer: Optimizer) -> dict[str, Tensor]:
        return {self.names[id(w)]: w for group in optimizer.param_groups for w in group["params"]}

    @torch.no_grad()
    def _begin(self, optimizer: Optimizer, *call: Any) -> None:
        if optimizer is self.optimizers[0]:
            self.step += 1
            self._factors = self.rival.factors(self.step, self._moments())
        for name, weight in self._weights(optimizer).items():
            if name in self._factors:
                self._before[name] = weight.clone()

    @torch.no_grad()
    def _end(self, optimizer: Optimizer, *call: Any) -> None:
        for name, weight in self._weights(optimizer).items():
            if name in self._before:
                before, factor = self._before.pop(name), self._factors[name]
                weight.copy_(before + (weight - before) * factor)

    def _moments(self) -> dict[str, Tensor]:
        found = {}
        for optimizer in self.optimizers:
            for name, weight in self._weights(optimizer).items():
                state = optimizer.state.get(weight, {})
                moment = state.get("exp_avg", state.get("momentum_buffer"))
                if moment is not None:
                    found[name] = moment
        return found


RIVALS = {
    "LLR": lambda loop: Spectral(loop.state.model, loop.spec.steps),
    "SGG": lambda loop: Grouped(loop.spec.steps),
}


def train_rival(name: str, spec: RunSpec, data: TokenData) -> RunResult:
    """Train a run with a rival's factors on its rates."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        loop = Loop(spec, data, None, World(), validate=True, prune=None, stop=StopFlag())
        ScaledUpdates(loop.state.model, loop.state.optimizers, RIVALS[name](loop))
        return loop.train(None)
