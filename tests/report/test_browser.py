"""The page in a real browser: both languages, narrow and wide, light and dark, every button pressed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from sample import Scenario, write_committed, write_sample, write_scenario
from sample_further import write_sample_ablations, write_sample_certificate

from rlrs.ratios import Ratios
from rlrs.records import AblationKind
from rlrs.report import write_ablations_page, write_across, write_certificate_page, write_ratios_page, write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium executable on the path")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 180_000
"""Milliseconds: a machine that does much else at once draws slowly."""
DRAWN = "document.querySelectorAll('.plot.js-plotly-plot').length === document.querySelectorAll('.plot').length"


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: sync_api.Browser):
    """Opens a page and, at the end, sees that the console stayed empty and the network was not asked for anything."""
    contexts = []

    def open_(path: Path, width: int = 1280, scheme: str = "light") -> sync_api.Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            accept_downloads=True,
            bypass_csp=True,  # Playwright waits by eval; another test opens the page as it stands
            permissions=["clipboard-read", "clipboard-write"],
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: None if ":" in request.url[:6] else problems.append(request.url))
        contexts.append((context, problems))
        page.goto(path.as_uri())
        page.wait_for_function(DRAWN)
        return page

    yield open_
    for context, problems in contexts:
        context.close()
        assert problems == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_sample(tmp_path_factory.mktemp("study"), schema=2))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_page_fits_draws_and_asks_the_network_for_nothing(
    browser: sync_api.Browser, report: Path, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("#u-2 .points path")  # the last figure
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.locator(".plot .main-svg .scatterlayer").count() == 6 + 1 + 3  # bars are no scatter
    line = page.locator("#relative-rates .scatterlayer .js-line").nth(1)  # after the base rate: the embedding
    expected = {"light": "rgb(43, 128, 220)", "dark": "rgb(111, 141, 255)"}
    assert line.evaluate("line => getComputedStyle(line).stroke") == expected[scheme]
    other = "dark" if scheme == "light" else "light"
    page.emulate_media(color_scheme=other)
    page.wait_for_function(
        "([colour]) => getComputedStyle(document.querySelectorAll("
        "'#relative-rates .scatterlayer .js-line')[1]).stroke === colour",
        arg=[expected[other]],
    )
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert problems == []
    page.close()


@pytest.mark.long
@pytest.mark.parametrize("scenario", get_args(Scenario))
def test_every_kind_of_study_has_a_page_in_both_languages_at_every_width(opened, tmp_path: Path, scenario) -> None:
    folder = write_scenario(tmp_path, scenario)
    for language, width, scheme in (("en", 1920, "dark"), ("ja", 400, "light")):
        page = opened(write_report(folder, language), width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("document.documentElement.lang") == language
        box = page.locator("[data-fact=next]").bounding_box()
        assert box["y"] < (900 if width > 1000 else 2400)  # all six answers are near the top


@pytest.mark.long
@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_button_does_what_it_says(opened, report: Path, language: str) -> None:
    page = opened(write_report(report.parent, language), 1280, "dark")
    for figure in page.locator("figure").all():
        plot = figure.locator(".plot")
        name = plot.get_attribute("id")
        for button in figure.locator("[data-log]").all():
            axis = button.get_attribute("data-log")
            kind = f"document.getElementById('{name}')._fullLayout.{axis}axis.type"
            before = page.evaluate(kind)
            for expected in ({"linear": "log", "log": "linear"}[before], before):
                button.press("Enter")  # by keyboard
                page.wait_for_function(f"{kind} === '{expected}'")
            assert button.get_attribute("aria-pressed") == "false"
        table = figure.locator("[data-table]")
        table.press("Enter")
        assert not plot.is_visible()
        rows = figure.locator(".table-of tbody tr")
        points = page.evaluate(
            f"JSON.parse(document.querySelector('[data-plot={name}]').textContent).data.reduce("
            "(n, t) => n + t.y.filter((y, i) => y !== null && t.x[i] !== null).length, 0)"
        )
        assert rows.count() == points > 0
        assert all("results.json" in cell or "metrics.jsonl" in cell or cell == "" for cell in
                   figure.locator(".table-of tbody td:last-child").all_inner_texts())  # fmt: skip
        table.press("Enter")
        assert plot.is_visible()
    sources = page.locator("#sources")
    sources.press("Enter")
    assert page.locator("figure .from").first.is_visible()
    sources.press("Enter")
    assert not page.locator("figure .from").first.is_visible()
    page.click("button[data-copy=meeting]")
    page.wait_for_function(f"document.querySelector('[data-copy=meeting]').textContent === '{COPIED[language]}'")
    assert page.evaluate("navigator.clipboard.readText()").count("\n\n") == 2


COPIED = {"en": "Copied", "ja": "コピーしました"}


@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_figure_can_be_kept_as_a_picture(opened, report: Path, form: str, tmp_path: Path) -> None:
    page = opened(report)
    with page.expect_download() as waiting:
        page.locator("figure").nth(2).locator(f"[data-save={form}]").click()
    assert waiting.value.suggested_filename == f"losses.{form}"
    waiting.value.save_as(tmp_path / "picture")
    data = (tmp_path / "picture").read_bytes()
    assert data.startswith(b"\x89PNG") if form == "png" else b"relative schedules" in data


def test_the_page_can_be_gone_through_by_keyboard(opened, report: Path) -> None:
    page = opened(report)
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href')"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert reached[0] == "#savings"  # to skip the head
    assert "sources" in reached
    assert "#provenance" in reached


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
  };
  const bad = [];
  for (const element of document.querySelectorAll("main *:not(svg *)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${element.textContent.slice(0, 40)}`);
  }
  return bad;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_wcag_aa(opened, report: Path, scheme: str) -> None:
    assert opened(report, 1280, scheme).evaluate(CONTRAST) == []


def test_printed_it_has_no_buttons_and_fits(opened, report: Path) -> None:
    page = opened(report, 1280, "dark")
    page.emulate_media(media="print")
    assert page.locator("button:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(format="A4")) > 10_000


def test_copy_button_takes_the_lines(opened, report: Path) -> None:
    page = opened(report)
    page.click("button[data-copy=snippet]")
    page.wait_for_function("document.querySelector('button[data-copy=snippet]').textContent !== 'Copy'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("import torch\n\nimport rlrs\n\nratios = rlrs.Ratios.load(")
    assert copied == page.inner_text("#snippet")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_across_studies_and_the_page_of_ratios(opened, tmp_path: Path, language) -> None:
    folders = [write_scenario(tmp_path / name, name) for name in ("gain", "no_gain", "embedding")]
    page = opened(write_across(folders, tmp_path / "studies.html", language), 400)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.locator("[data-table]").press("Enter")
    assert page.locator(".table-of tbody tr").count() > 8
    page = opened(write_ratios_page(Ratios.preset("paper-moe"), tmp_path / "ratios.html", language=language), 400)
    assert page.evaluate("document.documentElement.scrollWidth") == 400


@pytest.mark.long
@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_of_ablations_draws_every_kind_and_every_button_works(opened, tmp_path: Path, language) -> None:
    page = opened(write_ablations_page(write_sample_ablations(tmp_path), language), 400)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    kinds = page.locator("section[data-kind]").evaluate_all("all => all.map(one => one.dataset.kind)")
    assert kinds == list(get_args(AblationKind))
    for figure in page.locator("figure").all():
        for button in figure.locator("[data-log], [data-table]").all():
            button.press("Enter")
            button.press("Enter")
            assert button.get_attribute("aria-pressed") == "false"
    for details in page.locator("details").all():
        details.locator("summary").press("Enter")
        assert details.locator("tbody tr").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 400


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_of_a_certificate_fits_and_says_what_is_not_shown(opened, tmp_path: Path, language) -> None:
    page = opened(write_certificate_page(write_sample_certificate(tmp_path), language), 400)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    said = page.inner_text("main")
    assert said.count({"en": "(not shown)", "ja": "示せない\N{FULLWIDTH RIGHT PARENTHESIS}"}[language]) == 2
    if language == "ja":
        assert not re.search(r"[a-z]+ [a-z]+ [a-z]+", re.sub(r"transfer\.mode: \w+", "", said))


@pytest.mark.parametrize("name", ["demo", "demo_smaller_budget"])
def test_every_figure_of_committed_results_draws_without_a_complaint(opened, tmp_path: Path, name: str) -> None:
    results = Path(__file__).parents[2] / "experiments" / "demo" / f"{name}.json"
    page = opened(write_report(write_committed(results, tmp_path / name)))
    plots = page.locator(".plot").count()
    assert plots > 10
    drawn = page.evaluate(
        "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.trace path, .point path')).length"
    )
    assert drawn == plots
    assert not re.search(r"undefined|NaN", page.inner_text("main"))
