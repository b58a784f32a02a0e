import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import rlrs
from rlrs.ratios import PRESETS, Ratio, Ratios, RatiosError

VALUE = st.floats(0, 1e6, allow_nan=False)
INNER = st.lists(st.floats(0.001, 0.999), unique=True, max_size=4).map(sorted)


@given(st.dictionaries(st.sampled_from(["embedding", "experts", "router", "norm"]), st.tuples(INNER, VALUE, VALUE)))
def test_save_and_load_round_trip(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("ratios")
    ratios = Ratios(
        {name: Ratio(((0.0, s), *((p, s) for p in inner), (1.0, e))) for name, (inner, s, e) in drawn.items()},
        {"horizon": {"steps": 300}, "data_hash": "abc"},
    )
    ratios.save(folder / "ratios.yaml")
    again = Ratios.load(folder / "ratios.yaml")
    assert again == ratios
    assert again.provenance == ratios.provenance
    again.save(folder / "again.yaml")
    assert (folder / "again.yaml").read_bytes() == (folder / "ratios.yaml").read_bytes()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load(name):
    assert set(Ratios.preset(name)) == set(PRESETS[name])


def test_the_papers_moe_values():
    ratios = rlrs.Ratios.preset("paper-moe")
    assert (ratios["embedding"].start, ratios["embedding"].end) == (5.0, 0.666)
    assert (ratios["experts"].start, ratios["experts"].end) == (0.3, 1.125)


def test_a_ratio_may_be_a_number_a_pair_knots_or_a_mapping():
    ratios = Ratios({"a": 2, "b": (2, 3), "c": [[0, 1], [0.5, 2], [1, 3]], "d": {"start": 1, "end": "3e-1"}})
    assert ratios["a"].knots == ((0.0, 2.0), (1.0, 2.0))
    assert ratios["b"].knots == ((0.0, 2.0), (1.0, 3.0))
    assert ratios["c"].knots == ((0.0, 1.0), (0.5, 2.0), (1.0, 3.0))
    assert ratios["d"].end == 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("embedding: 5", "unknown key 'embedding'; components go under the key ratios"),
        ("schema: 9\nratios: {}", "has schema 9, of a later rlrs: this one reads 1; use that version"),
        ("schema: 1", "ratios is missing"),
        ("schema: 1\nratio: {}", "unknown key 'ratio'; did you mean 'ratios'?"),
        ("schema: 1\nratios: 3", "ratios should be a mapping, not 3"),
        ("schema: 1\nratios: {experts: {start: -1, end: 1}}", "experts: start should be 0 or more, not -1"),
        ("schema: 1\nratios: {experts: {start: 1, ende: 1}}", "experts: unknown key 'ende'"),
        ("schema: 1\nratios: {experts: {start: 1}}", "experts: end is missing"),
        ("schema: 1\nratios: {experts: fast}", "experts: start should be a number, not 'fast'"),
        ("schema: 1\nratios: {experts: true}", "experts: start should be a number, not True"),
        ("schema: 1\nratios: {experts: .nan}", "experts: start should be 0 or more, not nan"),
        (
            "schema: 1\nratios: {experts: {knots: [[0, 1], [1, 2, 3]]}}",
            "experts: knots should be a list of pairs",
        ),
        (
            "schema: 1\nratios: {experts: {knots: [[0.1, 1], [1, 2]]}}",
            "experts: knots should run from progress 0",
        ),
        ("- 1", "should be a mapping"),
        ("a: [", "line 1: not valid YAML"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "ratios.yaml"
    path.write_text(text)
    with pytest.raises(RatiosError) as caught:
        Ratios.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_preset_are_named(tmp_path):
    with pytest.raises(RatiosError, match=r"none.yaml: cannot be read: No such file"):
        Ratios.load(tmp_path / "none.yaml")
    with pytest.raises(RatiosError, match="no preset 'paper'; there are paper-dense, paper-moe, uniform"):
        Ratios.preset("paper")


def test_ratios_for_components_that_are_not_there_are_an_error_with_the_nearest_name():
    with pytest.raises(RatiosError, match="name expert, which the model does not have; did you mean 'experts'"):
        Ratios({"expert": 1}).check_used(["embedding", "experts"], "the model")


@pytest.mark.parametrize("text", ["{norm: 1e308}", "{norm: {knots: [[0, 1], [1, 1e13]]}}", '{"a\\nb": 1}'])
def test_rates_without_bounds_and_names_of_two_lines_are_refused(tmp_path, text):
    (tmp_path / "r.yaml").write_text(f"ratios: {text}\n")
    with pytest.raises(RatiosError, match=r"r.yaml: .*(at most 1e\+12|printable text in one line)"):
        Ratios.load(tmp_path / "r.yaml")


@pytest.mark.parametrize("lr", [-1, float("nan"), float("inf"), 1e308])
def test_a_base_rate_without_bounds_is_refused(lr):
    with pytest.raises(RatiosError, match=r"lr should be (0 or more|at most 1e\+12), not"):
        Ratios().rates(0, lr=lr, total_steps=1)


def test_saved_yaml_is_plain_and_short(tmp_path):
    Ratios.preset("paper-moe").save(tmp_path / "r.yaml")
    plain = yaml.safe_load((tmp_path / "r.yaml").read_text())
    assert plain["schema"] == 1
    assert plain["ratios"]["embedding"] == {"start": 5.0, "end": 0.666}


def test_numbers_of_any_library_and_numbers_in_text_are_taken():
    ratios = Ratios(
        {"a": np.float32(2), "b": ("5", "1"), "c": np.array([5.0, 1.0]), "d": [np.int64(3), np.float16(0.5)], "e": "2"}
    )
    assert ratios["a"].knots == ((0.0, 2.0), (1.0, 2.0))
    assert ratios["b"].knots == ratios["c"].knots == ((0.0, 5.0), (1.0, 1.0))
    assert (ratios["d"].start, ratios["d"].end, ratios["e"].end) == (3.0, 0.5, 2.0)
    assert Ratios({"a": np.array([[0, 1], [0.5, 2], [1, 3]])})["a"].knots[1] == (0.5, 2.0)


@pytest.mark.parametrize("value", ["fast", ("5", "x"), None, {}, 10**400, "x" * 100_000, [1, 2, 3], b"5", 1j])
def test_what_is_no_ratio_is_named_in_short(value):
    with pytest.raises(RatiosError, match=r"^experts: ") as caught:
        Ratios({"experts": value})
    assert len(str(caught.value)) < 250


def test_a_file_written_by_hand_may_leave_the_schema_out(tmp_path):
    (tmp_path / "r.yaml").write_text("ratios: {experts: [0.3, 1.125], embedding: 5}")
    assert Ratios.load(tmp_path / "r.yaml")["experts"].end == 1.125


def test_a_preset_is_found_under_near_names():
    assert rlrs.Ratios.named("paper-moe") == Ratios.preset("paper-moe")
    with pytest.raises(RatiosError, match=r"^no preset or file 'paper-mo'; did you mean 'paper-moe'\?$"):
        Ratios.named("paper-mo")
    with pytest.raises(
        RatiosError, match=r"^no preset or file 'mine'; the presets are paper-dense, paper-moe, uniform$"
    ):
        Ratios.named("mine")
    with pytest.raises(RatiosError, match=r"^mine.yaml: cannot be read: No such file or directory$"):
        Ratios.named("mine.yaml")
    with pytest.raises(RatiosError, match=r"no preset 'paper_dense'; did you mean 'paper-dense'\?"):
        Ratios.preset("paper_dense")
    with pytest.raises(RatiosError, match=r"cannot be read: .*preset of that name is Ratios.preset\('paper-moe'"):
        Ratios.load("paper-moe")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lm_head", "unembedding"),
        ("classifier", "unembedding"),
        ("mlp", "feed_forward"),
        ("FFN", "feed_forward"),
        ("self_attn", "attention"),
        ("mlp/layer.0-3", "feed_forward/layer.0-3"),
        ("gate", "router"),
        ("wte", "embedding"),
    ],
)
def test_other_words_for_a_component_lead_to_ours(name, meant):
    there = ["embedding", "attention", "feed_forward", "router", "unembedding"]
    with pytest.raises(RatiosError, match=f"name {name}, which the model does not have; did you mean '{meant}'"):
        Ratios({name: 2}).check_used(there, "the model")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.feed_forward = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        self.lm_head = nn.Linear(8, 20, bias=False)
        self.lm_head.weight = self.embed.weight


