"""`cotune predict --cluster ray` with two local workers beside the single process on the same cores.

    python benchmarks/ray_predict.py MODEL POSTS --rows 20000 --repeats 3
    python benchmarks/ray_predict.py MODEL POSTS --rows 2000 --repeats 1 --s3-rows 500  # quick

MODEL is a run or an export, POSTS a table with absolute image paths; its rows are repeated, with ids of their own, and
cut into shards of whole blocks. Printed are, alternately measured, the seconds and posts per second of both, the ratio,
the seconds of all cores (which other work on the machine changes least), the largest memory of all processes together
(proportional set size, so that shared pages count once), and the time that starting takes alone (the same with one
chunk of posts). Then one worker is killed (SIGKILL) when half of the blocks are done, and the same is done through
`s3://` on a moto server on loopback, with images there too. The rows of each have to be those of the single process:
same ids in the same order, numbers within 1e-5, no part twice. The exit code is 1 if any differ.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from cotune.data.posts import read_posts
from cotune.environment import environment

WORKER = "MapWorker"
CHUNK = 512  # the default of --chunk-size, of which blocks are made


@dataclass
class Ran:
    """One run of a command: seconds, those of all its cores, the largest memory in GB, and the processes at most."""

    seconds: float
    cpu: float
    gigabytes: float
    processes: int


def main() -> int:
    """Measure, kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--s3-rows", type=int, default=2_000, help="rows of the part through s3://; 0 for none")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--block-rows", type=int, default=512)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.block_rows = -(-args.block_rows // CHUNK) * CHUNK
    command = [sys.executable, "-m", "cotune", "predict", str(args.model)]
    engine = ["--engine", args.engine]
    cluster = [*engine, "--cluster", "ray", "--concurrency", str(args.workers), "--block-rows", str(args.block_rows)]
    good = True
    with tempfile.TemporaryDirectory(prefix="ray-predict-") as name:
        folder = Path(name)
        posts = repeated(args.posts, args.rows)
        shards = cut(posts, folder / "in", args.shards, args.block_rows)
        posts.to_parquet(folder / "posts.parquet")
        posts.head(CHUNK).to_parquet(folder / "few.parquet")

        def single(table: str, out: Path) -> Ran:
            return run([*command, str(folder / table), "--out", str(out), *engine])

        def spread(posts: str, out: Path, *more: str, watch: Callable[[psutil.Process], None] | None = None) -> Ran:
            return run([*command, str(folder / posts), "--out", str(out), *cluster, *more], watch)

        single("few.parquet", folder / "warm.parquet")  # exports the run, if that is still to be done
        start = {"single process": single("few.parquet", folder / "few-1.parquet"),
                 "ray": spread("few.parquet", folder / "few-2")}  # fmt: skip
        ran: dict[str, list[Ran]] = {"single process": [], "ray": []}
        for i in range(args.repeats):
            ran["single process"].append(single("posts.parquet", folder / "single.parquet"))
            ran["ray"].append(spread("in", folder / f"ray-{i}"))
            good &= told_same(f"ray, run {i + 1}", rows_of(folder / f"ray-{i}"), folder / "single.parquet")
        table(ran, start, args.rows)
        n_blocks = sum(-(-rows // args.block_rows) for rows in shards)
        killer = Killer(folder / "killed", n_blocks // 2)
        spread("in", folder / "killed", watch=killer)
        good &= told_same(f"ray, {killer}", rows_of(folder / "killed"), folder / "single.parquet")
        if args.s3_rows:
            few = posts.head(args.s3_rows)
            few.to_parquet(folder / "s3.parquet")
            single("s3.parquet", folder / "s3-single.parquet")
            with bucket(few, args) as (url, fetch):
                took = run([*command, f"{url}/in", "--out", f"{url}/out", *cluster, "--allow-remote"])
                fetch("out", folder / "s3-out")
            words = f"s3://, {len(few):,} rows with their images, {took.seconds:.1f} s, {took.gigabytes:.2f} GB"
            good &= told_same(words, rows_of(folder / "s3-out"), folder / "s3-single.parquet")
    print({key: value for key, value in environment(args.seed, None, "cpu").items() if key != "data_hash"})
    print({**vars(args), "cores": len(os.sched_getaffinity(0)), "ray": version("ray")})
    return 0 if good else 1


def version(package: str) -> str:
    """Return the version of a package."""
    from importlib import metadata

    return metadata.version(package)


def repeated(table: Path, rows: int) -> pd.DataFrame:
    """Return the posts of a table, repeated until there are `rows`."""
    posts = read_posts(table)[["text", "image"]]
    at = np.arange(rows) % len(posts)
    found = posts.iloc[at].reset_index(drop=True)
    found.insert(0, "id", [f"p{i}" for i in range(rows)])
    return found


def cut(posts: pd.DataFrame, folder: Path, n: int, block_rows: int) -> list[int]:
    """Write posts as shards of whole blocks; returns how many rows each has."""
    folder.mkdir()
    size = max(1, -(-len(posts) // (n * block_rows))) * block_rows
    parts = [posts.iloc[at : at + size] for at in range(0, len(posts), size)]
    for number, part in enumerate(parts):
        part.to_parquet(folder / f"posts-{number}.parquet")
    return [len(part) for part in parts]


def run(command: list[str], watch: Callable[[psutil.Process], None] | None = None) -> Ran:
    """Run a command to its end, adding up the memory of all its processes once a second."""
    started, most, count = time.perf_counter(), 0.0, 0
    cpu: dict[int, float] = {}
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        tree = [process, *process.children(recursive=True)]
        used = 0
        for each in tree:
            try:
                used += each.memory_full_info().pss
                cpu[each.pid] = sum(each.cpu_times()[:2])
            except psutil.Error:
                continue
        most, count = max(most, used / 2**30), max(count, len(tree))
        if watch is not None:
            watch(process)
        try:
            process.wait(1)
        except psutil.TimeoutExpired:
            continue
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr.read().decode()}")
    return Ran(time.perf_counter() - started, sum(cpu.values()), most, count)


class Killer:
    """Kills one worker once so many blocks are done."""

    def __init__(self, out: Path, after: int) -> None:
        self.out, self.after, self.done = out, after, ""

    def __call__(self, process: psutil.Process) -> None:
        there = len(list(self.out.glob("part-*")))
        if self.done or there < self.after:
            return
        for each in process.children(recursive=True):
            if WORKER in " ".join(each.cmdline()):
                each.send_signal(signal.SIGKILL)
                self.done = f"worker {each.pid} killed after {there} blocks"
                return

    def __str__(self) -> str:
        return self.done or "NO WORKER WAS KILLED"


def rows_of(out: Path) -> pd.DataFrame:
    """Return the rows of all parts in the manifest, in order."""
    blocks = json.loads((out / "manifest.json").read_text())["blocks"]
    files = [block["file"] for block in blocks]
    assert (out / "_SUCCESS").exists()
    assert sorted(files) == sorted(path.name for path in out.glob("part-*"))
    return pd.concat([pd.read_parquet(out / file) for file in files], ignore_index=True)


def told_same(what: str, found: pd.DataFrame, single: Path) -> bool:
    """Print and return whether rows are those of the single process."""
    expected = pd.read_parquet(single)
    numbers = [name for name in expected if expected[name].dtype.kind == "f"]
    same = list(found) == list(expected) and found["id"].tolist() == expected["id"].tolist()
    off = float("inf")
    if same:
        a, b = found[numbers].to_numpy(), expected[numbers].to_numpy()
        off = float(np.nanmax(np.abs(a - b)))
        same = bool((np.isnan(a) == np.isnan(b)).all() and off < 1e-5 and (found["label"] == expected["label"]).all())
        same &= bool((found["error"].isna() == expected["error"].isna()).all())
    twice = int(found["id"].duplicated().sum())
    verdict = "same" if same else "DIFFERENT"
    print(f"{what}: {len(found):,} rows, {twice} twice, largest difference {off:.1e}: {verdict}", flush=True)
    return same and not twice


def table(ran: dict[str, list[Ran]], start: dict[str, Ran], rows: int) -> None:
    """Print the two ways beside each other."""
    print("\n                  seconds           range    CPU s  posts/s  start, s  after it  peak GB  processes")
    speeds = {}
    for name, runs in ran.items():
        seconds = [each.seconds for each in runs]
        middle, began = statistics.median(seconds), start[name].seconds
        busy = statistics.median(each.cpu for each in runs)
        speeds[name] = [(rows / each, (rows - CHUNK) / max(each - began, 1e-9)) for each in seconds]
        span = f"{min(seconds):.1f} to {max(seconds):.1f}"
        print(f"{name:<16} {middle:8.1f} {span:>15} {busy:8.1f} {rows / middle:8.1f} "
              f"{began:9.1f} {(rows - CHUNK) / (middle - began):9.1f} {max(each.gigabytes for each in runs):8.2f} "
              f"{max(each.processes for each in runs):10}")  # fmt: skip
    for at, what in enumerate(("from start to end", "after the start")):
        ratios = [b[at] / a[at] for a, b in zip(speeds["single process"], speeds["ray"], strict=True)]
        print(
            f"throughput {what}, ray / single: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    print(flush=True)


@contextmanager
def bucket(posts: pd.DataFrame, args: argparse.Namespace) -> Iterator[tuple[str, Callable[[str, Path], None]]]:
    """Serve a bucket on loopback that holds the posts as shards, and their images beside them."""
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="secret", AWS_EC2_METADATA_DISABLED="true",
                      AWS_DEFAULT_REGION="us-east-1", AWS_ENDPOINT_URL=f"http://{host}:{port}")  # fmt: skip
    s3 = fsspec.filesystem("s3")
    s3.mkdir("posts")
    names = {
        path: f"images/{number}{Path(path).suffix}" for number, path in enumerate(posts["image"].dropna().unique())
    }
    for path, image in names.items():
        if Path(path).is_file():
            s3.put_file(path, f"posts/in/{image}")
    with tempfile.TemporaryDirectory() as name:
        cut(posts.assign(image=posts["image"].map(names)), Path(name) / "in", args.shards, args.block_rows)
        for shard in (Path(name) / "in").iterdir():
            s3.put_file(str(shard), f"posts/in/{shard.name}")

    def fetch(below: str, target: Path) -> None:
        target.mkdir()
        for path in s3.ls(f"posts/{below}", detail=False):
            s3.get_file(path, str(target / Path(path).name))

    yield "s3://posts", fetch
    server.stop()


if __name__ == "__main__":
    sys.exit(main())
