"""A decoder that crashes, hangs or eats memory is an error of its image; others go on, and nothing is left behind."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cotune.cli import main
from cotune.data.images import decoder, decoder_pool
from cotune.data.images.appearance import Appearance
from cotune.data.images.decode import Wanted, decode_here
from cotune.data.images.decoder_pool import DecoderPool, Worker, decode, end_decoders
from cotune.data.images.load import decode_bytes, load_image, verify_image
from cotune.errors import ConfigError, CotuneError
from tiny import make_posts

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
#: Put before the program of a worker: an image whose width is one of these makes its decoder do so.
PLANTED = """
import ctypes, os, signal, time
from PIL import Image, ImageFile
real = ImageFile.ImageFile.load
def load(self):
    width = self.size[0]
    if width == 11: ctypes.string_at(0)
    if width == 12: time.sleep(1000)
    if width == 13: os.kill(os.getpid(), signal.SIGKILL)
    if width == 14: [bytearray(1 << 26) for _ in range(64)]; kept = [bytearray(b"x" * (1 << 26)) for _ in range(64)]
    if width == 15:
        while True: pass
    if width == 16: os._exit(3)
    if width == 17: os.write(4, b"x" * 100_000)
    return real(self)
ImageFile.ImageFile.load = load
"""


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of_width(width: int) -> bytes:
    return encode(NOISE.resize((width, 20)))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderPool]:
    """A pool of two workers whose decoders do as the width of an image says."""
    monkeypatch.setattr(decoder_pool, "_CODE", PLANTED + decoder_pool._CODE)
    pool = DecoderPool(2, seconds=1)
    yield pool
    pool.end()


def children() -> list[int]:
    """Return the ids of this process's children, with those that have ended and were not waited for."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:  # its parent is gone, nobody waits
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("BMP", {}), ("TIFF", {}),
     ("AVIF", {}), ("ICO", {}), ("PPM", {}), ("JPEG2000", {})],
)  # fmt: skip
def test_both_ways_give_the_same(kind: str, options: dict[str, object]) -> None:
    image = NOISE.resize((400, 230))
    data = encode(image, kind, **options)
    for given in (data, data[:-40], data[: len(data) // 2], b"", b"no image", data[:20] + b"\xff" * 50 + data[70:]):
        for wanted in (
            Wanted(), Wanted(min_side=60), Wanted(what="size"), Wanted(max_pixels=100), Wanted(what="appearance"),
        ):  # fmt: skip
            here, there = decode_here(given, "a.png", wanted), decode(given, "a.png", wanted)
            assert (here.width, here.height, here.format) == (there.width, there.height, there.format)
            assert str(here.fault) == str(there.fault)
            assert getattr(here.fault, "kind", None) == getattr(there.fault, "kind", None)
            assert (here.image is None) == (there.image is None)
            if here.image is not None and there.image is not None:
                assert here.image.size == there.image.size
                assert here.image.tobytes() == there.image.tobytes()
            assert (here.appearance is None) == (there.appearance is None)
            if here.appearance is not None and there.appearance is not None:
                assert wanted.what == "appearance"
                assert here.appearance.hash == there.appearance.hash


def test_appearances_come_whole_and_without_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.new("RGB", (300, 200), "white")
    page.paste(NOISE, (20, 30))
    large = Image.new("1", (4_500, 4_000))
    large.paste(1, (100, 100, 2_000, 3_000))
    monkeypatch.setattr(Worker, "pixels", lambda *_: pytest.fail("pixels were sent"))
    for image in (page, NOISE, Image.new("RGB", (40, 40), "red"), large):
        found = decode(encode(image), "a.png", Wanted(what="appearance"))
        expected = Appearance.of(image.convert("RGB"))
        assert found.appearance is not None
        assert found.appearance.hash == expected.hash
        assert (found.appearance.detail is None) == (expected.detail is None)
        if expected.detail is not None and found.appearance.detail is not None:
            assert np.array_equal(found.appearance.detail.box, expected.detail.box)
            assert np.array_equal(found.appearance.detail.ink, expected.detail.ink)
    assert Appearance.of(page).detail is not None


def test_numbers_that_are_no_appearance_are_refused() -> None:
    page = Image.new("RGB", (300, 200), "white")
    page.paste(NOISE, (20, 30))
    whole = Appearance.of(page).to_bytes()
    nan = whole[:8] + np.full(1, np.nan, "<f4").tobytes() + whole[12:]
    for bad in (b"", whole[:7], whole[:-1], whole + b"x", nan):
        with pytest.raises(ValueError, match="appearance"):
            Appearance.from_bytes(bad)


@pytest.mark.parametrize(
    ("width", "reason"),
    [(11, "signal 11, SIGSEGV"), (12, "more than"), (13, "signal 9, SIGKILL"), (15, "more than 1 s of a core"),
     (16, "exit code 3"), (17, "makes no sense")],
)  # fmt: skip
def test_the_image_has_the_error_and_others_go_on(
    planted: DecoderPool, width: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_pool, "PATIENCE", 2 if width == 12 else 60)
    given = [of_width(20), of_width(width), of_width(30), of_width(40)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda data: planted.decode(data, "x.png", Wanted()), given))
    assert [each.fault is None for each in found] == [True, False, True, True]
    assert [each.image.size[0] for each in found if each.image is not None] == [20, 30, 40]
    fault = found[1].fault
    assert fault is not None
    assert fault.kind == "unreadable"
    assert str(fault).startswith("x.png: cannot be decoded: the decoder stopped (")
    assert reason in str(fault)
    alive = {worker.process.pid for worker in planted.workers}
    assert all(worker.alive for worker in planted.workers)
    assert not any(worker.process.returncode is not None for worker in planted.workers)
    planted.end()
    assert not alive & set(children())


def test_memory_is_bounded_by_what_the_image_says(planted: DecoderPool) -> None:
    planted.seconds = 30
    found = planted.decode(of_width(14), "x.png", Wanted())
    assert found.fault is not None
    assert found.fault.kind == "too large"
    assert "memory" in str(found.fault)
    assert planted.decode(of_width(20), "x.png", Wanted()).image is not None
    assert len(planted.workers) == 1, "it did not have to end"


def test_a_worker_that_somebody_kills_is_replaced_without_an_error() -> None:
    data = of_width(20)
    assert decode_bytes(data, "x").size == (20, 20)
    pool = decoder_pool._the_pool()
    for worker in list(pool.workers):
        os.kill(worker.process.pid, signal.SIGKILL)
    assert decode_bytes(data, "x").size == (20, 20)
    large = encode(NOISE.resize((1_000, 800)))
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            coming = [threads.submit(decode_bytes, large, "x") for _ in range(4)]
            time.sleep(0.02)  # some are at it
            for worker in list(pool.workers):
                os.kill(worker.process.pid, signal.SIGKILL)
            assert [each.result().size for each in coming] == [(1_000, 800)] * 4


def test_threads_share_the_workers_and_none_is_left() -> None:
    images = [encode(NOISE.resize((20 + i, 30))) for i in range(60)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda data: decode_bytes(data, "x").size[0], images))
    assert found == [20 + i for i in range(60)]
    pids = {worker.process.pid for worker in decoder_pool._the_pool().workers}
    assert 1 <= len(pids) <= decoder_pool._cores()
    end_decoders()
    assert not pids & set(children())
    assert decode_bytes(images[0], "x").size == (20, 30)


