"""Requests of all kinds against a service, most of them hostile: none may be answered by a 5xx, and it lives on.

    python benchmarks/service_fuzz.py RUN [--requests 10000] [--seed 0] [--out FILE.json]

Half of them is made by schemathesis from the service's OpenAPI description, both as it says and against it; their
answers are compared with the description as well. The others are hostile by design: images cut short, changed, or
larger than they say, bodies too long, broken forms and JSON, wrong types, sizes that lie. Meanwhile slow clients hold
connections open. Reported are statuses by kind of request, memory before and after, and whether a good request is
answered as before. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import base64
import collections
import functools
import http.client
import io
import json
import os
import random
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from running_service import RunningService

from cotune.files import write_json

Statuses = dict[str, collections.Counter[str]]
Sent = tuple[str, str, dict[str, str], Any]
JSON = {"Content-Type": "application/json"}
BODY = 2  # megabytes
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000")
#: What a client sees where the service closes the connection instead of answering.
CLOSED = "closed"


def main() -> int:
    """Send and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=int, default=20, help="slow clients at a time")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options = ["--engine", args.engine, "--max-body", str(BODY), "--max-pixels", "2", "--body-timeout", "3"]
    statuses: Statuses = collections.defaultdict(collections.Counter)
    wrong: list[str] = []
    with RunningService(args.run, options) as service:
        model = ask(service.port, ("GET", "/v1/model", {}, None))[1]["models"][0]
        good = good_request(model)
        for _ in range(30):
            first = ask(service.port, good)
        if model["explains"]:  # the first one brings torch and the run, which stay
            ask(service.port, ("POST", "/v1/explain", *good[2:]))
        before, stop = service.resident(), threading.Event()
        slow = [
            threading.Thread(target=slow_client, args=(service.port, stop, i, statuses), daemon=True)
            for i in range(args.slow)
        ]
        for thread in slow:
            thread.start()
        started = time.perf_counter()
        wrong += by_schema(service, args.requests // 2, args.seed, statuses)
        makers = hostile(model, random.Random(args.seed))
        for kind, sent in (next(makers) for _ in range(args.requests - args.requests // 2)):
            statuses[kind][str(ask(service.port, sent)[0])] += 1
        seconds = time.perf_counter() - started
        stop.set()
        for thread in slow:
            thread.join()
        ready = ask(service.port, ("GET", "/readyz", {}, None))[0]
        again = ask(service.port, good)
        time.sleep(1)
        after, peak = service.resident(), max(service.memory)
        wrong += [f"not ready: {ready}"] if ready != 200 else []
        wrong += [f"another answer: {first} {again}"] if told(first) != told(again) else []
        wrong += [f"logged: {error}" for error in service.errors[:5]]
        wrong += [f"{service.no_json} lines of the log are no JSON"] if service.no_json else []
    wrong += [f"exit code {service.code}"] if service.code else []
    wrong += [f"{kind}: {n} answers of status {s}" for kind, c in statuses.items() for s, n in c.items() if s >= "500"
              and s != CLOSED]  # fmt: skip
    columns = sorted({status for counter in statuses.values() for status in counter})
    print(f"| requests | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for kind, counter in sorted(statuses.items()):
        print(f"| {kind} | {' | '.join(f'{counter[status]:,}' if counter[status] else '' for status in columns)} |")
    total = sum(sum(counter.values()) for counter in statuses.values())
    memory = {"before": before / 2**20, "after": after / 2**20, "peak": peak / 2**20}
    print(f"\n{total:,} requests in {seconds:.0f} s, seed {args.seed}")
    print("resident memory, MB: " + ", ".join(f"{name} {value:,.0f}" for name, value in memory.items()))
    print("\n".join(f"WRONG: {each}" for each in wrong) or "nothing wrong")
    if args.out is not None:
        write_json(args.out, {"statuses": statuses, "memory": memory, "wrong": wrong, "seed": args.seed})
    return 1 if wrong else 0


def told(answer: tuple[Any, Any]) -> Any:
    """Return what an answer says of its posts, rounded: other posts in a batch change the last digits."""
    predictions = answer[1]["predictions"]
    return [(each["label"], {k: round(v, 3) for k, v in (each["probabilities"] or {}).items()}) for each in predictions]


def ask(port: int, sent: Sent, seconds: float = 60) -> tuple[Any, Any]:
    """Send one request; return status and JSON, or how it ended."""
    method, path, headers, body = sent
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
        answer = connection.getresponse()
        data = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(data) if data and is_json else None
    except TimeoutError:
        return "timeout", None
    except (OSError, http.client.HTTPException):
        return CLOSED, None
    finally:
        connection.close()


# ---- from the description ----------------------------------------------------------------------------------


def by_schema(service: RunningService, n: int, seed: int, statuses: Statuses) -> list[str]:
    """Send requests that schemathesis makes; return where answers are not as described."""
    import hypothesis
    import schemathesis
    from schemathesis import GenerationMode, checks

    compared = [getattr(checks, name) for name in ("not_a_server_error",)]
    from schemathesis.specs.openapi import checks as described

    compared += [described.status_code_conformance, described.content_type_conformance,
                 described.response_schema_conformance]  # fmt: skip
    found: list[str] = []
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    operations += [each for each in operations if each.path.startswith("/v1/p")] * 4  # most of what may go wrong
    for at, operation in enumerate(operations):
        for mode in GenerationMode:
            few = max(1, n // (2 * len(operations)))
            send = sender(statuses[f"schemathesis, {mode.value}"], compared, found)
            cases = operation.as_strategy(generation_mode=mode)
            settings = hypothesis.settings(
                max_examples=few, deadline=None, database=None, phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )  # fmt: skip
            try:
                hypothesis.seed(seed + at)(settings(hypothesis.given(case=cases)(send)))()
            except hypothesis.errors.Unsatisfiable:  # nothing can be against a description without parameters
                continue
    return list(dict.fromkeys(found))[:20]


def sender(counts: collections.Counter[str], compared: list[Any], found: list[str]) -> Callable[[Any], None]:
    """Return a function that sends one case of schemathesis, counts its status and keeps what is not as described."""

    def send(case: Any) -> None:
        try:
            answer = case.call(timeout=60)
        except Exception as error:  # what its client cannot send at all
            counts[f"not sent: {type(error).__name__}"] += 1
            return
        counts[str(answer.status_code)] += 1
        try:
            case.validate_response(answer, checks=compared)
        except BaseExceptionGroup as group:
            found.extend(f"{case.method} {case.path}: {str(each)[:300]}" for each in group.exceptions)
        except AssertionError as error:
            found.append(f"{case.method} {case.path}: {str(error)[:300]}")

    return send


# ---- hostile by design -------------------------------------------------------------------------------------


def good_request(model: dict[str, Any]) -> Sent:
    """Return a request that has a field of each kind."""
    plain = {"text": "what a lovely day", "image": b64(encoded("PNG", 64)), "table": {}}
    fields = {each["name"]: plain[each["kind"]] for each in model["fields"]}
    return "POST", "/v1/predict", JSON, json.dumps({"posts": [{"fields": fields}]})


def hostile(model: dict[str, Any], dice: random.Random) -> Iterator[tuple[str, Sent]]:
    """Yield kind and request, without end."""
    names = {kind: [each["name"] for each in model["fields"] if each["kind"] == kind] for kind in ("text", "image")}
    makers: dict[str, Callable[[], Sent]] = {
        "values of wrong types": lambda: post_json({"posts": [{"fields": {any_of(dice, names): anything(dice)}}]}),
        "broken JSON": lambda: broken_json(dice),
        "broken forms": lambda: broken_form(dice, names),
        "odd texts": lambda: post_json({"posts": [{"fields": {name: odd_text(dice)}} for name in names["text"]]}),
        "bodies too long": lambda: too_long(dice),
        "odd requests": lambda: odd_request(dice),
        "paths and URLs": lambda: image_post(dice, names, place(dice)),
    }
    if names["image"]:
        makers |= {
            "images cut short": lambda: image_post(dice, names, cut_short(dice)),
            "images changed": lambda: image_post(dice, names, changed(dice)),
            "images too large": lambda: image_post(dice, names, bomb(dice)),
            "sound images": lambda: image_post(dice, names, encoded(dice.choice(FORMATS), dice.randint(1, 300))),
        }
    while True:
        kind = dice.choice(list(makers))
        yield kind, makers[kind]()


def post_json(value: Any) -> Sent:
    return "POST", "/v1/predict", JSON, json.dumps(value).encode("utf-8", "surrogatepass")


def any_of(dice: random.Random, names: dict[str, list[str]]) -> str:
    return dice.choice([*names["text"], *names["image"], "no_such_field", "", "\x00"])


def anything(dice: random.Random, depth: int = 3) -> Any:
    """Return any JSON value."""
    if depth and dice.random() < 0.4:
        inner = [anything(dice, depth - 1) for _ in range(dice.randint(0, 4))]
        return inner if dice.random() < 0.5 else {odd_text(dice)[:20]: value for value in inner}
    values = (None, True, 0, -1, 10**400, 1e308, float("nan"), float("-inf"), "", odd_text(dice), "\ud800")
    return dice.choice(values)


def odd_text(dice: random.Random) -> str:
    """Return a text that a tokenizer or a log may stumble over."""
    return dice.choice(
        [
            "\x00\x01\x1b[31m", "\u202e\ufeff\u200b", "a" * 49_999, "\U0001f600" * 500, "' OR 1=1 --", "{{7*7}}${7*7}",
            "<script>alert(1)</script>", "e\u0301" * 2000, "\n\r\t" * 100, "\u4e00" * 3000,
            "a" + "\u0315\u0300" * 20_000, "[CLS] [SEP] [PAD] [MASK]",
            "".join(chr(dice.randrange(0x20, 0xD800)) for _ in range(dice.randint(1, 300))),
        ]
    )  # fmt: skip


def broken_json(dice: random.Random) -> Sent:
    whole = json.dumps({"model": None, "posts": [{"id": "1", "fields": {"text": "a"}}]}).encode()
    at = dice.randrange(len(whole))
    found = dice.choice(
        [
            whole[:at], whole[:at] + bytes([dice.randrange(256)]) + whole[at:], b"[" * 100_000, b'{"posts":' * 20_000,
            b'{"posts":[' + b"1," * 500_000 + b"1]}",
            b"\xff\xfe" + whole, b"9" * 10_000, b'{"posts":[' + b'{"fields":{}},' * 5000 + b'{"fields":{}}]}', b"",
            json.dumps({"posts": anything(dice)}).encode("utf-8", "surrogatepass"),
        ]
    )  # fmt: skip
    return "POST", dice.choice(["/v1/predict", "/v1/explain"]), JSON, found


def broken_form(dice: random.Random, names: dict[str, list[str]]) -> Sent:
    name = any_of(dice, names).encode()
    part = b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\nabc\r\n'
    whole = part + b"--x--\r\n"
    body = dice.choice(
        [
            part, whole[: dice.randrange(len(whole))], whole * 3, part * 1000 + whole, b"--x\r\n\r\nabc\r\n--x--\r\n",
            b"--y--", b"", whole.replace(b"form-data", b"x" * 100_000), whole.replace(b"abc", b"\xff\x00" * 100),
            b"--x\r\n" + b"A: b\r\n" * 10_000 + whole, whole.replace(b"name=", b"filename=../../etc/passwd; name="),
            whole.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"),
        ]
    )  # fmt: skip
    boundary = dice.choice(["x"] * 5 + ["y", "", "x" * 500, '"x', "\xff"])
    return "POST", "/v1/predict", {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body


def too_long(dice: random.Random) -> Sent:
    size = dice.randint(BODY * 2**20 + 1, 3 * BODY * 2**20)
    kind = dice.choice(["length", "chunks", "a lie"])
    if kind == "length":
        return "POST", "/v1/predict", JSON, b"[" * size
    if kind == "a lie":
        return "POST", "/v1/predict", {**JSON, "Content-Length": str(10 ** dice.randint(8, 18))}, b"{}"
    chunks = (b" " * 65_536 for _ in range(size // 65_536 + 1))
    return "POST", "/v1/predict", {**JSON, "Transfer-Encoding": "chunked"}, chunks


def odd_request(dice: random.Random) -> Sent:
    method = dice.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "FOO", "CONNECT"])
    path = dice.choice(
        [
            "/", "/v1/predict", "/v1/model", "/metrics", "/openapi.json", "//", "/../../etc/passwd", "/%00", "/%2e%2e/",
            "/static/../../../etc/passwd", "/v1/model?" + "a=b&" * 2000, "/" + "a" * 5000, "/v1/predict/", "/docs",
        ]
    )  # fmt: skip
    headers = dice.choice(
        [
            {}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}, {"X-Request-ID": "a" * 5000},
            {"Authorization": "Bearer \xff"}, {"Accept": "\xff", "Range": "bytes=0-"}, {"Expect": "100-continue"},
            {"Content-Type": "application/json; charset=utf-32"}, {"Content-Encoding": "gzip", **JSON},
            {"Connection": "Upgrade", "Upgrade": "websocket"}, {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        ]
    )  # fmt: skip
    return method, path, headers, dice.choice([None, b"", b"{}", b"\x1f\x8b\x08"])


def place(dice: random.Random) -> bytes:
    return dice.choice(
        [b"/etc/passwd", b"file:///etc/passwd", b"http://127.0.0.1:1/", b"s3://a/b", b"data:text/plain,a", b"../a.png"]
    )


def image_post(dice: random.Random, names: dict[str, list[str]], data: bytes) -> Sent:
    """Return a request with an image, as JSON or as a form, for a prediction or (seldom) an explanation."""
    name = (names["image"] or ["image"])[0]
    path = "/v1/explain" if dice.random() < 0.01 else "/v1/predict"
    if dice.random() < 0.5:
        return "POST", path, JSON, json.dumps({"posts": [{"fields": {name: b64(data)}}]})
    form = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n--x--\r\n' % (
        name.encode(),
        data,
    )
    return "POST", path, {"Content-Type": "multipart/form-data; boundary=x"}, form


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def encoded(kind: str, side: int) -> bytes:
    buffer = io.BytesIO()
    image = Image.effect_noise((max(1, side), max(1, side * 2 // 3)), 80).convert("RGB")
    image.save(buffer, kind)
    return buffer.getvalue()


def cut_short(dice: random.Random) -> bytes:
    whole = encoded(dice.choice(FORMATS), dice.randint(8, 200))
    return whole[: dice.randrange(len(whole))]


def changed(dice: random.Random) -> bytes:
    whole = bytearray(encoded(dice.choice(FORMATS), dice.randint(8, 120)))
    for _ in range(dice.randint(1, 20)):
        whole[dice.randrange(min(len(whole), dice.choice([32, 200, 10**6])))] = dice.randrange(256)
    return bytes(whole)


def bomb(dice: random.Random) -> bytes:
    """Return a small file that is a large image."""
    kind = dice.choice(["png", "png that lies", "gif", "icon", "bmp", "png of text", "1 pixel high", "gif of comments"])
    if kind == "gif of comments":
        return b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x00\x00\x00\x21\xfe" + b"\x01a" * 900_000 + b"\x00\x3b"
    if kind == "gif":
        return b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x00\x00\x00" + b"\x2c" + bytes(9) + b"\x02\x00\x3b"
    if kind == "bmp":
        head = struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head
    if kind == "icon":
        inner = flat_png(12_000, 12_000)
        return bytes([0, 0, 1, 0, 1, 0, 16, 16, 0, 0, 1, 0, 32, 0]) + struct.pack("<II", len(inner), 22) + inner
    if kind == "png of text":
        text = zlib.compress(b"a" * 30_000_000)
        return flat_png(8, 8, chunk(b"zTXt", b"a\x00\x00" + text))
    if kind == "1 pixel high":
        return flat_png(dice.choice([1_900_000, 3_000_000]), 1)
    return flat_png(20_000, 20_000, stop_at=100 if kind == "png that lies" else None)


@functools.cache
def flat_png(width: int, height: int, more: bytes = b"", stop_at: int | None = None) -> bytes:
    """Return a grey image of any size, of which only some rows may be there."""
    rows = min(height, stop_at or height)
    packer = zlib.compressobj(9)
    packed = [packer.compress(bytes(1 + width)) for _ in range(rows)]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", b"".join(packed) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + head + more + data + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def slow_client(port: int, stop: threading.Event, number: int, statuses: Statuses) -> None:
    """Send headers or a body byte by byte, over and over, until the others are done."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 999\r\n"
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                if number % 2:
                    connection.sendall(head + b"\r\n")
                while not stop.wait(0.5):
                    connection.sendall(b"X" if number % 2 else b"A: b\r\n" if os.urandom(1)[0] < 128 else b"B")
        except OSError:
            statuses["slow clients"][CLOSED] += 1


if __name__ == "__main__":
    sys.exit(main())
