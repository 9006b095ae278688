"""What the checks cost: of a run when it is opened, and of encoders before they are trained.

    python benchmarks/opening_cost.py RUN POSTS [--posts 100] [--repeats 5] [--json FILE]

Everything is measured in one process, after one call that is not counted, so that imports and the system's file
cache favour nobody. The least of the repeats is given: other work on the machine only adds. The encoders are those of
the run's settings; each is checked for every way of training.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cotune.checksums import damage
from cotune.data.posts import read_posts
from cotune.environment import environment
from cotune.predict import Predictor
from cotune.run import load_run, read_settings
from cotune.settings import FitConfig
from cotune.training.build import open_unchecked
from cotune.training.encoder_check import check_encoder

TUNES = ("frozen", "top", "joint", "lora")


def least(run: Callable[[], Any], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(run: Path, posts: Path, n: int, repeats: int) -> dict[str, float]:
    table = read_posts(posts).head(n).reset_index(drop=True)
    recorded = read_settings(run).get("checksums", {})
    predictor = Predictor(load_run(run), device="cpu")
    return {
        "load_run, verified": least(lambda: load_run(run), repeats),
        "load_run, not verified": least(lambda: load_run(run, verify=False), repeats),
        "checksums alone": least(lambda: list(damage(run, recorded)), repeats),
        f"predict {len(table)} posts": least(lambda: predictor.frame(table), repeats),
    }


def check_costs(run: Path, repeats: int) -> dict[str, float]:
    """Return the seconds that each way of training takes to check, for each encoder."""
    config = FitConfig(**read_settings(run)["fit"])
    seconds = {}
    for name, encoder in open_unchecked(config).items():
        encoder.fingerprint()  # training needs it in any case
        for tune in TUNES:
            wanted = config.model_copy(update={"tune": tune})
            seconds[f"{name} encoder, {tune}"] = least(partial(check_encoder, encoder, wanted), repeats)
        with tempfile.TemporaryDirectory() as cache:
            again = partial(check_encoder, encoder, config, Path(cache))
            seconds[f"{name} encoder, found in the cache"] = least(again, repeats)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--posts", dest="n", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    seconds = measure(given.run, given.posts, given.n, given.repeats)
    verified, plain, _, predicting = seconds.values()
    about = environment(0, None, "cpu")
    share = max(0.0, verified - plain) / (plain + predicting)
    checks = check_costs(given.run, given.repeats)
    parameters = read_settings(given.run)["parameters"]["total"]
    print("| what | seconds |\n|---|---:|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.3f} |")
    print(f"\nVerifying adds {share:.1%} to opening the run and predicting {given.n} posts.")
    print("\n| check of an encoder | seconds |\n|---|---:|")
    for name, value in checks.items():
        print(f"| {name} | {value:.3f} |")
    print()
    print(f"{parameters:,} parameters; {about['processor']}, {about['threads']} threads, {platform.platform()}")
    print(", ".join(f"{name} {version}" for name, version in about["packages"].items()))
    if given.json is not None:
        found = {"seconds": seconds, "checks": checks, "share": share, "parameters": parameters, "environment": about}
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
