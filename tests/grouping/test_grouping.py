"""Components found: planted ones come out, constraints hold, and rules say what was found."""

import re

import numpy as np
import pytest
import torch

import rlrs
from experiments.found_components.planted import probed
from rlrs.components import PartitionError
from rlrs.data import TokenData
from rlrs.discovery import RunStatistics
from rlrs.discovery.run_statistics import SUMS, Row
from rlrs.grouping import GroupingError, agreement, carry_components, find_components, read_components, save_components
from rlrs.settings import ModelConfig


def statistics(factors, steps=20, seed=0, noise=0.05, agree=None):
    """Rows `blocks.L.KIND`, L by L, with gradients times `factors[KIND][L]` and signals of `agree[KIND]`."""
    draw = np.random.default_rng(seed)
    kinds, layers = list(factors), len(next(iter(factors.values())))
    rows = [Row(f"blocks.{n}.{kind}.weight", kind, n, layers, -1, 100) for n in range(layers) for kind in kinds]
    scale = np.array([factors[row.component][row.layer] for row in rows])
    signal = np.array([(agree or {}).get(row.component, 0.5) for row in rows])
    shape = (steps, len(rows))
    squares = 100 * (scale * np.exp(noise * draw.standard_normal(shape))) ** 2
    sums = {name: np.ones(shape) for name in SUMS}
    sums |= {"gradient": squares, "gradient_before": squares, "product": squares * signal}
    return RunStatistics(rows=rows, steps=np.arange(2, 2 + steps), sums=sums)


LATE = {"attention": [1] * 6, "feed_forward": [1, 1, 1, 1, 10, 10]}


@pytest.mark.long
def test_what_learns_alike_is_one_component_with_a_name_and_rules():
    found = find_components([statistics(LATE)])
    late = found.components[1] if "late" in found.components[1].component else found.components[0]
    assert len(found.components) == 2
    assert (late.component, late.words) == ("late_feed_forward", "late feed-forward: large gradients")
    assert late.tensors == ("blocks.4.feed_forward.weight", "blocks.5.feed_forward.weight")
    assert late.rules == (r"^blocks\.(?:4|5)\.feed_forward\.weight$",)
    assert late.figures["gradient"] == pytest.approx(10, rel=0.1)
    assert found.stability > 0.9  # a draw may have none of the two
    assert found.silhouette > 0.9


def test_tensors_that_learn_alike_are_one_component():
    found = find_components([statistics({"attention": [1] * 6, "feed_forward": [1] * 6}, noise=0.3)])
    assert [len(one.tensors) for one in found.components] == [12]
    assert found.stability is None
    assert found.tried


def test_at_most_as_many_as_asked_for():
    factors = {"attention": [1, 1, 10, 10], "feed_forward": [100, 100, 1000, 1000]}
    assert len(find_components([statistics(factors)]).components) == 4
    assert len(find_components([statistics(factors)], most=2).components) == 2
    assert len(find_components([statistics(factors)], most=1).components) == 1


def test_a_component_is_kept_whole_and_one_that_is_left_is_in_no_group():
    kept = find_components([statistics(LATE)], keep=["feed_forward"], most=3)
    labels = kept.labels()
    assert len({labels[name] for name in labels if "feed_forward" in name}) == 1
    left = find_components([statistics(LATE)], leave=["attention"])
    assert not [name for name in left.labels() if "attention" in name]
    with pytest.raises(GroupingError, match="no component 'router' to keep whole; it has attention, feed_forward"):
        find_components([statistics(LATE)], keep=["router"])


@pytest.mark.long
def test_seeds_that_agree_and_seeds_that_do_not():
    same = find_components([statistics(LATE, seed=seed) for seed in range(3)])
    assert same.seeds == 1.0
    other = {"attention": [10, 10, 1, 1, 1, 1], "feed_forward": [1] * 6}
    assert find_components([statistics(LATE), statistics(other)]).seeds in (None, pytest.approx(-0.2, abs=0.3))


def test_noise_is_told_apart_from_size():
    found = find_components([statistics({"attention": [1] * 5, "experts": [1] * 5}, agree={"experts": 0.02})])
    words = {one.component: one.words for one in found.components}
    assert words == {"attention": words["attention"], "experts": "experts: noisy updates"}
    assert agreement(found.labels(), {name: name.split(".")[2] for name in found.labels()}) == 1.0
    assert found.named == 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.long
