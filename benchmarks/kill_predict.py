"""Kill `cotune predict` at random moments, resume it, and compare the file with that of a run that was never stopped.

    python benchmarks/kill_predict.py MODEL POSTS --kills 10 --n 600 --chunk-size 50

MODEL is a run or an export. Moments are drawn uniformly over the time of the run that was not stopped. Each row tells
when the process was killed (SIGKILL), how many chunks it left, how long resuming took, and whether the files are equal
byte for byte. The exit code is 1 if any differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cotune.environment import environment


def main() -> int:
    """Kill, resume, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("posts", type=Path, help="a table of lines, such as .csv, with absolute image paths")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--n", type=int, default=600, help="rows of the table")
    parser.add_argument("--chunk-size", type=int, default=50)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--kinds", default="parquet,csv,jsonl", help="kinds of output, in turn")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments, equal = random.Random(args.seed), 0
    kinds = args.kinds.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / f"posts{args.posts.suffix}"
        with args.posts.open(encoding="utf-8") as lines:
            table.write_text("".join(line for _, line in zip(range(args.n + 1), lines, strict=False)), encoding="utf-8")
        more = ["--chunk-size", str(args.chunk_size), "--engine", args.engine]

        def start(out: Path, *words: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "cotune", "predict", str(args.model), str(table), "--out", str(out)]
            return subprocess.Popen([*command, *more, *words], stderr=subprocess.DEVNULL)

        whole, took = {}, 0.0
        for kind in kinds:  # the first may have to export the run, and is timed no longer than the last
            started = time.perf_counter()
            if start(folder / f"whole.{kind}").wait():
                raise SystemExit("predict failed; run it by hand")
            took = time.perf_counter() - started
            whole[kind] = (folder / f"whole.{kind}").read_bytes()
        print(f"never stopped: {took:.1f} s\n\nkind     killed after  chunks left  resumed in  equal")
        for i in range(args.kills):
            kind = kinds[i % len(kinds)]
            out, moment = folder / f"{i}.{kind}", moments.uniform(0, took)
            process = start(out)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            left = len(list(folder.glob(f".{out.name}.unfinished/chunk-*")))
            started = time.perf_counter()
            code = start(out, "--resume").wait()
            took_again = time.perf_counter() - started
            same = code == 0 and out.read_bytes() == whole[kind] and not list(folder.glob(f".*{out.name}*"))
            equal += same
            print(f"{kind:<8} {moment:9.2f} s {left:12} {took_again:9.1f} s  {'yes' if same else 'NO'}", flush=True)
            shutil.rmtree(folder / f".{out.name}.unfinished", ignore_errors=True)
    print(f"\n{equal} of {args.kills} equal")
    print({key: value for key, value in environment(args.seed, "", "cpu").items() if key != "data_hash"})
    print({"rows": args.n, "chunk size": args.chunk_size, "engine": args.engine, "cores": os.cpu_count()})
    return 0 if equal == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
