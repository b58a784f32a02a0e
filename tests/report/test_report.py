"""What the page says, in which order, and that it stands alone."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sample import RATIOS, SEEDS, WINNERS, write_committed, write_sample

from rlrs.comparison import read_results
from rlrs.ratios import Ratios
from rlrs.records import AtBound, RecordError, write_results
from rlrs.records.results import checksum
from rlrs.report import ReportError, figures, palette, text, write_ratios_page, write_report
from rlrs.report.origins import look_up
from rlrs.report.wording import Wording
from rlrs.schedules import BaseSchedule

EN, JA = Wording("en"), Wording("ja")


class Page(HTMLParser):
    """Text and attributes of a page, scripts and styles left out of the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.text, self.ids, self.references, self.by_id = source, "", [], [], {}
        self._stack: list[tuple[str, str | None]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.text += " "
        self.references += [value for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in ("meta", "link", "br", "line"):
            self._stack.append((tag, found.get("id")))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line",):
            assert self._stack.pop()[0] == tag, f"unbalanced </{tag}>"

    def handle_data(self, data: str) -> None:
        if any(tag in ("script", "style") for tag, _ in self._stack):
            return
        self.text += data
        for _, id_ in self._stack:
            if id_:
                self.by_id[id_] = self.by_id.get(id_, "") + data


@pytest.fixture(scope="module", params=[1, 2], ids=["schema 1", "schema 2"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return write_sample(tmp_path_factory.mktemp("study"), schema=request.param)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def edit(folder: Path, change) -> None:
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def words(folder: Path) -> str:
    return " ".join(Page(write_report(folder).read_text(encoding="utf-8")).text.split())


def test_verdict_and_saved_steps_come_first_and_sections_keep_their_order(page: Page) -> None:
    landmarks = (
        "12% fewer steps than a tuned embedding multiplier: give every component a learning-rate schedule of its own",
        "the strongest simpler way, with 12% fewer steps (95% interval",  # the decision in one sentence
        "fewer steps than a tuned embedding multiplier, the strongest simpler way: the fair comparison",
        "fewer steps than one tuned learning rate",
        "What is saved 12% of the steps",
        "How sure 3 paired seeds",
        "What it cost to find",
        "When it pays off",
        "What could go wrong",
        "Next step Copy ratios.yaml",
        "What it cost, and what a run saves",
        "In three sentences, for a meeting",
        "How fast each component should learn",
        "Loss on the target",
        "How the rates were found",
        "What the models are made of",
        "Use it Copy",
        "Settings and provenance",
    )
    said = " ".join(page.text.split())
    found = [said.index(landmark) for landmark in landmarks]
    assert found == sorted(found)


def test_head_shows_saving_interval_and_steps_against_both_controls(folder: Path) -> None:
    # per seed 40.2, 41.2, 42.2 %: mean 41.2, half width 4.303 * 1 / sqrt(3) = 2.5
    head = words(folder).partition("How fast")[0]
    assert "41% fewer steps than one tuned learning rate 95% interval 39 to 44%" in head
    assert "12% fewer steps than a tuned embedding multiplier, the strongest simpler way" in head
    assert "interval 10 to 15% 879 of 1,000 steps" in head
    assert "final loss -0.185 nats (-0.197 to -0.174)".replace("-", text.MINUS) in head  # 0.45 nats times the shares


def test_no_gain_is_not_headlined_as_a_saving(tmp_path: Path) -> None:
    source = write_report(write_sample(tmp_path, "no_transferable_gain")).read_text(encoding="utf-8")
    head = source[source.index("<main>") : source.index('id="savings"')]
    assert "No gain shown: keep one learning rate for the whole model" in head
    assert head.count("No saving shown") == 2
    assert "fewer steps than" not in head
    assert not re.search(r'class="saving[^"]*\b(gain|shown)\b', head)
    assert re.findall(r'class="big"[^>]*>([^<]*)<', head) == ["No saving shown"] * 2


def test_what_the_embedding_gains_is_not_shown_as_a_gain_of_relative_schedules(tmp_path: Path) -> None:
    source = write_report(write_sample(tmp_path, "gain_is_embedding")).read_text(encoding="utf-8")
    assert "34%" not in source[: source.index('id="schedules"')]
    assert "less loss than one tuned learning rate: give the embedding a learning rate of its own" in source
    assert not re.search(r'class="saving[ "]', source)  # shorter runs of the embedding-only arm were not made


def test_steps_that_a_simpler_winner_saves_are_shown_as_its_own(tmp_path: Path) -> None:
    def measured(results) -> None:
        comparison = results["comparison"]
        comparison["winner_speed_up"] = {"uniform": comparison["speed_up"]["uniform"]}
        results["checksum"] = checksum(results)

    write_sample(tmp_path, "gain_is_embedding", schema=2)
    edit(tmp_path, measured)
    said = words(tmp_path)
    assert "34% fewer steps than one tuned learning rate: give the embedding a learning rate of its own" in said
    assert "It reaches the final loss of one tuned learning rate with 34% fewer steps" in said
    assert "Steps that a tuned embedding multiplier save to the same final loss" in said


def test_where_the_embedding_is_better_the_page_says_worse(tmp_path: Path) -> None:
    source = write_report(write_sample(tmp_path, "worse_than_embedding")).read_text(encoding="utf-8")
    said = " ".join(Page(source).text.split())
    assert (
        "relative schedules are measurably worse than a tuned embedding multiplier (+0.090 nats; 95% interval" in said
    )


@pytest.mark.parametrize("kind", WINNERS)
def test_rates_lines_and_head_are_the_winners(tmp_path: Path, kind: Any) -> None:
    source = write_report(write_sample(tmp_path, kind, schema=2)).read_text(encoding="utf-8")
    winner, page = WINNERS[kind], Page(source)
    assert re.findall(r'data-decision="(\w+)"', source) == [winner]
    shown = re.findall(r'<tr data-component="(\w+)"', source[: source.index('id="loss"')])
    assert shown == list(RATIOS[winner])
    rate, fraction = {"uniform": (0.004, 0.0444), "embedding_only": (0.008, 0.0444), "rlrs": (0.008, 0.0296)}[winner]
    assert f"lr={rate}, weight_decay=0.1), betas=(0.9, 0.95))" in page.by_id["snippet"]
    assert f"final_fraction={fraction})" in page.by_id["snippet"]


def test_what_it_costs_counts_search_and_transfer(folder: Path) -> None:
    # Tokens times active parameters: search 77.8 M on the proxy, transfer 24.6 M on the target, a run 2.05 M.
    # proxy: 64 wide, 278,720 active; target: 192 wide, 1,922,880 active: (77.824 x 0.2787 / 1.9229 + 24.576) / 2.048
    proxy, target = (2 * 1024 * d + 4 * 4 * d * d + 4 * 8 * d * d + 4 * 8 * d + 9 * d for d in (64, 192))
    searched, compared = 77.824 * proxy / target / 2.048, 27.0336 / 2.048
    runs = searched + 24.576 / 2.048
    said = words(folder)
    assert (
        f"As much arithmetic as {runs + compared:.2g} runs of the target: {searched:.2g} for the searches on the proxy"
        in said
    )
    assert f"After {math.ceil((runs + compared) / 0.121)} runs of the target" in said
    assert f"{math.ceil((runs + compared) / 0.412)} runs of the target" in said


@pytest.mark.parametrize("name", ["demo", "demo_other_processor", "demo_smaller_budget"])
def test_committed_results_of_schema_1_are_reported_on(tmp_path: Path, name: str) -> None:
    results = Path(__file__).parents[2] / "experiments" / "demo" / f"{name}.json"
    path = write_report(write_committed(results, tmp_path / name))
    assert path.stat().st_size < 1_500_000
    winner = {"demo_smaller_budget": "embedding_only"}.get(name, "rlrs")
    assert f'data-decision="{winner}"' in path.read_text(encoding="utf-8")


def test_censored_saving_is_marked_as_a_lower_bound(tmp_path: Path) -> None:
    write_sample(tmp_path)
    edit(tmp_path, lambda r: r["comparison"]["speed_up"]["uniform"].update(bound="lower"))
    said = words(tmp_path)
    assert "≥ 41% fewer steps" in said
    assert "lower bound: in some seed even the shortest run was already better" in said


def test_study_without_embedding_control_says_so(tmp_path: Path) -> None:
    write_sample(tmp_path)

    def drop(results) -> None:
        for part in ("differences", "speed_up", "losses"):
            results["comparison"][part].pop("embedding_only")
        runs = results["comparison"]["runs"]
        results["comparison"]["runs"] = [run for run in runs if run["arm"] != "embedding_only"]
        for part in ("search", "transfer", "ratios", "base"):
            results[part].pop("embedding_only")

    edit(tmp_path, drop)
    said = words(tmp_path)
    assert "There is no embedding-only control" in said
    assert "fewer steps than a tuned embedding multiplier" not in said


def test_page_refers_to_nothing_but_itself_and_the_ratios_beside_it(page: Page) -> None:
    allowed = {"data:,", "ratios.yaml"}
    assert all(reference in allowed or reference.startswith("#") for reference in page.references)
    assert "ratios.yaml" in page.references
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    assert "default-src 'none'" in page.source
    assert not re.search(r"@import|url\(", page.source[: page.source.index("</style>")])


def test_the_bundle_is_of_the_plotly_js_that_plotly_emits_figures_for(page: Page) -> None:
    from plotly.offline import get_plotlyjs_version

    assert f"plotly.js (basic - minified) v{get_plotlyjs_version()}" in page.source
    assert "Licensed under the MIT license" in page.source


def test_plotly_is_inlined_once(page: Page) -> None:
    assert page.source.count("plotly.js (basic - minified) v") == 1
    assert page.source.count("</script>") == page.source.count("<script")


def test_every_component_arm_and_seed_is_on_the_page(page: Page) -> None:
    for component in RATIOS["rlrs"]:
        assert page.source.count(f'<tr data-component="{component}"') == 3  # ratios, proxy, target
    assert page.source.count('<tr data-component="norm"') == 2
    for arm in RATIOS:
        assert EN.arm(arm) in page.text
    assert all(f"Seed {seed}" in page.text for seed in SEEDS)


def test_every_figure_has_a_description_data_and_legend(page: Page) -> None:
    figures = re.findall(r'<div class="plot" id="([\w-]+)" role="img" aria-label="([^"]+)"', page.source)
    whole = ["rates", "relative-rates", "losses", "horizons", "search", "base-rates", "importance", "parallel"]
    assert [name for name, _ in figures] == [*whole, "u-0", "u-1", "u-2"]
    for name, description in figures:
        assert len(description) > 40
        data = re.search(rf'data-plot="{name}">(.*?)</script>', page.source, re.DOTALL)
        assert data
        assert json.loads(data[1])["data"]
    assert page.source.count('<ul class="legend"') == len(whole) - 1  # bars have their names beside them


def test_loss_figure_holds_the_runs_validation_losses(page: Page, folder: Path) -> None:
    found = re.search(r'data-plot="losses">(.*?)</script>', page.source, re.DOTALL)
    assert found
    traces = json.loads(found[1])["data"]
    assert len(traces) == 3 * 3 + 3  # each seed of each arm, and the means
    mean = next(t for t in traces if t["name"] == "relative schedules, mean")
    assert mean["x"] == list(range(100, 1001, 100))
    assert mean["y"][-1] == pytest.approx((3.214 + 3.186 + 3.231) / 3)


def test_horizon_figure_rings_the_crossing(page: Page) -> None:
    found = re.search(r'data-plot="horizons">(.*?)</script>', page.source, re.DOTALL)
    assert found
    rings = [t for t in json.loads(found[1])["data"] if t.get("marker", {}).get("symbol") == "circle-open"]
    assert [ring["x"][0] for ring in rings] == pytest.approx([588, 879])


def test_diverged_trials_are_marked_and_counted(page: Page) -> None:
    found = re.search(r'data-plot="search">(.*?)</script>', page.source, re.DOTALL)
    assert found
    symbols = [s for t in json.loads(found[1])["data"] for s in t.get("marker", {}).get("symbol", [])]
    assert symbols.count("x") == 2 + 2 + 1  # of 30, 24 and 13 trials; numbers 7 and 16 diverge


def traces(source: str, name: str) -> list:
    found = re.search(rf'data-plot="{name}">(.*?)</script>', source, re.DOTALL)
    assert found
    return json.loads(found[1])["data"]


def test_history_is_against_the_steps_spent_cheap_runs_counted_and_not_drawn(tmp_path: Path) -> None:
    write_sample(tmp_path)
    edit(tmp_path, lambda r: r["search"]["rlrs"]["trials"][1].update(whole=False, steps=250))
    source = write_report(tmp_path).read_text(encoding="utf-8")
    dots = next(t for t in traces(source, "search") if t["name"] == "relative schedules")
    assert dots["x"][:3] == [1000, 2250, 3250]
    assert "Of another length, width or seed, or learning their ratios, which do not compare: 1 trial;" in words(
        tmp_path
    )


def test_u_plots_have_multiples_of_the_best_point_with_the_trials_that_moved_nothing_else_joined(page: Page) -> None:
    # ordered by importance: embedding, start; base rate; final fraction. At the best trial the base rate is a fifth.
    source = page.source
    (dots,) = [t for t in traces(source, "u-1") if t["name"] == "base rate"]
    assert sorted({round(x, 3) for x in dots["x"]}) == [1.0, 3.333, 5.0, 7.5, 25.0]
    joined = [t for t in traces(source, "u-1") if t["mode"] == "lines"]
    assert [[round(x, 3) for x in sorted(set(t["x"]))] for t in joined] == [[1.0, 3.333, 5.0, 7.5, 25.0]]
    assert "unembedding, start moved with embedding, start in every trial" in page.text
    best = next(t for t in traces(source, "u-1") if t["name"] == "best")
    assert best["x"] == [1.0]


def test_parallel_coordinates_tell_trials_by_how_they_ended(tmp_path: Path) -> None:
    write_sample(tmp_path)
    edit(tmp_path, lambda r: r["search"]["rlrs"]["trials"][13].update(score=None, state="pruned", steps=400))
    source = write_report(tmp_path).read_text(encoding="utf-8")
    counts = {t["name"]: t["x"].count(None) for t in traces(source, "parallel")}
    assert counts["diverged"] == 2
    assert counts["ended early"] == counts["best"] == 1
    assert sum(counts.values()) == 30 + 1  # the best once more
    symbols = [s for t in traces(source, "search") for s in t.get("marker", {}).get("symbol", [])]
    assert symbols.count("square-open") == 1


def test_with_too_few_trials_there_are_no_pictures_of_them_and_the_page_says_so(tmp_path: Path) -> None:
    write_sample(tmp_path)

    def cut(results) -> None:
        results["search"]["rlrs"].update(trials=results["search"]["rlrs"]["trials"][:3])
        results["search"]["rlrs"]["best"]["number"] = 2

    edit(tmp_path, cut)
    assert "There are too few whole trials for pictures of each parameter." in words(tmp_path)


def test_many_parameters_and_trials_are_cut_and_the_page_says_so(tmp_path: Path) -> None:
    write_sample(tmp_path)

    def grow(results) -> None:
        names = [f"experts/expert.{k}.start" for k in range(30)]
        one = results["search"]["rlrs"]["trials"][0]
        grown = [
            {**one, "number": n, "score": 3.0 + n, "params": {p: 2.0 ** (n * k % 7) for k, p in enumerate(names, 1)}}
            for n in range(400)
        ]
        results["search"]["rlrs"].update(trials=grown, best={**grown[0]}, importance={})

    edit(tmp_path, grow)
    said = words(tmp_path)
    assert "Of 400 trials the best 300 are drawn." in said
    assert "Importance was not computed" in said


def test_equal_budget_is_said_and_an_unequal_one_too(page: Page, tmp_path: Path) -> None:
    assert "up to 30 trials on the proxy, then up to 4 on the target" in page.text
    write_sample(tmp_path)
    edit(tmp_path, lambda r: r["search"]["uniform"].update(budget=10))
    said = words(tmp_path)
    assert "The arms did not all have the same budget" in said
    assert "tuned with the same budget" not in said


def test_markup_in_a_studys_text_stays_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    write_sample(tmp_path, name=evil)

    def spread(results) -> None:
        results["search"]["rlrs"]["trials"][0]["move"] = evil
        results["search"]["rlrs"]["stopped"] = evil
        results["data"]["source"] = evil
        results["models"]["target"]["components"][0]["component"] = evil

    edit(tmp_path, spread)
    source = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script>alert" not in source
    assert "<img" not in source
    assert evil in Page(source).text


def test_the_lines_to_copy_run_as_they_stand(page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = page.by_id["snippet"].splitlines()
    assert lines[:4] == ["import torch", "", "import rlrs", ""]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"model": _moe()}
    exec("\n".join(lines[:-1]), names)
    scheduler = names["scheduler"]
    names["optimizer"].step()
    exec(lines[-1], names)
    rates = {g["name"].split("/")[0]: float(g["lr"]) for g in names["optimizer"].param_groups}
    # second step of ten warm-up steps: 2 / 10 of lr 0.008 times the start ratio
    assert scheduler.last_epoch == 1
    assert rates["embedding"] == pytest.approx(0.2 * 0.008 * 15)
    assert rates["experts"] == pytest.approx(0.2 * 0.008 * 0.2)


def _moe():
    from rlrs.models import Transformer
    from rlrs.settings import ModelConfig

    return Transformer(ModelConfig(d_model=16, n_layers=1, n_heads=2, n_experts=2), 300)


def test_missing_results_name_the_file_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"results\.json: there is none yet; finish the study first") as error:
        write_report(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged: Expecting value"),
        ("{", "damaged: Expecting property name"),
        ("\xff", "damaged: not UTF-8 at byte 0"),
        ("[" * 100_000, "damaged: more than 32 levels"),
        ('{"schema": 1, "a": ' + "[" * 40 + "]" * 40 + "}", "damaged: more than 32 levels"),
        ('{"schema": 1, "schema": 1}', "damaged: the key 'schema' twice"),
        ('{"schema": 1, "a": NaN}', "damaged: NaN is not a number of JSON"),
        ('{"schema": 1, "a": ' + "9" * 5000 + "}", "damaged: Exceeds the limit"),
        ("[]", "has schema None, this version of rlrs reads 1 and 2"),
        ('{"schema": 3}', "has schema 3, this version of rlrs reads 1 and 2"),
        ('{"schema": true}', "has schema True"),
        ('{"schema": "' + "x" * 100_000 + '"}', "has schema 'xxx"),
        ('{"schema": 1}', "damaged: study: Field required"),
        ('{"schema": 1, "study": {"name": "x"}}', r"damaged: study\.config: Field required"),
        ('{"schema": 2}', "damaged: study: Field required"),
    ],
)
def test_unusable_results_are_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "results.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ReportError, match=message) as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert str(tmp_path / "results.json") in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_a_run_without_metrics_is_named(tmp_path: Path) -> None:
    write_sample(tmp_path)
    (tmp_path / "runs" / "rlrs-102-600" / "metrics.jsonl").unlink()
    with pytest.raises(ReportError, match=r"rlrs-102-600.metrics\.jsonl: cannot be read .*arm rlrs, seed 102"):
        write_report(tmp_path)


def test_a_broken_line_of_metrics_is_named_by_number(tmp_path: Path) -> None:
    write_sample(tmp_path)
    path = tmp_path / "runs" / "rlrs-102-600" / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ReportError, match=r"metrics\.jsonl, line 11: not a line of metrics: .*remove the run's folder"):
        write_report(tmp_path)


def test_a_diverged_comparison_run_is_a_dash_and_a_limit(tmp_path: Path) -> None:
    write_sample(tmp_path)

    def diverge(results) -> None:
        run = next(r for r in results["comparison"]["runs"] if r["id"] == "uniform-103-1000")
        run.update(status="diverged", valid_loss=None, score=None)
        results["comparison"]["losses"]["uniform"] = {"mean": None, "per_seed": [3.395, 3.371, None]}

    edit(tmp_path, diverge)
    (tmp_path / "runs" / "uniform-103-1000" / "metrics.jsonl").write_text(
        '{"step": 100, "tokens": 204800, "valid_loss": NaN}\n'
    )
    assert "Diverged in the comparison: uniform rate seed 103." in words(tmp_path)
    found = re.search(r'data-plot="losses">(.*?)</script>', (tmp_path / "report.html").read_text(), re.DOTALL)
    assert found
    assert "NaN" not in found[1]  # no JSON that a browser reads


def test_when_an_arm_diverged_there_are_no_savings_and_the_page_still_stands(tmp_path: Path) -> None:
    write_sample(tmp_path, "no_transferable_gain")

    def diverge(results) -> None:
        results["comparison"].update(differences={}, speed_up={})
        results["comparison"]["losses"]["rlrs"] = {"mean": None, "per_seed": [None] * 3}
        for run in results["comparison"]["runs"]:
            if run["arm"] == "rlrs":
                run.update(status="diverged", valid_loss=None, score=None)

    edit(tmp_path, diverge)
    for path in (tmp_path / "runs").glob("rlrs-*/metrics.jsonl"):
        path.write_text('{"step": 1, "tokens": 2048, "loss": 7.0}\n')
    said = words(tmp_path)
    assert "fewer steps than" not in said
    assert "Diverged in the comparison: relative schedules seed 101" in said


def test_constant_arm_is_listed_with_the_search_that_it_shares(tmp_path: Path) -> None:
    write_sample(tmp_path)

    def add(results) -> None:
        for part in ("transfer", "base"):
            results[part]["constant"] = results[part]["rlrs"]
        results["ratios"]["constant"] = {"embedding": {"start": 15.0, "end": 15.0}}
        results["comparison"]["losses"]["constant"] = results["comparison"]["losses"]["uniform"]

    edit(tmp_path, add)
    said = words(tmp_path)
    assert "constant ratios 34 34 2" in said
    assert "embedding 15 → 15 shares the search of relative schedules" in said
    assert "The constant ratios are no fair control here" in said


def test_a_comparison_that_stopped_by_itself_says_why_and_after_how_many_seeds(tmp_path: Path) -> None:
    write_sample(tmp_path, schema=2)

    def stop(results) -> None:
        sentence = "Stopped after 3 paired seeds: every simpler arm is passed over."
        results["comparison"]["stopping"] = {"reason": "gain", "max_seeds": 9, "margin": 0.02, "sentence": sentence}
        results["comparison"]["decision"]["p_values"] = {"uniform": 0.0004, "embedding_only": 0.021}
        results["checksum"] = checksum(results)

    edit(tmp_path, stop)
    said = words(tmp_path)
    assert "each a whole run of every arm. Stopped after 3 paired seeds" in said
    assert "than one tuned learning rate (p = 0." in said or "from one tuned learning rate (p = 0." in said
    assert "intervals are confidence sequences, valid at every look" in said
    assert "no fair control" not in said


def test_a_search_that_ended_at_a_bound_is_a_limit(tmp_path: Path) -> None:
    path = write_sample(tmp_path, schema=2) / "results.json"
    results = read_results(path)
    search = results.arms["rlrs"].search
    assert search is not None
    at = AtBound(name="final_fraction", value=0.0014, bound="low", wider=0.00014)
    arm = results.arms["rlrs"].model_copy(update={"search": search.model_copy(update={"at_bounds": (at,)})})
    write_results(path, results.model_copy(update={"arms": {**results.arms, "rlrs": arm}}))
    said = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    note = "ended at a bound: final fraction=0.0014 (lowest). A better value may lie beyond; widen search.space to look"
    assert said.count(note) == 2  # among the risks of the arm that was decided for, and in the limits
    assert "final_fraction: {low: 0.00014}" in said
    japanese = Page(write_report(tmp_path, "ja").read_text(encoding="utf-8")).text
    assert "最終学習率の割合=0.0014" in japanese


def test_plot_page_shows_each_component_and_stands_alone(tmp_path: Path) -> None:
    ratios = Ratios.preset("paper-moe")
    path = write_ratios_page(ratios, tmp_path / "plot.html", schedule=BaseSchedule(total_steps=100), lr=3e-3)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.references == ["data:,"]
    assert page.source.count('<tr data-component="') == len(ratios) == 5
    assert "0.015" in page.text  # peak of the embedding: 5 times 3e-3


def test_plot_page_takes_schedule_and_rate_from_the_ratios_provenance(tmp_path: Path) -> None:
    provenance = {
        "study": "<b>demo</b>",
        "base": {"lr": 0.008, "final_fraction": 0.05, "warmup_fraction": 0.02, "schedule": "linear"},
        "horizon": {"steps": 400},
    }
    path = write_ratios_page(Ratios({"embedding": (5.0, 1.0)}, provenance), tmp_path / "plot.html")
    said = " ".join(Page(path.read_text(encoding="utf-8")).text.split())
    assert "<b>demo</b>" in said
    assert "s proxy: linear, 400 steps, 8 of them warm-up" in said
    assert "final fraction 0.05, base peak rate 0.008" in said
    assert "embedding 5x 1x 0.04 0.0004".replace("x", text.TIMES) in said


def test_plot_page_is_of_the_target_where_its_rate_is_known(tmp_path: Path) -> None:
    base, target = {"lr": 0.008, "final_fraction": 0.05}, {"lr": 0.004, "steps": 900}
    ratios = Ratios({"embedding": (5.0, 1.0)}, {"base": base, "horizon": {"steps": 400}, "target": target})

    def said(**options: Any) -> str:
        page = write_ratios_page(ratios, tmp_path / "plot.html", **options)
        return " ".join(Page(page.read_text(encoding="utf-8")).text.split())

    for options in ({}, {"model": "target"}):
        assert "s target: cosine, 900 steps, 9 of them warm-up, final fraction 0.05, base peak rate 0.004" in said(
            **options
        )
    assert "s proxy: cosine, 400 steps, 4 of them warm-up, final fraction 0.05, base peak rate 0.008" in said(
        model="proxy"
    )
    ratios = Ratios.preset("paper-moe")
    with pytest.raises(RecordError, match=r"^provenance: has nothing of the proxy; only a study's ratios.yaml has"):
        said(model="proxy")


def test_plot_page_without_ratios_speaks_of_none(tmp_path: Path) -> None:
    page = Page(write_ratios_page(Ratios({}), tmp_path / "plot.html").read_text(encoding="utf-8"))
    assert "There are no ratios: all components follow the base schedule." in page.text
    assert "its own ratio" not in page.text


def test_plotted_rates_follow_the_formula() -> None:
    schedule = BaseSchedule(total_steps=100, warmup_steps=10, final_fraction=0.1)
    panels = figures.schedule_panels(Ratios({"embedding": (5.0, 0.5)}), schedule, 0.01, EN)
    rate, relative = (t for panel in panels for t in panel.figure.data if t.name == "embedding")
    assert rate.x[0] == pytest.approx(1.0)  # percent: one of 100 steps done
    assert rate.y[0] == pytest.approx(0.01 * 5 / 10)  # first of ten warm-up steps
    assert rate.y[9] == pytest.approx(0.01 * 5)
    assert rate.y[55] == pytest.approx(0.01 * (5 + 0.1 * 0.5) / 2)  # middle of the cosine
    assert relative.y[0] == pytest.approx(5)
    assert relative.y[55] == pytest.approx((5 + 0.05) / (1 + 0.1))


def test_zero_ratios_leave_a_gap_on_the_log_axis() -> None:
    schedule = BaseSchedule(total_steps=10, final_fraction=0.1)
    panels = figures.schedule_panels(Ratios({"embedding": 0.0}), schedule, None, EN)
    drawn = [t for panel in panels for t in panel.figure.data if t.name == "embedding"]
    assert len(drawn) == 2
    assert all(y is None for t in drawn for y in t.y)


def test_light_colours_are_unique_so_that_each_has_one_dark_twin() -> None:
    looks = [*palette.COMPONENTS.values(), *palette.ARMS.values(), *palette.RANKS, palette.EARLY, palette.WRONG]
    looks += [palette.INK, palette.MUTED, palette.GRID]
    assert len({look.light for look in looks}) == len(looks)
    assert len(palette.dark_twins()) == len(looks)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.nats(3.49051), "3.491"),
        (text.nats(None), text.NONE),
        (text.difference(-0.01724), f"{text.MINUS}0.0172"),
        (text.percent(0.412, 0), "41%"),
        (text.percent(-0.0001, 1), "0.0%"),
        (text.share(0.0004), "<0.1%"),
        (text.compact(2_048_000), "2.05\N{NO-BREAK SPACE}M"),
        (text.compact(9_996_000), "10.0\N{NO-BREAK SPACE}M"),
        (text.compact(330_304), "330\N{NO-BREAK SPACE}k"),
        (text.rate(0.0056), "0.0056"),
        (text.rate(0.0000123), f"1.23e{text.MINUS}5"),
        (text.ratio(1.125), "1.125"),
        (EN.between(0.0963, 0.1458, 1), "9.6 to 14.6%"),
        (EN.between(0.5, 1.2, 0), "50 to 100%"),
        (JA.between(0.0963, 0.1458, 1), "9.6〜14.6%"),
        (EN.duration(341.2), "5 min 41 s"),
        (JA.duration(12_000), "3時間20分"),
        (EN.duration(0.42), "0.42 s"),
        (EN.money(1234.5, "EUR"), "1,234\N{NO-BREAK SPACE}EUR"),
        (EN.money(0.0023, "USD"), "< 0.01\N{NO-BREAK SPACE}USD"),
        (EN.n(1, "trial"), "1 trial"),
        (EN.component("experts/expert.2"), "experts/expert.2"),
        (JA.component("experts/expert.2"), "エキスパート/expert.2"),
        (text.digits_for(0.39, 0.44), 0),
        (text.digits_for(0.39, 0.42), 1),
    ],
)
def test_numbers_read_well(shown: object, expected: object) -> None:
    assert shown == expected


