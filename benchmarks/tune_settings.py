"""What a search for settings gains: the best settings and the defaults on posts that no trial saw.

    python benchmarks/tune_settings.py posts.csv --out DIR [--trials 30] [--tune frozen,top] [--seed 42]

One search for each way of tuning, in a folder of its own in DIR. A stopped run goes on where it was; a finished one
prints its table again.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from pathlib import Path

from cotune.data.posts import read_posts
from cotune.environment import environment
from cotune.files import write_text
from cotune.progress import TerminalProgress
from cotune.report.tune_report import REPORT, tune_report
from cotune.settings import make_config
from cotune.tuning import TunePlan, TuneResult, tune


def main() -> None:
    """Search, and print a row for each search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--tune", default="frozen,top")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    posts = read_posts(args.posts, require_labels=True)
    head = ["tuning", "trials", "seconds a trial", "validation, defaults", "validation, best (too good)",
            "test, defaults [95 %]", "test, best [95 %]", "best - defaults", "p"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for mode in args.tune.split(","):
        fit = make_config({"tune": mode, "seed": args.seed, "precision": args.precision})
        out = args.out / mode
        found = tune(posts, out, TunePlan(fit, trials=args.trials), resume=True, progress=TerminalProgress())
        write_text(out / REPORT, tune_report(found))
        if found.interrupted:
            raise SystemExit(f"stopped; the same command goes on with {out}")
        rows.append(_row(mode, found))
    for row in rows:
        print(f"| {' | '.join(row)} |")
    about = environment(args.seed, found.facts["data"], "cpu")
    versions = ", ".join(f"{name} {version}" for name, version in found.facts["versions"].items())
    print(f"\n{about['processor']}, {about['threads']} threads; {versions}; seed {args.seed}; {found.facts['posts']}")


def _row(mode: str, found: TuneResult) -> list[str]:
    assert found.compared is not None
    assert found.best is not None
    states = Counter(trial.state for trial in found.trials)
    seconds = [trial.seconds for trial in found.trials]
    key, test = found.task.main_score, found.compared.test
    scores = [getattr(found.compared, name)[key] for name in ("defaults", "best")]
    return [
        mode,
        ", ".join(f"{n} {state}" for state, n in states.items()),
        f"{statistics.median(seconds):.0f} ({min(seconds):.0f} to {max(seconds):.0f})",
        f"{found.trials[0].score:.4f}",
        f"{found.best.score:.4f}",
        *(f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}]" for score in scores),
        f"{test.difference:+.4f} ({test.low:+.4f} to {test.high:+.4f})",
        f"{test.p:.3f}",
    ]


if __name__ == "__main__":
    main()
