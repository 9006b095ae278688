"""What 10^6, 10^8 and 10^9 posts take: a simulation of the queue of blocks, actors, failures and storage.

    python benchmarks/scale_simulation.py                              # the tables of docs/scale_estimate.md
    python benchmarks/scale_simulation.py --inputs mine.json           # with your measurements and prices
    python benchmarks/scale_simulation.py --measured ray.json          # compare with a run on Ray
    python benchmarks/scale_simulation.py --measure EXPORT POSTS       # bytes of a post, start of an actor

Blocks of posts wait in a queue. Each actor (2 cores, as measured) fetches the next block while it scores one, as
`cotune predict` does, and writes its rows. The head hands out one block after the other; the storage gives so many
bits a second in all, and each machine so many. Machines take their time to come up, fail at random (with all their
actors; the blocks under way are queued again) and are replaced; single blocks fail and are tried again. Scoring takes
1 / inference + 1 / reading for each post, as both share the cores. Inputs are in scale_inputs.json, each with its
source; the same seed gives the same tables.

A file for --measured holds {"posts", "block_posts", "actors", "inference", "reading", "posts_per_second"}, perhaps
"start_seconds": what one actor infers and reads alone, and what came out.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import simpy

INPUTS = Path(__file__).with_name("scale_inputs.json")
GBIT = 1e9 / 8


@dataclass(frozen=True)
class Job:
    """What is to be done, by whom, and what goes wrong.

    Attributes
    ----------
    posts, block_posts : int
        How many in all, and in a block.
    seconds_per_post : float
        Of an actor, reading and inference.
    machines, actors : int
        Machines, and actors on each.
    bytes_in, bytes_out : float
        Of a post, from and to the storage.
    requests : float
        Of a post: 1 if every image is an object of its own, 0 if shards hold the images.
    bandwidth, storage : float
        Bytes a second of a machine and of the storage.
    request_seconds, requests_at_once : float
        How long an object takes to come, and how many an actor asks for at the same time.
    dispatch : float
        Seconds of the head for each block.
    machine_start, actor_start : float
        Seconds.
    hours_between_failures : float
        Of one machine, on average.
    block_errors : float
        Share of blocks that fail without their machine.
    variation : float
        Coefficient of variation of the time of a block.
    arrivals : float
        Blocks a second that come in at random; 0 if all are there at the start.
    """

    posts: int
    block_posts: int
    seconds_per_post: float
    machines: int = 1
    actors: int = 1
    bytes_in: float = 0
    bytes_out: float = 0
    requests: float = 0
    bandwidth: float = math.inf
    storage: float = math.inf
    request_seconds: float = 0
    requests_at_once: float = 1
    dispatch: float = 0
    machine_start: float = 0
    actor_start: float = 0
    hours_between_failures: float = math.inf
    block_errors: float = 0
    variation: float = 0
    arrivals: float = 0


@dataclass
class Outcome:
    """What came out of a simulation.

    Attributes
    ----------
    seconds : float
        Until the last block was written.
    machine_seconds : float
        That machines were paid for.
    scored : list of int
        How often each block was written; 1 each.
    lost, failed : int
        Blocks that were begun in vain, and of these the ones whose machine failed.
    waits : list of float
        From the arrival of each block until it was scored.
    busy : dict
        Share of the time that processors, links, storage and head were at work.
    """

    seconds: float = 0
    machine_seconds: float = 0
    scored: list[int] = field(default_factory=list)
    lost: int = 0
    failed: int = 0
    waits: list[float] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)

    @property
    def bottleneck(self) -> str:
        """What was at work for the largest share of the time."""
        return max(self.busy, key=lambda name: self.busy[name])


class Simulation:
    """One job on one cluster.

    Parameters
    ----------
    job : Job
        What is simulated.
    seed : int
        Of all that happens at random.
    """

    def __init__(self, job: Job, seed: int = 0) -> None:
        self.job, self.random, self.env = job, random.Random(seed), simpy.Environment()
        self.blocks = math.ceil(job.posts / job.block_posts)
        self.queue: deque[int] = deque()
        self.arrived = [0.0] * self.blocks
        self.left = self.blocks
        self.news = self.env.event()  # a block came, or came back, or all are done
        self.all_done = self.env.event()
        self.head = simpy.Resource(self.env)
        # An actor's part of its machine's bandwidth; the storage serves as many at once as it has bandwidth for.
        self.share = job.bandwidth / job.actors
        channels = 10**6 if math.isinf(job.storage) or math.isinf(self.share) else job.storage / self.share
        self.share = min(self.share, job.storage)
        self.channels = simpy.Resource(self.env, max(1, int(channels)))
        self.worked = {"processors": 0.0, "links": 0.0, "storage": 0.0, "head": 0.0}
        self.found = Outcome(scored=[0] * self.blocks)

    def run(self) -> Outcome:
        """Simulate until every block is written."""
        self.env.process(self._arrive())
        machines = [self.env.process(self._machine()) for _ in range(self.job.machines)]
        self.env.run(self.all_done)
        found = self.found
        found.seconds = self.env.now
        self.env.run(simpy.AllOf(self.env, machines))
        actors = self.job.machines * self.job.actors
        capacity = {"processors": actors, "links": actors, "storage": self.channels.capacity, "head": 1}
        found.busy = {name: spent / capacity[name] / found.seconds for name, spent in self.worked.items()}
        return found

    def _arrive(self) -> Iterator[simpy.Event]:
        for block in range(self.blocks):
            if self.job.arrivals:
                yield self.env.timeout(self.random.expovariate(self.job.arrivals))
            self.arrived[block] = self.env.now
            self.queue.append(block)
            self._tell()
        yield self.env.timeout(0)

    def _tell(self) -> None:
        self.news.succeed()
        self.news = self.env.event()

    def _machine(self) -> Iterator[simpy.Event]:
        """Come up, work, fail, be replaced, until all is done."""
        since = self.env.now
        while self.left:
            yield self.env.timeout(self.job.machine_start) | self.all_done
            actors = [self.env.process(self._actor()) for _ in range(self.job.actors if self.left else 0)]
            mean = self.job.hours_between_failures * 3600
            life = self.random.expovariate(1 / mean) if math.isfinite(mean) else None
            yield self.all_done if life is None else self.env.timeout(life) | self.all_done
            for actor in actors:
                if actor.is_alive:
                    actor.interrupt()
        self.found.machine_seconds += self.env.now - since

    def _actor(self) -> Iterator[simpy.Event]:
        held: list[int] = []
        coming: simpy.Process | None = None
        try:
            yield self.env.timeout(self.job.actor_start)
            coming = self.env.process(self._fetch(held))
            while True:
                block = yield coming
                if block is None:
                    return
                coming = self.env.process(self._fetch(held))
                yield from self._score(block)
                held.remove(block)
        except simpy.Interrupt:
            if coming is not None and coming.is_alive:
                coming.interrupt()
            if self.left:
                self.found.failed += len(held)
                self._again(held)

    def _fetch(self, held: list[int]) -> Iterator[simpy.Event]:
        """Take the next block and bring its posts; None when nothing is left."""
        job = self.job
        try:
            while not self.queue:
                if not self.left:
                    return None
                yield self.news
            block = self.queue.popleft()
            held.append(block)
            yield from self._use(self.head, "head", job.dispatch)
            posts = self._posts(block)
            asking = posts * job.requests * job.request_seconds / job.requests_at_once
            moving = posts * job.bytes_in / self.share
            yield from self._use(self.channels, "storage", moving)
            if asking > moving:  # the answers come in while others are asked for
                yield self.env.timeout(asking - moving)
            self.worked["links"] += max(asking, moving)
        except simpy.Interrupt:
            return None
        return block

    def _use(self, resource: simpy.Resource, name: str, seconds: float) -> Iterator[simpy.Event]:
        if seconds:
            with resource.request() as turn:
                yield turn
                yield self.env.timeout(seconds)
                self.worked[name] += seconds

    def _score(self, block: int) -> Iterator[simpy.Event]:
        job = self.job
        started = self.env.now
        sigma = math.sqrt(math.log(1 + job.variation**2))
        factor = self.random.lognormvariate(-(sigma**2) / 2, sigma) if sigma else 1.0
        yield self.env.timeout(self._posts(block) * job.seconds_per_post * factor)
        self.worked["processors"] += self.env.now - started
        if self.random.random() < job.block_errors:
            self._again([block])
            return
        yield from self._use(self.channels, "storage", self._posts(block) * job.bytes_out / self.share)
        self.found.scored[block] += 1
        self.found.waits.append(started - self.arrived[block])
        self.left -= 1
        if not self.left:
            self.all_done.succeed()
            self._tell()

    def _again(self, blocks: Sequence[int]) -> None:
        """Queue blocks again, before all others."""
        self.found.lost += len(blocks)
        self.queue.extendleft(blocks)
        self._tell()

    def _posts(self, block: int) -> int:
        return min(self.job.block_posts, self.job.posts - block * self.job.block_posts)


# ---- the tables --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One row of the estimate: how so many posts are scored."""

    posts: int
    machines: int
    engine: str
    images: str
    block_posts: int
    hours_between_failures: float | None = None
    large: bool = False


