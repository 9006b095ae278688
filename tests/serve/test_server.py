"""The server around it: slow clients, its end, its port, its check of itself, and the command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cotune.cli import main
from cotune.cli.serve import _named
from cotune.errors import ConfigError, CotuneError
from cotune.export.export_run import export_run
from cotune.predict import Predictor
from cotune.run import Run, save_run
from cotune.serve import server
from cotune.serve.app import Serving
from cotune.serve.limits import Limits
from cotune.serve.logs import JsonLines, describe
from cotune.serve.model import ServedModel
from explained import random_run
from network_guard import NetworkGuard
from served import running, served_model
from tiny import Zoo, make_posts

TEXT = {"posts": [{"fields": {"text": "a good day"}}]}


@pytest.fixture(scope="module")
def run(zoo: Zoo) -> Run:
    return random_run(zoo)


class Slow(Predictor):
    """Takes its time, or raises, when a text asks for it."""

    wait = 0.0
    fails = False

    def scores(self, posts):  # type: ignore[no-untyped-def]
        time.sleep(self.wait)
        if self.fails or any("poison" in str(text) for text in posts["text"]):
            raise RuntimeError("poison")
        return super().scores(posts)


def slow_model(run: Run, told: list[Exception] | None = None, **limits: int) -> ServedModel:
    tell: Callable[[Exception], None] = (told if told is not None else []).append
    return ServedModel("slow", Slow(run, device="cpu"), Limits(**limits), tell=tell)


def raw(port: int, sent: bytes, seconds: float = 5) -> bytes:
    """Send bytes and return what comes back until the other side closes, or for some seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(sent)
        found = b""
        try:
            while chunk := connection.recv(65536):
                found += chunk
        except TimeoutError:
            found += b"(still open)"
    return found


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_slow_clients_are_let_go_and_others_are_answered(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.3)
    limits = Limits(body_seconds=0.3)
    with running([served_model(run, limits=limits)], Serving(limits=limits)) as served, served.client() as client:
        answers: dict[str, bytes] = {}
        sent = {
            "nothing": b"",
            "half of the headers": HEAD,
            "half of the body": HEAD + b"Content-Length: 100\r\n\r\n{",
            "half of a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        }
        threads = [
            threading.Thread(target=lambda name=name, part=part: answers.update({name: raw(served.port, part)}))
            for name, part in sent.items()
        ]
        for thread in threads:
            thread.start()
        assert client.post("/v1/predict", json=TEXT).status_code == 200
        for thread in threads:
            thread.join()
        assert answers["nothing"] == answers["half of the headers"] == b""
        for name in ("half of the body", "half of a chunk"):
            assert answers[name].startswith(b"HTTP/1.1 408 "), name
            assert b"too_slow" in answers[name]
            assert b"still open" not in answers[name]


def test_what_is_no_http(run: Run) -> None:
    with running([served_model(run)]) as served:
        found = raw(served.port, b"\x16\x03\x01 what\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 400 ")
        assert b"invalid_http" in found
        assert b"default-src 'none'" in found
        for sent in (
            HEAD + b"Content-Length: -5\r\n\r\n",
            HEAD + b"Content-Length: 9" + b"9" * 30 + b"\r\n\r\n",
            HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            b"GET /" + b"a" * 100_000,
        ):
            assert raw(served.port, sent).startswith(b"HTTP/1.1 4")
        with served.client() as client:
            assert client.get("/readyz").status_code == 200


def test_a_full_queue_and_too_many_bytes_are_refused_for_a_time(run: Run) -> None:
    model = slow_model(run)
    model.scorer.wait = 0.3  # type: ignore[attr-defined]
    limits = Limits(batch=2, queue=3)
    with running([model], Serving(limits=limits, most=1)) as served:
        statuses: list[tuple[int, str | None]] = []

        def ask() -> None:
            with served.client() as client:
                answer = client.post("/v1/predict", json=TEXT)
                statuses.append((answer.status_code, answer.headers.get("retry-after")))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {status for status, _ in statuses} == {200, 429}
        assert all(int(after or 0) >= 1 for status, after in statuses if status == 429)


def test_a_post_that_raises_spoils_no_other_and_is_no_500(run: Run) -> None:
    told: list[Exception] = []
    model = slow_model(run, told)
    with running([model]) as served, served.client() as client:
        posts = [{"fields": {"text": text}} for text in ("a", "poison", "b")]
        answer = client.post("/v1/predict", json={"posts": posts})
        assert [found["error"] for found in answer.json()["predictions"]] == [None, "the post cannot be scored", None]
        assert len(told) == 1
        assert "poison" not in json.dumps(describe(told[0]))


def test_what_was_accepted_is_answered_before_the_end(run: Run) -> None:
    model = slow_model(run)
    model.scorer.wait = 1.0  # type: ignore[attr-defined]
    found: list[int] = []
    with running([model]) as served:

        def ask() -> None:
            with served.client() as client:
                found.append(client.post("/v1/predict", json=TEXT).status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(served.server.server_state.tasks) < 4:
            time.sleep(0.01)
        served.server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.2)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", served.port), timeout=1)
        for thread in threads:
            thread.join()
    assert found == [200] * 4
    assert any('"signal": "SIGTERM"' in line for line in served.lines)


def test_the_text_of_an_exception_is_not_logged() -> None:
    import logging

    try:
        raise ValueError("of a post")
    except ValueError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, __file__, 1, "failed", None, sys.exc_info())
    line = json.loads(JsonLines().format(record))
    assert line["error"] == "ValueError"
    assert "test_server.py" in line["at"][0]
    assert "of a post" not in json.dumps(line)