def places_of(source: str) -> list[tuple[str, str]]:
    """Places in results.json that a page names, with the text of the cell."""
    return re.findall(r'data-from="results\.json(?::\d+)? ([^"]+)"[^>]*>([^<]*)<', source)


def test_every_number_names_its_place_and_the_place_holds_that_number(tmp_path: Path) -> None:
    write_sample(tmp_path, schema=2)
    source = write_report(tmp_path).read_text(encoding="utf-8")
    results = json.loads((tmp_path / "results.json").read_text())
    found = places_of(source)
    assert len(found) > 100
    compared = 0
    for place, shown in found:
        value = look_up(results, place)
        losses = place.startswith(("comparison.losses", "comparison.differences"))
        if losses and isinstance(value, float) and not place.endswith(".low"):
            digits = 3 if ".losses." in place else 4
            assert float(shown.replace(text.MINUS, "-")) == pytest.approx(value, abs=0.6 * 10**-digits)
            compared += 1
    assert compared == 3 * 4 + 2 * 4
    rows = re.findall(
        rf"<td[^>]*>[{text.MINUS}+]?\d\.\d{{3,4}}</td>", source[source.index('id="loss"') : source.index('id="tuning"')]
    )
    assert all("data-from" in row for row in rows)


FIXED = {" ".join(str(EN.get(key)).split()) for key in ("unstable.note", "savings.text", "loss.saved.note")}
"""Explanations, whose numbers are no study's."""