PLANS = (
    Plan(10**6, 1, "FP32", "files", 10_000),
    Plan(10**6, 1, "INT8", "shards", 10_000),
    Plan(10**8, 1, "FP32", "files", 20_000),
    Plan(10**8, 16, "FP32", "files", 20_000),
    Plan(10**8, 16, "INT8", "files", 20_000),
    Plan(10**8, 16, "INT8", "shards", 20_000),
    Plan(10**8, 64, "INT8", "shards", 20_000),
    Plan(10**8, 64, "INT8", "shards", 500),
    Plan(10**9, 64, "INT8", "shards", 20_000),
    Plan(10**9, 64, "INT8", "shards", 20_000, 5),
    Plan(10**9, 256, "INT8", "shards", 20_000),
    Plan(10**9, 64, "INT8", "shards", 20_000, large=True),
    Plan(10**9, 256, "INT8", "shards", 20_000, large=True),
)


def job_of(plan: Plan, inputs: Mapping[str, Any]) -> Job:
    """Return the job of a row; actors have as many cores as they were measured with."""
    engine, assumed = inputs["engines"][plan.engine], inputs["assumed"]
    reading = inputs["large_images"] if plan.large else inputs["reading"]
    cores = engine["cores"]
    alone = 1 / engine["posts_per_second"] + reading["cores"] / cores / reading["posts_per_second"]
    return Job(
        plan.posts,
        plan.block_posts,
        alone / assumed["scaling"],
        machines=plan.machines,
        actors=assumed["machine_cores"] // cores,
        bytes_in=inputs["large_images" if plan.large else "post"]["bytes_in"],
        bytes_out=inputs["post"]["bytes_out"],
        requests=1 if plan.images == "files" else 0,
        bandwidth=assumed["machine_bandwidth_gbit"] * GBIT,
        storage=assumed["storage_gbit"] * GBIT,
        request_seconds=assumed["request_seconds"],
        requests_at_once=assumed["requests_at_once"],
        dispatch=assumed["dispatch_seconds"],
        machine_start=assumed["machine_start_seconds"],
        actor_start=inputs["actor"]["start_seconds"],
        hours_between_failures=plan.hours_between_failures or assumed["hours_between_failures"],
        block_errors=assumed["block_errors"],
        variation=assumed["variation"],
    )


