"""`rlrs inspect`: every parameter once, for our models and for transformers'."""

import json

import pytest

from rlrs.inspection import InspectionError, build_models, component_rows


@pytest.mark.parametrize(
    ("name", "components", "total"),
    [
        ("llama", {"embedding", "attention", "feed_forward", "norm", "unembedding"}, 6_738_415_616),
        ("mixtral", {"embedding", "attention", "experts", "router", "norm", "unembedding"}, 46_702_792_704),
        ("gpt2", {"embedding", "position", "attention", "feed_forward", "norm"}, 124_439_808),
    ],
)
def test_transformers_model_types_are_counted_once(name, components, total):
    pytest.importorskip("transformers")
    ((title, model),) = build_models(name)
    rows, parts, counted = component_rows(model)
    assert title == name
    assert {row.component for row in rows} == components
    assert sum(row.parameters for row in rows) == counted == total
    assert not parts.unsure


def test_the_demos_proxy_and_target():
    (proxy, target) = (component_rows(model) for _, model in build_models("configs/demo.yaml"))
    assert {row.component: row.parameters for row in proxy[0]} == {
        "embedding": 512 * 32,
        "attention": 2 * 4 * 32 * 32,
        "experts": 2 * 4 * 3 * 32 * 88,
        "router": 2 * 4 * 32,
        "norm": 5 * 32,
        "unembedding": 512 * 32,
    }
    assert target[2] >= 8 * proxy[2]


def test_a_config_json_is_read_from_disk(tmp_path):
    pytest.importorskip("transformers")
    settings = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({**settings, "vocab_size": 50, "intermediate_size": 64}))
    for place in (tmp_path, tmp_path / "config.json"):
        ((_, model),) = build_models(str(place))
        assert sum(p.numel() for p in model.parameters()) < 50_000


def test_what_cannot_be_found_is_one_line_with_the_nearest_types(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(InspectionError, match=r"lama: neither a file nor a transformers model type; did you mean"):
        list(build_models("lama"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InspectionError, match="not a transformers config"):
        list(build_models(str(tmp_path)))


def test_ratios_per_layer_have_rows_of_their_own():
    ((_, model),) = build_models("gpt2")
    rows, _, _ = component_rows(model, ["attention/layer.0-3", "router/layer.0"])
    assert {row.component: row.tensors for row in rows if row.component.startswith("attention")} == {
        "attention": 4 * 8,
        "attention/layer.0-3": 4 * 4,
    }


def test_a_function_that_makes_a_model_is_called_without_memory_for_weights(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make(width=4, bias=True):\n"
        "    return nn.Sequential(nn.Embedding(8, width), nn.Linear(width, 8, bias=bias))\n"
        "class Model(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.embed = nn.Embedding(8, width)\n"
        "def none():\n"
        "    return 3\n"
    )
    place = f"{tmp_path / 'mine.py'}:make"
    for text, count in ((place, 2 * 32 + 8), (f"{place}(width=2, bias=False)", 2 * 16)):
        ((title, model),) = build_models(text)
        assert title == text
        assert sum(p.numel() for p in model.parameters()) == count
        assert all(p.is_meta for p in model.parameters())
    for text, said in (
        (f"{tmp_path / 'mine.py'}:Model", "arguments go in parentheses"),
        (f"{place}(3)", "arguments should be names with plain values"),
        (f"{place}(width=open('x'))", "arguments should be names with plain values"),
        (f"{tmp_path / 'mine.py'}:none", "gave a int, which is no nn.Module"),
        (f"{tmp_path / 'mine.py'}:nothing", "has no function 'nothing'"),
        (f"{tmp_path / 'other.py'}:make", "there is no file"),
    ):
        with pytest.raises(InspectionError) as error:
            list(build_models(text))
        assert said in str(error.value)
        assert "\n" not in str(error.value)