class Unplaced(HTMLParser):
    """Texts with a digit that no element around them gives a place to; figures say theirs below."""

    VOID = ("br", "meta", "link", "input", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        names = {tag for tag, _ in self.open}
        said = " ".join(data.split())
        skipped = names & {"figure", "script", "style", "thead", "svg", "footer", "nav", "small", "dd"}
        if not re.search(r"\d", said) or "main" not in names or skipped:
            return
        if not any("data-from" in attributes for _, attributes in self.open):
            self.found.append(said)


@pytest.mark.parametrize("kind", WINNERS)
def test_no_number_of_the_page_is_without_a_place(tmp_path: Path, kind: Any) -> None:
    write_sample(tmp_path, kind, schema=2)
    source = write_report(tmp_path).read_text(encoding="utf-8")
    parser = Unplaced()
    parser.feed(source)
    assert [said for said in parser.found if said not in FIXED] == []
    answers = re.findall(r'<div data-fact="\w+">.*?</div>', source, re.DOTALL)
    assert len(answers) == 6
    assert all("data-from=" in answer for answer in answers)


def test_a_place_has_the_line_at_which_it_stands(tmp_path: Path) -> None:
    write_sample(tmp_path, schema=2)
    source = write_report(tmp_path).read_text(encoding="utf-8")
    lines = (tmp_path / "results.json").read_text().splitlines()
    for line, place in re.findall(r'data-from="results\.json:(\d+) ([^"]+)"', source):
        name = re.split(r"[.\[]", place)[-1].rstrip("]")
        assert place.endswith("]") or lines[int(line) - 1].lstrip().startswith(f'"{name}":'), place


def test_each_technical_word_is_explained_where_it_first_occurs(tmp_path: Path) -> None:
    said = words(write_sample(tmp_path, schema=2)).partition("What it cost, and what a run saves")[0]
    for term, sign in (
        ("nat", "nats"),
        ("seed", "paired seed"),
        ("arm", " arm"),
        ("proxy", "proxy"),
        ("target", "target"),
    ):
        explanation = f"{EN(f'term.{term}.word')} : {EN(f'term.{term}.means')}".replace(" : ", ": ")
        assert said.count(explanation) == 1
        assert 0 <= said.index(explanation) - said.index(sign) < 900


def test_the_page_says_when_it_pays_off_and_names_no_money_without_a_machine(tmp_path: Path) -> None:
    said = words(write_sample(tmp_path, schema=2))
    assert "A larger model pays off sooner" in said
    assert not re.search(r"USD|EUR|Money", said)


def test_with_a_described_machine_time_and_money_are_named(tmp_path: Path) -> None:
    def describe(results) -> None:
        results["study"]["config"]["machine"] = {
            "name": "8 x H100",
            "price_per_hour": 20.0,
            "currency": "EUR",
            "flops_per_second": 1e10,
        }
        results["checksum"] = checksum(results)

    edit(write_sample(tmp_path, schema=2), describe)
    said = words(tmp_path)
    assert re.search(r"On 8 x H100: \d+ (h|min) \d+ (min|s), [\d,.]+ EUR\.", said)
    assert "Time on 8 x H100 Money" in said


ASCII_RUN = re.compile(r"[A-Za-z]{3,}(?:[ ,]+[A-Za-z]{2,})+")
NAMES = re.compile(
    r"J\. Ludziejewski et al\.|Decoupled Relative Learning Rate Schedules|Example CPU|Student|Holm|fANOVA|"
    r"arXiv|results\.json[^<]*|runs/[^<]*"
)


@pytest.mark.parametrize("kind", WINNERS)
def test_the_japanese_page_has_no_english_but_names(tmp_path: Path, kind: Any) -> None:
    path = write_report(write_sample(tmp_path, kind, schema=2), "ja")
    assert path.name == "report.ja.html"
    source = path.read_text(encoding="utf-8")
    assert '<html lang="ja">' in source
    visible = re.sub(
        r"<(pre|code)\b.*?</\1>", " ", source[source.index("<main>") : source.index("</main>")], flags=re.S
    )
    drawn = re.findall(r'"(?:text|name|hovertext|hovertemplate)":\s?"([^"]*)"', visible)
    alts = re.findall(r'aria-label="([^"]*)"', visible)
    page = Page(source[: source.index("<main>")] + visible + "</main></body></html>")
    for said in (page.text, *drawn, *alts):
        assert ASCII_RUN.findall(NAMES.sub("", said)) == []


def test_both_languages_say_the_same_numbers(tmp_path: Path) -> None:
    write_sample(tmp_path, schema=2)
    english, japanese = (write_report(tmp_path, language).read_text(encoding="utf-8") for language in ("en", "ja"))
    place = "comparison.speed_up.embedding_only.mean"
    assert all(next(shown for at, shown in places_of(page) if at == place) == "12%" for page in (english, japanese))
    assert [place for place, _ in places_of(english)] == [place for place, _ in places_of(japanese)]
    cells = [
        re.findall(rf"<td[^>]*>([{text.MINUS}{text.TIMES}+\d.,%]+)</td>", source) for source in (english, japanese)
    ]
    assert cells[0] == cells[1]


def test_three_sentences_for_a_meeting(tmp_path: Path) -> None:
    source = write_report(write_sample(tmp_path, schema=2)).read_text(encoding="utf-8")
    meeting = source[source.index('id="meeting"') : source.index("</blockquote>")]
    sentences = re.findall(r"<p[^>]*>(.*?)</p>", meeting, re.S)
    assert len(sentences) == 3
    assert "12% fewer steps" in sentences[0]
    assert "runs of the target" in sentences[1]
    assert "a model of a size between" in sentences[2]