def estimate(plan: Plan, inputs: Mapping[str, Any], seed: int) -> list[str]:
    """Return the cells of a row."""
    job = job_of(plan, inputs)
    found = Simulation(job, seed).run()
    prices = inputs["prices"]
    read, written = job.posts * job.bytes_in, job.posts * job.bytes_out
    blocks = len(found.scored)
    machines = found.machine_seconds / 3600 * prices["machine_hour"]
    requests = (job.posts * job.requests + blocks) / 1000 * prices["thousand_reads"]
    requests += blocks / 1000 * prices["thousand_writes"]
    month = (read + written) / 1e9 * prices["storage_gb_month"]
    kind = f"large {plan.images}" if plan.large else plan.images
    kind += f", a failure every {plan.hours_between_failures:g} h" if plan.hours_between_failures else ""
    return [
        f"10^{round(math.log10(plan.posts))}",
        f"{plan.machines}",
        f"{plan.engine}, {kind}, blocks of {plan.block_posts:,}",
        f"{found.seconds / 3600:,.1f}",
        f"{job.posts / found.seconds:,.0f}",
        f"{read / 1e9:,.0f} + {written / 1e9:,.1f}",
        f"{(read + written) * 8 / found.seconds / 1e9:.2f}",
        f"{(machines + requests) / job.posts * 1e6:,.2f}",
        f"{machines + requests:,.0f} + {month:,.0f}",
        f"{found.lost / blocks:.2%}".replace("%", " %"),
        f"{found.bottleneck} {found.busy[found.bottleneck]:.0%}".replace("%", " %"),
    ]


COLUMNS = (
    "posts", "machines", "how", "hours", "posts/s", "GB read + written", "Gbit/s",
    "USD per million posts", "USD in all + a month of storage", "blocks done again", "bottleneck, at work",
)  # fmt: skip


