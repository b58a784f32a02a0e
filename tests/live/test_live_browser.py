"""The live page in a real browser, beside a run that goes on and a study that really trains."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlrs.live import Watcher
from rlrs.live.page_server import LiveServer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no chromium executable on the path"), pytest.mark.long]
STUDY = """
name: tiny
data: {vocab_size: 300, sequence_length: 16, max_bytes: 100000}
training: {score_steps: 5, eval_tokens: 512, checkpoint_every: 20, log_every: 2, evaluations: 3}
proxy: {model: {d_model: 16, n_layers: 1, n_heads: 2, n_experts: 2}, steps: 20, batch_size: 4}
target: {model: {d_model: 32, n_layers: 2, n_heads: 2, n_experts: 4}, steps: 30, batch_size: 4}
search: {trials: 3, multipliers: [0.5, 2], lr: 8e-3}
transfer: {trials: 2}
comparison: {arms: [uniform, rlrs], seeds: 2, horizons: [0.5]}
processes: 1
"""
PATIENCE = 180_000


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: sync_api.Browser):
    """Opens the page of some paths; at the end the console is empty and nobody else was asked for anything."""
    closing = []

    def open_(paths, width=1280, scheme="light", language="en") -> sync_api.Page:
        server = LiveServer(Watcher(paths, language), 0)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda ask: None if ask.url.startswith((server.url, "data:")) else problems.append(ask.url))
        closing.append((context, server, problems))
        page.goto(server.url)
        return page

    yield open_
    for context, server, problems in closing:
        context.close()
        server.shutdown()
        server.server_close()
        assert problems == []


def line(step: int) -> str:
    loss = 3.0 + 3.0 * 0.99**step + (2.0 if step >= 300 else 0.0)
    high = 0.2 if step >= 300 else 0.001
    components = {
        name: {"lr": 1e-3, "ratio": 1.0, "grad_norm": 0.1, "update_ratio": high if name == "router" else 0.001}
        for name in ("embedding", "router")
    }
    return json.dumps({"step": step, "tokens": step, "loss": loss, "lr_base": 1e-3, "components": components}) + "\n"


@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1280)])
def test_a_run_goes_on_under_the_eyes_and_its_alarm_is_in_place(
    opened, tmp_path: Path, scheme: str, width: int
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    (tmp_path / "run.json").write_text('{"steps": 1000}')
    metrics.write_text("".join(map(line, range(1, 290, 2))))
    page = opened([tmp_path], width, scheme)
    page.wait_for_selector("#plot-loss .scatterlayer .js-line")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".alarm").count() == 0
    with metrics.open("a") as file:
        file.write("".join(map(line, range(291, 320, 2))) + '{"step": 32')
    page.wait_for_selector(".alarm")
    said = page.inner_text("#alarms")
    assert "router moves at 200 times its usual update" in said
    assert "What to do" in said
    assert page.locator("#plot-loss .scatterlayer .points path").count() == page.locator(".alarm").count()
    assert page.locator("#plot-update_ratio .scatterlayer .points path").count() == 1  # the router's own
    kind = "document.getElementById('plot-loss')._fullLayout.yaxis.type"
    button = page.locator("[data-log='loss.y']")
    button.press("Enter")  # by keyboard
    page.wait_for_function(f"{kind} === 'log'")
    assert button.get_attribute("aria-pressed") == "true"
    ground = "getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}
    assert page.evaluate(ground) == colours[scheme]
    for _ in range(2 if scheme == "light" else 1):  # system, light, dark
        page.press("#theme", "Enter")
    assert page.evaluate(ground) == colours["dark" if scheme == "light" else "light"]


def test_a_study_that_really_trains_is_followed_to_its_verdict(opened, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    folder = tmp_path / "run"
    page = opened([folder], 400, "light", "ja")
    page.wait_for_selector("h2")
    assert "待機中" in page.inner_text("#main")
    command = [sys.executable, "-m", "rlrs.cli", "run", str(tmp_path / "study.yaml"), "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as study:
        try:
            seen = set()
            page.wait_for_selector("#plot-scores .scatterlayer .points path")
            while study.poll() is None:
                seen.add(page.locator(".head .state").get_attribute("class"))
                time.sleep(0.2)
            assert study.returncode == 0, study.stderr.read()
        finally:
            study.kill()
    assert "state running" in seen
    assert seen <= {"state running", "state finished"}  # its process ends a moment later
    page.wait_for_selector(".verdict")
    page.wait_for_selector(".head .state.finished")
    assert "report.html" in page.inner_text("#top")
    link = page.locator("#bottom a").first
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#plot-loss .scatterlayer .js-line")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.click(".back")
    page.wait_for_selector("#plot-scores")


def test_it_can_be_gone_through_by_keyboard_and_a_run_that_vanishes_is_said(opened, tmp_path: Path) -> None:
    odd = 'b <img src="x" onerror="console.log(1)">'
    for name in ("a", odd):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(line(1) + "nonsense\n" + line(2))
    page = opened([tmp_path], 1280, "dark")
    page.wait_for_selector(".problem")
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim().split(/\\s/)[0]")
        )
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert reached[:4] == ["skip", "theme", "a", "b"]
    page.locator("#list a").nth(1).press("Enter")
    page.wait_for_function("name => document.querySelector('h2').textContent === name", arg=odd)
    shutil.rmtree(tmp_path / odd)
    page.wait_for_function("document.querySelector('#main').textContent.includes('There is no such run')")
    assert page.locator("#list a").count() == 1