def test_a_forked_process_has_workers_of_its_own() -> None:
    first, second = of_width(20), of_width(40)
    decode_bytes(first, "x")
    before = {worker.process.pid for worker in decoder_pool._the_pool().workers}
    child = os.fork()
    if not child:
        code = 1
        try:
            right = all(decode_bytes(second, "x").size == (40, 20) for _ in range(20))
            own = {worker.process.pid for worker in decoder_pool._the_pool().workers}
            code = 0 if right and not own & before else 2
            end_decoders()
        finally:
            os._exit(code)
    assert all(decode_bytes(first, "x").size == (20, 20) for _ in range(20))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {worker.process.pid for worker in decoder_pool._the_pool().workers} == before


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, None])
def test_workers_end_with_the_program(how: signal.Signals | None, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(of_width(20))
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from cotune.data.images import decoder_pool as p; from cotune.data.images.load import *\n"
        "load_image(sys.argv[1]); print(*[w.process.pid for w in p._pool.workers], flush=True)\n"
        "sys.stdin.read(1) if sys.argv[2] == 'None' else time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.png"), str(how)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        pids = [int(word) for word in program.stdout.readline().split()]
        assert pids
        if how is not None:
            program.send_signal(how)
        said = program.communicate(b"x", timeout=30)[1]
    assert all(map(gone, pids))
    assert how is signal.SIGINT or not said  # Python says where it was interrupted


def test_a_library_that_is_asked_from_a_script_without_a_guard(tmp_path: Path) -> None:
    """No process runs the user's script again, as those of `multiprocessing` do."""
    (tmp_path / "a.png").write_bytes(of_width(20))
    script = tmp_path / "script.py"
    script.write_text("print('once')\nfrom cotune.data.images.load import load_image\nload_image('a.png')\n")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "once\n"


def test_inline_starts_no_process_and_other_words_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    end_decoders()
    monkeypatch.setenv(decoder_pool.VARIABLE, "inline")
    assert load_image(of_width(20)).size == (20, 20)
    assert verify_image(of_width(20)[:-30]).faults
    assert decoder_pool._pool is None
    monkeypatch.setenv(decoder_pool.VARIABLE, "elsewhere")
    with pytest.raises(ConfigError, match="worker or inline"):
        load_image(of_width(20))


