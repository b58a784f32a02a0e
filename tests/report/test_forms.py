"""The page of several studies, and the head of a page as Markdown and JSON."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from sample import write_committed, write_sample, write_scenario

from rlrs.cli import main
from rlrs.comparison import holm, read_results
from rlrs.report import ReportError, write_across, write_report, write_summary

DEMO = Path(__file__).parents[2] / "experiments" / "demo" / "demo.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    top = tmp_path_factory.mktemp("studies")
    return [write_scenario(top / name, name) for name in ("gain", "no_gain", "embedding")]


@pytest.fixture
def command(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def test_json_has_the_numbers_of_results_unrounded(folders: list[Path]) -> None:
    plain = json.loads(write_summary(folders[:1], "json"))
    comparison = read_results(folders[0] / "results.json").comparison
    assert plain["winner"] == "rlrs"
    assert plain["sentence"] == comparison.decision.sentence
    fair, other = plain["savings"]
    assert (fair["control"], fair["fair"], other["control"], other["fair"]) == (
        "embedding_only",
        True,
        "uniform",
        False,
    )
    assert fair["mean"] == comparison.speed_up["embedding_only"].mean
    assert fair["bootstrap"] == list(comparison.speed_up["embedding_only"].bootstrap)
    assert fair["source"] == "comparison.speed_up.embedding_only"
    runs = plain["cost_in_runs"]
    assert fair["pays_off"]["runs"] - 1 < runs / fair["mean"] <= fair["pays_off"]["runs"]
    assert plain["machine"] is None
    assert plain["run"]["money"] is None


def test_json_of_several_studies_is_a_list_and_of_no_gain_has_no_pay_off(folders: list[Path]) -> None:
    gain, none, embedding = json.loads(write_summary(folders, "json"))
    assert [one["winner"] for one in (gain, none, embedding)] == ["rlrs", "uniform", "embedding_only"]
    assert all(saving["pays_off"] is None and not saving["shown"] for saving in none["savings"])
    assert embedding["savings"][0]["source"] == "comparison.winner_speed_up.uniform"
    assert embedding["arm"] == "embedding_only"


def test_markdown_is_the_head_of_the_page_with_the_lines_to_copy(folders: list[Path]) -> None:
    said = write_summary(folders[:1], "markdown")
    assert said.startswith("## sample-gain: 13% fewer steps than a tuned embedding multiplier: give every component")
    assert "| a tuned embedding multiplier | 13% |" in said
    assert "```python\nimport torch\n\nimport rlrs\n" in said
    assert f"`{folders[0] / 'results.json'}`" in said
    page = write_report(folders[0]).read_text(encoding="utf-8")
    for answer in re.findall(r"^- \*\*[^*]+\*\*: (.+)$", said, re.M):
        assert answer.split(".")[0] in page
    assert "埋め込み層だけの学習率調整" in write_summary(folders[:1], "markdown", "ja")


def test_a_bar_in_a_name_breaks_no_table(tmp_path: Path) -> None:
    write_sample(tmp_path, name="a|b")
    assert "## a\\|b: " in write_summary([tmp_path], "markdown")


def test_across_studies_each_row_is_a_study_and_p_values_are_corrected_for_their_number(folders: list[Path]) -> None:
    page = write_across(folders, folders[0].parent / "studies.html").read_text(encoding="utf-8")
    assert "1 of 3 studies show a gain over the strongest simpler way" in page
    rows = re.findall(r'<tr data-from="[^"]*"><th scope="row">([^<]+)</th>(.*?)</tr>', page)
    assert [name for name, _ in rows] == ["sample-gain", "sample-no-gain", "sample-embedding"]
    cells = [re.findall(r"<td>(.*?)</td>", row) for _, row in rows]
    assert [row[5] for row in cells] == ["relative schedules", "uniform rate", "embedding only"]
    assert cells[0][6] == "13% (10 to 15%) against embedding only"
    assert cells[1][6] == "No saving shown"
    p = {}
    for folder in folders:
        plain = json.loads(write_summary([folder], "json"))
        p[plain["study"]] = next(s["p_value"] for s in plain["savings"] if s["fair"])
    assert cells[1][7] == f"{holm(p)['sample-no-gain']:.2g}"


def test_studies_of_one_name_are_told_apart_and_one_named_twice_is_refused(tmp_path: Path) -> None:
    two = [write_sample(tmp_path / name, schema=2) for name in ("a", "b")]
    page = write_across(two, tmp_path / "studies.html").read_text(encoding="utf-8")
    assert f"sample-moe ({two[0]})" in page
    (tmp_path / "studies.html").unlink()
    with pytest.raises(ReportError, match="named twice; a study counts once"):
        write_across([two[0], two[0] / "." ], tmp_path / "studies.html")  # fmt: skip
    assert not (tmp_path / "studies.html").exists()


def test_the_command_writes_pages_and_forms(command, folders: list[Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("report", folders[0], "--lang", "ja", "--out", "here.html")
    assert (code, "here.html" in out) == (0, True)
    assert '<html lang="ja">' in Path("here.html").read_text(encoding="utf-8")
    assert command("report", *folders)[0] == 0
    assert Path("studies.html").is_file()
    code, out, _ = command("report", folders[0], "--format", "json")
    assert json.loads(out)["study"] == "sample-gain"
    assert command("report", folders[0], "--format", "markdown", "--out", "head.md")[0] == 0
    assert Path("head.md").read_text(encoding="utf-8").startswith("## sample-gain")


@pytest.mark.parametrize("arguments", [(), ("--format", "json"), ("--format", "markdown", "--out", "x.md")])
def test_a_folder_without_results_is_one_line(command, folders: list[Path], tmp_path: Path, arguments) -> None:
    code, _, error = command("report", folders[0], tmp_path / "none", *arguments)
    assert code == 2
    assert error.count("\n") == 1
    assert "results.json: there is none yet" in error
    assert not (tmp_path / "x.md").exists()


def test_committed_results_of_schema_1_have_all_forms(tmp_path: Path) -> None:
    write_committed(DEMO, tmp_path / "demo")
    plain = json.loads(write_summary([tmp_path / "demo"], "json"))
    assert [round(saving["mean"], 2) for saving in plain["savings"]] == [0.13, 0.35]
    assert plain["savings"][0]["bootstrap"] is None  # not kept then