def measured_point(point: Mapping[str, Any], seed: int = 0) -> tuple[float, float]:
    """Return posts a second, simulated and measured; an actor's own rates are taken from the measurement."""
    seconds = 1 / point["inference"] + 1 / point["reading"]
    job = Job(
        point["posts"],
        point["block_posts"],
        seconds,
        actors=point["actors"],
        actor_start=point.get("start_seconds", 0),
    )
    return point["posts"] / Simulation(job, seed).run().seconds, point["posts_per_second"]


def arrival_rows(inputs: Mapping[str, Any], seed: int) -> Iterator[list[str]]:
    """Yield how long posts wait that come in all day, 10^8 a day in blocks of 1,000, for numbers of machines."""
    for machines in (1, 2, 3):
        plan = Plan(10**7, machines, "INT8", "shards", 1000)
        job = replace(job_of(plan, inputs), arrivals=10**8 / 86400 / 1000, machine_start=0, actor_start=0)
        found = Simulation(job, seed).run()
        waits = sorted(found.waits)
        stable = job.arrivals * 1000 * job.seconds_per_post < machines * job.actors
        times = (statistics.fmean(waits), waits[int(0.95 * len(waits))])
        cells = [f"{seconds:,.1f}" if stable else "grows" for seconds in times]
        yield [f"{machines}", f"{found.busy['processors']:.0%}".replace("%", " %"), *cells]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


# ---- measuring what the simulation takes ----------------------------------------------------------------


def measure(export: Path, posts: Path, repeats: int = 5) -> dict[str, Any]:
    """Return bytes of a post and seconds until an actor of its own process has scored a post."""
    from cotune.data.posts import read_posts

    found = read_posts(posts).dropna(subset=["image"])
    sizes = [Path(image).stat().st_size for image in found["image"] if Path(image).is_file()]
    texts = [len(text.encode()) for text in found["text"].dropna()]
    code = (
        "import sys\nfrom pathlib import Path\nfrom cotune.export.package import open_export\n"
        "from cotune.export.predictor import ExportedPredictor\nfrom cotune.data.posts import iter_posts\n"
        "chunk = next(iter_posts(sys.argv[2], 1000))\nfrom cotune.data.predictions import predictions_writer\n"
        "with ExportedPredictor(open_export(Path(sys.argv[1]))) as scorer:\n"
        "    frame = scorer.frame(chunk.head(int(sys.argv[3])))\n"
        "    with predictions_writer(sys.argv[4], scorer.columns(), scorer.text_columns()) as write:\n"
        "        write(frame)\n"
    )
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "rows.parquet"
        seconds = []
        for n in [*[1] * repeats, 1000]:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code, str(export), str(posts), str(n), str(out)], check=True)
            seconds.append(time.perf_counter() - started)
        written = out.stat().st_size / min(1000, len(found))
    return {
        "post": {"bytes_in": round(statistics.fmean(sizes) + statistics.fmean(texts)), "bytes_out": round(written)},
        "actor": {"start_seconds": round(statistics.median(seconds[:-1]), 2)},
        "spread": [round(min(seconds[:-1]), 2), round(max(seconds[:-1]), 2)],
    }


def main() -> None:
    """Simulate, or measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, default=INPUTS)
    parser.add_argument("--measured", type=Path, nargs="*", default=[])
    parser.add_argument("--measure", type=Path, nargs=2, metavar=("EXPORT", "POSTS"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure), indent=2))
        return
    inputs = json.loads(args.inputs.read_text(encoding="utf-8"))
    points = [inputs["measured_point"], *(json.loads(path.read_text(encoding="utf-8")) for path in args.measured)]
    rows = []
    for point in points:
        simulated, measured = measured_point(point, args.seed)
        rows.append([f"{point['actors']}", f"{point['posts']:,}", f"{simulated:,.1f}", f"{measured:,.1f}",
                     f"{simulated / measured - 1:+.1%}".replace("%", " %")])  # fmt: skip
    print(f"Simulated and measured (seed {args.seed}):\n")
    print(table(["actors", "posts", "posts/s simulated", "posts/s measured", "difference"], rows))
    print("\nEstimate:\n")
    print(table(COLUMNS, [estimate(plan, inputs, args.seed) for plan in PLANS]))
    print("\n10^8 posts a day that come in at random, in blocks of 1,000 (INT8, shards):\n")
    columns = ["machines", "processors at work", "mean wait of a block, s", "95 % wait less than, s"]
    print(table(columns, list(arrival_rows(inputs, args.seed))))


if __name__ == "__main__":
    main()
