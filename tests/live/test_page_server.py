"""The server of the live page: token, host, entity tags; and what `rlrs watch` says on a terminal."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading

import pytest

from rlrs.cli import main
from rlrs.live import Watcher
from rlrs.live.page_server import LiveServer


@pytest.fixture
def served(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "tokens": 1, "loss": 5.0}\n')
    with LiveServer(Watcher([tmp_path], "ja"), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(server, path, host=None, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


def test_the_page_and_its_files_are_whole_and_name_no_other_place(served):
    for name in ("", "live.js", "live.css", "plotly.js", "overview.json"):
        answer, data = asked(served, f"/{served.token}/{name}")
        assert (answer.status, int(answer.headers["Content-Length"])) == (200, len(data))
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert name == "plotly.js" or b"http" not in data.replace(b"http-equiv", b"")
    assert '<html lang="ja">' in asked(served, f"/{served.token}/")[1].decode()


def test_without_its_last_slash_the_page_is_found_too(served):
    answer, _ = asked(served, f"/{served.token}")
    assert (answer.status, answer.headers["Location"]) == (308, f"/{served.token}/")


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", "/overview.json", "/wrong/", "/wrong/overview.json", "//", "/TOKEN"]
)
def test_without_the_token_everything_is_forbidden(served, path):
    answer, data = asked(served, path.replace("TOKEN", served.token[:-1]))
    assert answer.status == 403
    assert served.token.encode() not in data


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil:PORT"]
)
def test_a_name_that_was_made_to_point_here_is_forbidden_with_the_token_too(served, host):
    answer, _ = asked(served, f"/{served.token}/", host.replace("PORT", str(served.server_port)))
    assert answer.status == 403


@pytest.mark.parametrize("path", ["x", "../../etc/passwd", "live.js/x", "%2e%2e/x", "detail"])
def test_there_are_no_other_files(served, path):
    assert asked(served, f"/{served.token}/{path}")[0].status == 404


def test_what_has_not_changed_is_not_sent_again(served):
    place = f"/{served.token}/overview.json"
    first, data = asked(served, place, f"localhost:{served.server_port}")
    (item,) = json.loads(data)["items"]
    assert item["loss"] == 5.0
    again, nothing = asked(served, place, If_None_Match=first.headers["ETag"])
    assert (again.status, nothing) == (304, b"")
    detail = json.loads(asked(served, f"/{served.token}/detail.json?item={item['id']}")[1])
    assert detail["kind"] == "run"
    assert json.loads(asked(served, f"/{served.token}/detail.json?item=none")[1]) == {"kind": "gone"}
    assert asked(served, place, method="HEAD")[1] == b""
    assert asked(served, place, method="POST")[0].status == 501


def test_tokens_are_new_and_long(tmp_path):
    tokens = set()
    for _ in range(3):
        with LiveServer(Watcher([tmp_path]), 0) as server:
            tokens.add(server.token)
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 32


def test_a_taken_port_is_one_line(tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["rlrs", "watch", str(tmp_path), "--port", port, "--no-browser"])
        with pytest.raises(SystemExit) as stop:
            main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.strip().count("\n") == 0
    assert f"port {port} cannot be had" in said


@pytest.mark.parametrize("given", ["nonsense", "oops://ann:opensesame@host/trials"])
def test_a_storage_that_is_no_url_is_one_line(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rlrs", "watch", str(tmp_path), "--port", "0", "--storage", given])
    monkeypatch.setattr("rlrs.live.serve_live", lambda *_: pytest.fail("served"))
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.strip().count("\n") == 0
    assert said.startswith("error: storage: ")
    assert "opensesame" not in said


def test_ctrl_c_ends_it_with_one_line(tmp_path):
    command = [sys.executable, "-m", "rlrs.cli", "watch", str(tmp_path), "--port", "0", "--no-browser"]
    old = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, old)
    with process:
        try:
            assert process.stdout.readline().startswith("watch http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "watch ended\n", "")