def test_the_ratio_of_a_tied_component_is_a_note():
    notes = Ratios.preset("paper-dense").check_used(rlrs.partition(Tied()), "the model")
    assert notes == [
        "the ratio of unembedding does nothing: its weights are tied to embedding, whose ratio is theirs too"
    ]
    assert Ratios({"attention": 2}).check_used(rlrs.partition(Tied()), "the model") == []


def test_a_preset_serves_a_model_without_a_head_and_names_the_other_preset_where_that_is_meant():
    headless = nn.ModuleDict({"embed": Tied().embed, "attention": Tied().attention, "mlp": Tied().feed_forward})
    preset = Ratios.preset("paper-dense")
    assert preset.check_used(rlrs.partition(headless), "the encoder") == [
        "the encoder has no unembedding: the ratio of the preset paper-dense for it does nothing"
    ]
    optimizer = torch.optim.AdamW(rlrs.param_groups(headless, preset, lr=1e-3))
    assert rlrs.RelativeLR(optimizer, preset, total_steps=5).rates()["embedding"] == 5e-3
    with pytest.raises(RatiosError, match=r"name router, experts, .*; the preset for it is 'paper-dense'"):
        rlrs.param_groups(Tied(), Ratios.preset("paper-moe"), lr=1e-3)
    with pytest.raises(RatiosError, match="ratios name unembedding"):
        Ratios({"unembedding": 2}).check_used(rlrs.partition(headless), "the encoder")  # asked for by name: a mistake
