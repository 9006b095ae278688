"""How many requests a service answers, and how fast, with and without micro-batching; over loopback, side by side.

    python benchmarks/service.py RUN POSTS [--clients 8] [--seconds 60] [--engine auto] [--out FILE.json]

Both services run at once, and are asked in turns of a few seconds, in alternating order, by clients that each send the
next post when they have the answer to the last one: one post in a form, text and image as files are. Reported are
requests per second (median and range of the turns, ratio of neighbouring turns) and latencies of all requests. The
clients run on the same machine and take part of its processors.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from running_service import RunningService

from cotune.data.posts import read_posts
from cotune.engines.sessions import installed
from cotune.environment import environment
from cotune.files import write_json

MODES = {"micro-batching": (), "one by one": ("--no-batching",)}
BOUNDARY = b"cotune-benchmark"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("posts", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="of each service")
    parser.add_argument("--turn", type=float, default=5, help="seconds of a turn")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--n", type=int, default=256, help="posts with text and image, sent over and over")
    parser.add_argument(
        "--option", action="append", default=[], help="further options of cotune serve, as --option=..."
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    posts = read_posts(args.posts).dropna(subset=["text", "image"]).head(args.n)
    requests = [request_of(post) for _, post in posts.iterrows()]
    turns = max(1, round(args.seconds / args.turn))
    common = ["--engine", args.engine, *args.option]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in MODES}
    with (
        RunningService(args.run, [*common, *MODES["micro-batching"]]) as together,
        RunningService(args.run, [*common, *MODES["one by one"]]) as alone,
    ):
        services = dict(zip(MODES, (together, alone), strict=True))
        for service in services.values():  # to warm up
            asyncio.run(load(service.port, requests, args.clients, min(2.0, args.turn)))
        for turn in range(turns):
            for name in list(MODES)[:: 1 if turn % 2 == 0 else -1]:
                before = services[name].cpu_seconds()
                one = asyncio.run(load(services[name].port, requests, args.clients, args.turn))
                one["cpu"] = (services[name].cpu_seconds() - before) / one["seconds"]
                found[name].append(one)
        memory = {name: max(service.memory) / 2**20 for name, service in services.items()}
    report(found, memory, args.clients)
    about = {
        **environment(0, None, "cpu"), "cores": os.cpu_count(), **installed(), "posts": len(requests),
        "clients": args.clients, "turns": turns, "seconds a turn": args.turn, "engine": args.engine,
    }  # fmt: skip
    print(about)
    if args.out is not None:
        write_json(args.out, {"about": about, "turns": found, "memory": memory})


def request_of(post: pd.Series[Any]) -> bytes:
    """Return the whole request that sends a post, so that sending it costs next to nothing."""
    image = Path(post["image"]).read_bytes()
    body = b"".join([
        b"--", BOUNDARY, b'\r\nContent-Disposition: form-data; name="text"\r\n\r\n', post["text"].encode(), b"\r\n",
        b"--", BOUNDARY, b'\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n', image, b"\r\n",
        b"--", BOUNDARY, b"--\r\n",
    ])  # fmt: skip
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
    )
    return head.encode() + body


async def load(port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Let clients ask for some seconds; return how many answers there were, how long each took, and what failed."""
    posts = itertools.cycle(requests)
    times: list[float] = []
    statuses: dict[str, int] = {}
    started = time.perf_counter()
    until = started + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (sent := time.perf_counter()) < until:
            writer.write(next(posts))
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            times.append(time.perf_counter() - sent)
            status = head[9:12].decode()
            statuses[status] = statuses.get(status, 0) + 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return {"seconds": time.perf_counter() - started, "times": times, "statuses": statuses}


def report(found: dict[str, list[dict[str, Any]]], memory: dict[str, float], clients: int) -> None:
    """Print a table."""
    rates = {name: [len(turn["times"]) / turn["seconds"] for turn in turns] for name, turns in found.items()}
    print(f"\n{clients} clients\n")
    print("| | requests/s | p50 ms | p95 ms | p99 ms | answers | errors | CPU cores used | peak memory, MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, turns in found.items():
        times = 1000 * np.concatenate([turn["times"] for turn in turns])
        p50, p95, p99 = np.percentile(times, [50, 95, 99])
        failed = sum(n for turn in turns for status, n in turn["statuses"].items() if status != "200")
        low, high = min(rates[name]), max(rates[name])
        print(
            f"| {name} | {statistics.median(rates[name]):.1f} ({low:.1f} to {high:.1f}) | {p50:.0f} | {p95:.0f} | "
            f"{p99:.0f} | {len(times):,} | {failed:,} | {statistics.median(turn['cpu'] for turn in turns):.2f} | "
            f"{memory[name]:,.0f} |"
        )
    one, other = MODES
    ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
    print(f"\n{one} / {other}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})\n")


if __name__ == "__main__":
    main()