def test_planted_gradients_of_a_real_run_are_found(optimizer):
    draw = np.random.default_rng(0)
    tokens = np.where(draw.random(20_000) < 0.2, draw.integers(64, size=20_000), 5 * np.arange(20_000) % 64)
    tokens = tokens.astype(np.uint16)
    data = TokenData(train=tokens, valid=tokens, sequence_length=16, vocab_size=64, hash="d" * 12)
    model = ModelConfig(d_model=16, n_layers=4, n_heads=2)
    run, truth = probed(model, data, steps=60, seed=1, scale=30.0, noise=8.0, every=3, optimizer=optimizer)
    found = find_components([run])
    assert agreement(found.labels(), truth) >= 0.9
    assert sorted(set(truth.values())) == ["noisier", "plain", "scaled"]


class Layered(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.embedding = torch.nn.Embedding(16, 8)
        self.blocks = torch.nn.ModuleList(torch.nn.TransformerEncoderLayer(8, 2, 16) for _ in range(layers))
        self.lm_head = torch.nn.Linear(8, 16)


def found_in(model):
    """Statistics of a model whose last half of feed-forward learns otherwise."""
    parts = rlrs.partition(model)
    rows = []
    for component, names in parts.items():
        for name in names:
            depth = parts.depths[name]
            rows.append(Row(name, component, -1 if depth.layer is None else depth.layer, depth.layers, -1, 100))
    shape, sums = (12, len(rows)), {}
    late = [10.0 if r.component == "feed_forward" and r.layer >= r.layers / 2 else 1.0 for r in rows]
    for name in SUMS:
        sums[name] = np.ones(shape) * (np.square(late) if "gradient" in name or name == "product" else 1.0)
    return find_components([RunStatistics(rows=rows, steps=np.arange(12) + 2, sums=sums)])


def test_the_file_is_rules_that_divide_the_model(tmp_path):
    found = found_in(Layered(4))
    save_components(found, tmp_path / "components.yaml")
    assert read_components(tmp_path / "components.yaml") == found
    rules = rlrs.load_rules(tmp_path / "components.yaml")
    parts = rlrs.partition(Layered(4), rules)
    assert {name: c for name, c in parts.component_of().items() if c != "norm"} == found.labels()
    ratios = {"late_feed_forward": (0.5, 0.25)}
    optimizer = torch.optim.AdamW(rlrs.param_groups(Layered(4), ratios, lr=1e-2, rules=rules))
    assert rlrs.RelativeLR(optimizer, ratios, total_steps=9).rates()["late_feed_forward"] == 5e-3


def test_a_grouping_is_carried_to_a_deeper_model_by_structure():
    small, deep = Layered(4), Layered(10)
    carried = carry_components(found_in(small), deep)
    assert agreement(carried.labels(), found_in(deep).labels()) == 1.0
    assert carried.carried_from == len(found_in(small).places)
    late = next(one for one in carried.components if one.component == "late_feed_forward")
    assert all(re.search(r"blocks\.[5-9]\.linear", tensor) for tensor in late.tensors)
    with pytest.raises(GroupingError, match=r"conv.weight \(conv\) has no like in the model"):
        carry_components(found_in(small), torch.nn.ModuleDict({"conv": torch.nn.Conv2d(2, 2, 3)}))


def test_what_cannot_be_grouped_is_one_line(tmp_path):
    with pytest.raises(GroupingError, match="run 0 has 5 observations, and should have 8 or more"):
        find_components([statistics(LATE, steps=5)])
    with pytest.raises(GroupingError, match="run 1 is of another model than run 0"):
        find_components([statistics(LATE), statistics({"attention": [1] * 6})])
    with pytest.raises(GroupingError, match="there are 2 tensors to group"):
        find_components([statistics({"attention": [1, 1]})])
    with pytest.raises(GroupingError, match="1 or more at most, not 0"):
        find_components([statistics(LATE)], most=0)
    file = tmp_path / "components.yaml"
    for text, message in (
        ("components: 3", "should have format: 1 and a list of components"),
        ("format: 1\ncomponents: [{rules: [a]}]", r"components\[0\]: should have a component"),
        ("format: 1\ncomponents: [{component: a, rules: []}]", r"components\[0\]: rules should be a list"),
        ("format: 1\ncomponents: [{component: a, rules: ['(']}]", "not a regular expression"),
    ):
        file.write_text(text)
        with pytest.raises(PartitionError, match=rf"components\.yaml: .*{message}"):
            rlrs.load_rules(file)
        with pytest.raises(GroupingError, match=r"components\.yaml: "):
            read_components(file)