def test_a_process_that_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    end_decoders()
    monkeypatch.setattr(decoder_pool, "_CODE", "raise SystemExit('no numpy here')")
    with pytest.raises(CotuneError, match=r"cannot be started \(no numpy here\); COTUNE_DECODE=inline"):
        load_image(of_width(20))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CotuneError, match="cannot be started"):
        load_image(of_width(20))


@pytest.mark.parametrize(
    "answer",
    [decoder.ANSWER.pack(decoder.PIXELS, 1, 1, 3, 8) + b"PNG" + decoder.SIZE.pack(60_000, 60_000),
     decoder.ANSWER.pack(decoder.PIXELS, 1, 1, 3, 8) + b"PNG" + decoder.SIZE.pack(900, 900),
     decoder.ANSWER.pack(decoder.PIXELS, 1, 1, 3, 8) + b"PNG" + decoder.SIZE.pack(0, 7),
     decoder.ANSWER.pack(decoder.PIXELS, 1, 1, 3, 2) + b"PNGxx",
     decoder.ANSWER.pack(decoder.FAULT, 1, 1, 3, 9) + b"PNGmade up\nx",
     decoder.ANSWER.pack(decoder.HEADER, 1, 1, 0, 0),
     decoder.ANSWER.pack(decoder.APPEARANCE, 1, 1, 0, 8) + b"x" * 8,
     decoder.ANSWER.pack(77, 1, 1, 0, 0)],
)  # fmt: skip
def test_an_answer_of_a_worker_that_was_taken_over_is_checked(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecoderPool(1)
    pieces = iter([answer[:5], answer[5:20], answer[20:]])
    monkeypatch.setattr(Worker, "_read", lambda self, ends: next(pieces))
    monkeypatch.setattr(Worker, "__init__", _no_process)
    monkeypatch.setattr(Worker, "end", lambda self: os.close(self._file))
    found = pool.decode(of_width(20), "x.png", Wanted())
    assert found.image is None
    assert found.fault is not None
    assert "no image" in str(found.fault) or "no sense" in str(found.fault)


def _no_process(self: Worker, seconds: int = 1) -> None:
    self.seconds, self._file = seconds, os.memfd_create("x")
    self.process = subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    self.process.wait()
    assert self.process.stdin is not None
    self.process.stdin = io.BytesIO()


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, busy, most = DecoderPool(2), [0], [0]
    ask, lock = Worker.ask, threading.Lock()

    def counted(self: Worker, data: bytes, wanted: Wanted, *, large: bool) -> object:
        with lock:
            busy[0] += large
            most[0] = max(most[0], busy[0])
        try:
            return ask(self, data, wanted, large=large)
        finally:
            with lock:
                busy[0] -= large

    monkeypatch.setattr(Worker, "ask", counted)
    large = encode(Image.new("1", (4_500, 4_000)))
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: pool.decode(large, "x", Wanted()), range(3)))
    pool.end()
    assert [each.image is not None for each in found] == [True] * 3
    assert most == [1]


def test_a_command_names_the_row_of_the_image_that_stops_its_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    posts = make_posts(tmp_path, 6, gaps=False)
    (tmp_path / "evil.png").write_bytes(of_width(11))
    posts.loc[2, "image"] = str(tmp_path / "evil.png")
    table = tmp_path / "posts.csv"
    posts.drop(columns=["row", "group"]).to_csv(table, index=False)
    end_decoders()
    monkeypatch.setattr(decoder_pool, "_CODE", PLANTED + decoder_pool._CODE)
    try:
        assert main(["check", str(table), "--json"]) == 0
    finally:
        end_decoders()
    found = json.loads(capsys.readouterr().out)
    assert [(each["row"], each["kind"]) for each in found["image_troubles"]] == [(3, "unreadable")]
    assert "SIGSEGV" in found["image_troubles"][0]["reason"]


def test_the_measurement_of_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "decode_worker.py"
    spec = importlib.util.spec_from_file_location("decode_worker", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "photo", lambda data: data)
    posts = make_posts(tmp_path, 4, gaps=False)
    posts.drop(columns=["row", "group"]).to_csv(tmp_path / "posts.csv", index=False)
    monkeypatch.setenv(decoder_pool.VARIABLE, "worker")  # which it changes
    words = [
        str(tmp_path / "posts.csv"),
        "--pairs",
        "1",
        "--photos",
        "1",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "out.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["decode_worker.py", *words])
    module.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert len([name for name in found if "pixels" in name or "full" in name]) == 4
    assert all(each["wall_ratio"][0] > 0 for each in found.values() if isinstance(each, dict))
    assert "photos" in capsys.readouterr().out
