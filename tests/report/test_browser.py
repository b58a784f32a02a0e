"""The page in a real browser, narrow, in both themes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample import write_committed, write_sample

from rlrs.report import write_report

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


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_sample(tmp_path_factory.mktemp("study"), schema=2))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_page_fits_draws_and_asks_the_network_for_nothing(
    browser: sync_api.Browser, report: Path, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
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
    assert requests == [report.as_uri()]
    assert problems == []
    page.close()


def test_copy_button_takes_the_lines(browser: sync_api.Browser, report: Path) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(report.as_uri())
    page.click("button[data-copy=snippet]")
    page.wait_for_function("document.querySelector('button[data-copy=snippet]').textContent !== 'Copy'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("import torch\n\nimport rlrs\n\nratios = rlrs.Ratios.load(")
    assert copied == page.inner_text("#snippet")
    context.close()


@pytest.mark.parametrize("name", ["demo", "demo_smaller_budget"])
def test_every_figure_of_committed_results_draws_without_a_complaint(
    browser: sync_api.Browser, tmp_path: Path, name: str
) -> None:
    results = Path(__file__).parents[2] / "experiments" / "demo" / f"{name}.json"
    report = write_report(write_committed(results, tmp_path / name))
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(report.as_uri())
    plots = page.locator(".plot").count()
    assert plots > 10
    page.wait_for_function("document.querySelectorAll('.plot.js-plotly-plot').length === " + str(plots))
    drawn = page.evaluate(
        "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.trace path, .point path')).length"
    )
    assert drawn == plots
    assert problems == []
    page.close()
