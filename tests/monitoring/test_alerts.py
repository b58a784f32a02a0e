"""Alerts: each place gets the alarm, and none of them stops a training."""

import http.server
import json
import logging
import math
import shutil
import subprocess
import threading
import time

import pytest
import torch
from loops import make, one_step

from ports import free_port
from rlrs.audit import Trail
from rlrs.integrations.loggers import CSV
from rlrs.monitoring import (
    Alarm,
    AlertLog,
    AuditAlerts,
    ComponentNumbers,
    JSONLinesAlerts,
    Monitor,
    Observation,
    PrometheusFile,
    TrackerAlerts,
    Webhook,
)

ALARM = Alarm(
    check="loss_spike", component="router", step=40, value=9.5, threshold=6.0, cause="its rate", remedy="lower it"
)
SEEN = Observation(step=40, loss=2.5, components={"router": ComponentNumbers(lr=1e-3, ratio=0.5)})


@pytest.fixture
def server():
    """A web server that keeps what is posted to it."""
    posted, wait = [], threading.Event()
    wait.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            wait.wait(5)
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/secret", posted, wait
        wait.set()
        httpd.shutdown()
        thread.join()


def test_the_log_has_one_line_with_value_cause_and_remedy(caplog):
    with caplog.at_level(logging.WARNING, "rlrs.monitoring"):
        AlertLog().tell(SEEN, [ALARM])
    assert caplog.messages == ["loss_spike in router at step 40: 9.5, threshold 6; its rate. Do: lower it"]


def test_json_lines_are_appended_and_read_back(tmp_path):
    alerts = JSONLinesAlerts(tmp_path / "alarms.jsonl")
    overflow = ALARM.model_copy(update={"value": math.inf})
    alerts.tell(SEEN, [ALARM])
    alerts.tell(SEEN, [overflow])
    lines = alerts.path.read_text().splitlines()
    assert [Alarm.model_validate_json(line) for line in lines] == [ALARM, overflow]
    assert json.loads(lines[0])["component"] == "router"


def test_a_webhook_posts_text_and_fields(server):
    url, posted, _ = server
    hook = Webhook(url, run="demo")
    hook.tell(SEEN, [ALARM])
    hook.close()
    assert posted[0]["text"] == f"demo: {ALARM.message}"
    assert (posted[0]["check"], posted[0]["step"]) == ("loss_spike", 40)


def test_a_webhook_that_hangs_never_holds_up_the_training(server, caplog):
    url, _, wait = server
    wait.clear()
    hook = Webhook(url, timeout=0.2, waiting=2)
    begun = time.perf_counter()
    for _ in range(20):
        hook.tell(SEEN, [ALARM])
    assert time.perf_counter() - begun < 0.1
    with caplog.at_level(logging.WARNING, "rlrs.monitoring"):
        hook.close()
    assert time.perf_counter() - begun < 2
    assert any("not all alarms were sent" in message for message in caplog.messages)
    assert not any("secret" in message for message in caplog.messages)


def test_a_webhook_to_nowhere_is_a_line_in_the_log(caplog):
    hook = Webhook(f"http://127.0.0.1:{free_port()}/secret", timeout=2.0)
    with caplog.at_level(logging.WARNING, "rlrs.monitoring"):
        hook.tell(SEEN, [ALARM])
        hook.close()
    assert "webhook at 127.0.0.1: URLError" in caplog.messages


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "http://", "hooks.slack.com/x"])
def test_a_webhook_takes_web_addresses_alone(url):
    with pytest.raises(ValueError, match="http:// or https://"):
        Webhook(url)


def test_a_tracker_gets_numbers_and_alarms(tmp_path):
    logged = []

    class Logger:
        def log(self, values, step):
            logged.append((values, step))

    TrackerAlerts(Logger()).tell(SEEN, [ALARM])
    assert logged == [
        ({"monitor/loss": 2.5, "monitor/lr/router": 1e-3, "monitor/ratio/router": 0.5}, 40),
        ({"alarm/loss_spike/router": 9.5}, 40),
    ]


def test_an_alert_that_fails_says_so_once_and_goes_no_further(tmp_path, caplog):
    alerts = TrackerAlerts(CSV(tmp_path / "missing" / "a.csv"))
    with caplog.at_level(logging.WARNING, "rlrs.monitoring"):
        alerts.tell(SEEN, [ALARM])
        alerts.tell(SEEN, [ALARM])
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("alerts to TrackerAlerts fail: FileNotFoundError")


def test_prometheus_has_gauges_and_counts(tmp_path):
    alerts = PrometheusFile(tmp_path / "rlrs.prom", run='a"b')
    alerts.tell(SEEN, [ALARM])
    alerts.tell(Observation(step=50, loss=math.nan), [ALARM])
    lines = alerts.path.read_text().splitlines()
    assert 'rlrs_step{run="a\\"b"} 50' in lines
    assert 'rlrs_loss{run="a\\"b"} NaN' in lines
    assert 'rlrs_alarms_total{run="a\\"b",check="loss_spike",component="router"} 2' in lines
    assert [path.name for path in tmp_path.iterdir()] == ["rlrs.prom"]
    alerts.tell(SEEN, [])
    assert 'rlrs_component_lr{run="a\\"b",component="router"} 0.001' in alerts.path.read_text().splitlines()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong_with_the_file_of_a_monitored_run(tmp_path):
    model, optimizer, scheduler = make(lr=3.0)
    alerts = PrometheusFile(tmp_path / "rlrs.prom", run="a")
    with Monitor(optimizer, scheduler, every=2, clip=1.0, alerts=[alerts]) as monitor:
        for step in range(20):
            loss, norm = one_step(model, optimizer, scheduler, step, clip=1.0)
            routers = {"router_loads": [0.5, 0.5], "router_entropy": torch.tensor(1.3)}
            monitor.observe(step + 1, loss, grad_norm=norm, tokens=step, **routers)
        monitor.evaluated(20, 2.5)
    text = alerts.path.read_text()
    assert "rlrs_alarms_total{" in text
    for name in ("rlrs_step", "rlrs_component_update_ratio", "rlrs_valid_loss"):
        assert f"# TYPE {name} gauge" in text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_file_that_the_collector_would_not_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"end in \.prom"):
        PrometheusFile(tmp_path / "rlrs.txt")


def test_the_audit_trail_has_alarms_and_what_was_done(tmp_path):
    AuditAlerts(tmp_path).tell(SEEN, [ALARM, ALARM.model_copy(update={"action": "stopped", "value": math.nan})])
    entries = list(Trail(tmp_path))
    assert [entry.kind for entry in entries] == ["alarm", "alarm", "decision"]
    assert entries[0].facts["check"] == "loss_spike"
    assert entries[0].facts["component"] == "router"
    assert entries[2].facts["decision"] == "stopped"
    assert Trail(tmp_path).verify().intact