# ---- the command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    save_run(folder, run)
    return folder


def test_check_starts_asks_and_ends(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTUNE_API_KEYS", "a-key-of-twenty-chars, and-another-of-this-kind")
    assert main(["serve", f"first={saved}", f"second={saved}", "--check"]) == 0
    assert "ok: first, second" in capsys.readouterr().out


def test_what_is_wrong_is_one_line(
    network: NetworkGuard,
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network.expected = True  # an address that is none of this machine is looked up
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            ([str(saved), "--port", port], f"port {port} of 127.0.0.1 is taken; choose another with --port"),
            ([str(tmp_path / "no"), "--check"], "no run folder"),
            ([str(tmp_path), "--check"], "no finished run"),
            ([str(saved), f"run={saved}", "--check"], "two runs are called 'run'"),
            ([str(saved), "--host", "203.0.113.7"], "no address of this machine"),
            ([str(saved), "--max-batch", "300", "--check"], "raise --max-queue or lower --max-batch"),
        ]
        for arguments, words in cases:
            assert main(["serve", *arguments]) == 2
            err = capsys.readouterr().err
            assert words in err
            assert "Traceback" not in err
    monkeypatch.setenv("COTUNE_API_KEYS", "short")
    assert main(["serve", str(saved), "--check"]) == 2
    assert "fewer than 16 characters" in capsys.readouterr().err


def test_names_of_runs(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert _named([str(tmp_path / "a=b"), f"x={tmp_path}"]) == {"a-b": tmp_path / "a=b", "x": tmp_path}
    with pytest.raises(ConfigError, match="other characters"):
        _named([f"a b={tmp_path}"])


def test_a_model_that_gives_no_prediction_is_not_served(run: Run) -> None:
    model = slow_model(run)
    model.scorer.fails = True  # type: ignore[attr-defined]
    with pytest.raises(CotuneError, match="the model slow gives no prediction"):
        model.warm_up()
    with pytest.raises(CotuneError, match="the model slow gives no prediction"):
        server.check([model], Serving())


def test_an_export_is_served_without_torch_until_it_is_stopped(zoo: Zoo, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    run, folder = random_run(zoo, head="text"), tmp_path / "export"
    export_run(run, folder, make_posts(tmp_path / "posts", 8, classes=3))
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'timm'): sys.modules[name] = None\n"
        "from cotune.cli import main\n"
        f"sys.exit(main(['serve', {str(folder)!r}, '--port', '0', '--engine', 'onnx']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert process.stderr is not None
        model, first = (json.loads(process.stderr.readline()) for _ in range(2))
        assert (model["event"], model["engine"], first["event"]) == ("model", "onnx", "serving")
        import httpx

        with httpx.Client(base_url=first["url"], timeout=30) as client:
            files = {"text": (None, "a good day")}
            assert client.post("/v1/predict", files=files).json()["predictions"][0]["error"] is None
            assert client.post("/v1/explain", files=files).json()["error"]["code"] == "not_explainable"
            model = client.get("/v1/model").json()["models"][0]
            assert (model["engine"], model["explains"]) == ("onnx", False)
            assert model["run"] == Predictor(run, device="cpu").weights_hash
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        lines = [json.loads(line) for line in process.stderr]
        assert [line["event"] for line in lines][-2:] == ["stopping", "stopped"]
    finally:
        process.kill()
        process.wait()
