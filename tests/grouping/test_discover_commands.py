"""`rlrs discover`: a run of a study, its page, its components, and those carried to the target."""

import json
import re

import pytest
from typer.testing import CliRunner

import rlrs
from rlrs.discovery import RunStatistics
from rlrs.grouping import GroupingError, read_components
from rlrs.grouping.discover_commands import app
from rlrs.inspection import build_models

STUDY = """
name: small
data: {{source: "files:{text}", vocab_size: 300, sequence_length: 16, max_bytes: 40000}}
proxy: {{model: {{d_model: 16, n_layers: 3, n_heads: 2, n_experts: 2}}, steps: 40, batch_size: 4}}
target: {{model: {{d_model: 32, n_layers: 5, n_heads: 2, n_experts: 2}}, steps: 40, batch_size: 4}}
training: {{dtype: float32}}
search: {{trials: 2}}
"""


def run(*arguments):
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discover")
    text = " ".join(f"word{n % 7} and {n % 11} of {n % 13};" for n in range(4000))
    (folder / "text.txt").write_text(text)
    (folder / "study.yaml").write_text(STUDY.format(text=folder / "text.txt"))
    run("probe", folder / "study.yaml", "--out", folder / "probe", "--every", "2")
    return folder


def test_a_probe_is_of_the_studys_model_and_every_expert(probed):
    found = RunStatistics.load(probed / "probe" / "statistics.0.npz")
    assert found.steps.tolist() == list(range(2, 41, 2))
    assert {row.layer for row in found.rows} == {-1, 0, 1, 2}
    assert sorted({row.expert for row in found.rows if row.component == "experts"}) == [0, 1]


def test_components_are_rules_for_both_models(probed):
    said = run("components", probed / "probe" / "statistics.0.npz", "--out", probed / "c.yaml", "--keep", "experts")
    found = read_components(probed / "c.yaml")
    assert all(one.component in said for one in found.components)
    run("carry", probed / "c.yaml", probed / "study.yaml", "--out", probed / "t.yaml")
    for (_, model), file in zip(build_models(str(probed / "study.yaml")), ("c.yaml", "t.yaml"), strict=True):
        parts = rlrs.partition(model, rlrs.load_rules(probed / file))
        labels = {name: c for name, c in parts.component_of().items() if c != "norm"}
        assert labels == read_components(probed / file).labels()


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_has_a_square_for_every_row_and_moment(probed, language):
    run("page", probed / "probe" / "statistics.0.npz", "--html", probed / "p.html", "--lang", language)
    page = (probed / "p.html").read_text(encoding="utf-8")
    plots = [json.loads(text) for text in re.findall(r'class="plot-data" data-plot="[\w-]+">(.*?)</script>', page)]
    assert len(plots) == 4
    # Embedding and head, the last norm, and in each of 3 layers: attention, norms, router, 2 experts.
    rows = 3 + 3 * 5
    assert [sum(len(trace["x"]) for trace in one["data"]) for one in plots] == [rows * 20] * 4
    labels = plots[0]["layout"]["yaxis"]["ticktext"]
    assert labels[0] == {"en": "embedding", "ja": "埋め込み層"}[language]
    assert "2" in labels[-4]
    assert "embedding.weight" in page


def test_what_cannot_be_used_is_one_line(probed):
    (probed / "bad.npz").write_text("text")
    with pytest.raises(GroupingError, match=r"bad\.npz: not a file of statistics, or damaged"):
        run("page", probed / "bad.npz")
    with pytest.raises(GroupingError, match="1 step should be 2 or more"):
        run("probe", probed / "study.yaml", "--out", probed / "none", "--steps", "1")
    assert not (probed / "none").exists()
