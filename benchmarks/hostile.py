"""Hostile posts through every command and the service: what is read, what is refused by name, what crashes or hangs.

    python scripts/make_hostile_posts.py CORPUS
    python benchmarks/hostile.py CORPUS [--run RUN] [--only rows,tables,import,service,large] [--commands check,predict]
                                 [--out FILE.json] [--add FILE.json ...]

Commands run in processes that are watched (benchmarks/guarded_commands.py): a traceback, a signal, another exit code
than 0 and 2, or more memory than `--memory` is a crash, more CPU time than its limit a hang. A command over a table of
many posts is one input for each of its rows: a row is *named* where its error is told with it, *read* where it is
used, and *silent* where it is neither. Without `--run`, a model of tiny encoders with random weights is trained first,
as this is about reading, not about encoding. What takes long may be done in parts: `--add` prints the results of
earlier ones too (`--only ""`: of these alone). Exit code 1 where anything crashed, hung, was silent, or not as the
corpus expects.
"""

from __future__ import annotations

import argparse
import base64
import csv
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guarded_commands import Command, Outcome, run_guarded
from running_service import RunningService

from cotune.environment import environment
from cotune.files import write_json

ROOT = Path(__file__).parents[1]
#: The tables that have a hostile post in each row.
ROW_TABLES = ("images.csv", "texts.jsonl", "places.jsonl")
PARTS = ("rows", "tables", "import", "service", "large")
ENDS = ("read", "named", "silent", "crashed", "hung")
#: A text and an image encoder of tests/tiny.py.
ENCODERS = ("distilbert", "timm-resnet")
_POLICY = "class: pos\nact: {precision: 0.6}\nallow: {recall: 0.6}\n"
_TINY = ("--epochs", "1", "--min-epochs", "1", "--probe-epochs", "1", "--width", "16", "--device", "cpu")


@dataclass(frozen=True)
class Asked:
    """What is to be done.

    Attributes
    ----------
    parts : tuple of str
        Which of `PARTS`.
    tables : tuple of str
        Which of `ROW_TABLES`.
    commands : tuple of str
        Which of `BY_ROW` and `AS_A_WHOLE`.
    """

    parts: tuple[str, ...] = PARTS
    tables: tuple[str, ...] = ROW_TABLES
    commands: tuple[str, ...] = ()


class Results:
    """What came of every input, by kind and by command."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        self.by_command: dict[str, Counter[str]] = defaultdict(Counter)
        self.commands: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.wrong: list[str] = []

    def join(self, other: dict[str, Any]) -> None:
        """Add what came of other parts."""
        for mine, theirs in ((self.by_kind, other["by_kind"]), (self.by_command, other["by_command"])):
            for name, counts in theirs.items():
                mine[name].update(counts)
        self.commands += other["commands"]
        self.refused += other["refused"]
        self.wrong += other["wrong"]

    def command(self, command: str, table: str, outcome: Outcome) -> str | None:
        """Note how a command ended; return "crashed" or "hung", None where it answered."""
        self.commands.append({"command": command, "table": table, "ended": outcome.ended, "code": outcome.code,
                              "seconds": round(outcome.seconds, 2), "peak": outcome.peak})  # fmt: skip
        ended = "hung" if outcome.ended == "hung" else "crashed" if outcome.crashed else None
        if ended:
            last = (outcome.stderr.strip().splitlines() or [""])[-1]
            self.wrong.append(f"{command} {table}: {ended} ({outcome.ended}, code {outcome.code}): {last[:300]}")
        return ended

    def add(self, line: dict[str, Any], answers: dict[str, str]) -> None:
        """Note what each command made of an input."""
        found = set(answers.values())
        worst = next(end for end in ("hung", "crashed", "silent", "named", "read") if end in found)
        self.by_kind[line["kind"]][worst] += 1
        for command, end in answers.items():
            self.by_command[command][end] += 1
        where = f"{line['file']}" + (f", row {line['row']} ({line['id']})" if line["row"] else "")
        if "silent" in found or line["expected"] not in ("either", *found):
            self.wrong.append(f"{where}: {line['kind']}: expected {line['expected']}, found {answers}")


def main() -> int:
    """Go through the corpus, print the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--run", type=Path, help="a run of two labels, neg and pos, on text and image")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    parser.add_argument("--memory", type=float, default=4.0, help="GB that a process may have")
    parser.add_argument("--work", type=Path, help="folder for runs and results; a temporary one by default")
    parser.add_argument(
        "--tables",
        default=",".join(ROW_TABLES),
        help="of the tables with a hostile post in each row, those to take, with commas",
    )
    parser.add_argument(
        "--commands", default=",".join((*BY_ROW, *AS_A_WHOLE)), help="commands over tables, those to take, with commas"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--add", type=Path, nargs="+", default=[], help="results of other parts, to print them together"
    )
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=args.work, prefix="cotune-hostile-"))
    os.environ["XDG_CONFIG_HOME"] = str(work / "settings")  # imports note where images lie: not for the user
    try:
        results = Results()
        for earlier in args.add:
            results.join(json.loads(earlier.read_text(encoding="utf-8")))
        asked = Asked(*(tuple(filter(None, words.split(","))) for words in (args.only, args.tables, args.commands)))
        if asked.parts:
            go_through(args.corpus.resolve(), work, results, asked, run=args.run, memory=args.memory)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(results)
    if args.out is not None:
        about = {**environment(0, None, "cpu"), "command": None}
        write_json(args.out, {**vars(results), "environment": about})
    return 1 if results.wrong else 0


def go_through(
    corpus: Path, work: Path, results: Results, asked: Asked, *, run: Path | None = None, memory: float = 4.0
) -> None:
    """Take a corpus through cotune.

    Parameters
    ----------
    corpus : Path
        What scripts/make_hostile_posts.py has written.
    work : Path
        Folder for everything that is written.
    results : Results
        Takes what came of it.
    asked : Asked
        Which parts of it, and which commands.
    run : Path or None
        A trained model; None trains one of tiny encoders.
    memory : float
        GB that a process may have.
    """
    lines = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    of_file: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        of_file[line["file"]].append(line)
    save_encoders(work)
    commands = Commands(corpus, work, run or train(corpus, work, memory), memory)
    if "rows" in asked.parts:
        for table in asked.tables:
            rows_through(table, of_file[table], asked.commands, commands, results)
    if "tables" in asked.parts:
        tables_through(
            [line for line in lines if line["file"].startswith("tables/")], asked.commands, commands, results
        )
    if "import" in asked.parts:
        for name in ("mvsa", "hateful_memes"):
            import_through(name, of_file[f"raw/{name}"], commands, results)
    if "service" in asked.parts:
        for table in asked.tables:
            service_through(table, of_file[table], commands, results)
    if "large" in asked.parts and "many_rows.csv" in of_file:
        large_through(of_file["many_rows.csv"][0], commands, results)


def save_encoders(work: Path) -> None:
    """Write tiny encoders of random weights."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import save_encoder

    for kind in ENCODERS:
        save_encoder(kind, work / "encoders" / kind)


def train(corpus: Path, work: Path, memory: float) -> Path:
    """Train the first model on the corpus's sound posts."""
    made = Commands(corpus, work, work, memory)
    outcome = next(iter(made.run([Command("first", made.make("fit", corpus / "posts.csv", "first"))])))
    if outcome.code:
        raise SystemExit(f"the first model cannot be trained: {outcome.stderr[-2000:]}")
    return made.out("fit", "first")


class Commands:
    """Makes commands and runs them."""

    def __init__(self, corpus: Path, work: Path, run: Path, memory: float) -> None:
        self.corpus, self.work, self.model, self.memory = corpus, work, run, memory
        self.policy = work / "policy.yaml"
        self.policy.write_text(_POLICY, encoding="utf-8")
        text, image = (str(work / "encoders" / kind) for kind in ENCODERS)
        self.encoders = ("--cache", str(work / "cache"), "--text-encoder", text, "--image-encoder", image)

    def make(self, command: str, table: Path, name: str) -> tuple[str, ...]:
        """Return the arguments of a command over a table."""
        run, posts, out = str(self.model), str(table), str(self.out(command, name))
        return {
            "check": ("check", posts, "--json"),
            "predict": ("predict", run, posts, "--out", out),
            "evaluate": ("evaluate", run, posts, "--out", out, "--bootstrap", "20", "--by", "@size", "--by", "@length"),
            "explain": ("explain", run, posts, "--out", out, "--limit", "5", "--emap", "50", "--word-posts", "20"),
            "drift": ("drift", run, posts, "--out", out, "--permutations", "100", "--sample", "500"),
            "calibrate": ("calibrate", run, posts, "--dry-run", "--bootstrap", "20"),
            "decide": ("decide", run, posts, "--policy", str(self.policy), "--calibrate-on", posts, "--out", out,
                       "--audit", f"{out}.jsonl"),
            "fit": ("fit", posts, "--out", out, *self.encoders, *_TINY, "--no-estimate"),
            "bench": ("bench", posts, "--out", out, *self.encoders, "--folds", "2", "--methods", "concat",
                      "--epochs", "1",
                      "--set", "probe-epochs=1", "--set", "min-epochs=1", "--set", "width=16", "--bootstrap", "20",
                      "--emap", "0"),
        }[command]  # fmt: skip

    def out(self, command: str, name: str) -> Path:
        """Return where a command writes."""
        return self.work / "out" / (f"{command}-{name}.csv" if command == "predict" else f"{command}-{name}")

    def run(self, commands: Iterable[Command]) -> Iterator[Outcome]:
        """Run them one after the other."""
        return run_guarded(commands, self.work / "said", memory=int(self.memory * 1e9))


# ---- tables with a hostile post in each row ----------------------------------------------------------------

#: Commands that answer each row, and those that leave rows out and say how many and which first.
BY_ROW = ("check", "predict", "evaluate", "explain", "decide")
AS_A_WHOLE = ("fit", "bench", "drift", "calibrate")


def rows_through(
    table: str, lines: Sequence[dict[str, Any]], names: Sequence[str], commands: Commands, results: Results
) -> None:
    """Take a table through the commands of these names."""
    name = Path(table).stem
    seconds = 120 + 0.1 * len(lines)
    asked = [
        Command(f"{command}-{name}", commands.make(command, commands.corpus / table, name), seconds)
        for command in names
    ]
    answers: dict[str, dict[int, str]] = {}
    for command, outcome in zip(names, commands.run(asked), strict=True):
        tell(f"{command} {table}", outcome)
        ended = results.command(command, table, outcome)
        if ended is None and command in BY_ROW and outcome.code == 0:
            answers[command] = rows_of(command, commands.out(command, name), outcome, lines)
        elif ended is None and outcome.code == 2:
            # What learns from all posts together may refuse them, such as labels that tell nothing.
            where = results.refused if command in AS_A_WHOLE else results.wrong
            where.append(f"{command} {table}: {outcome.stderr.strip().splitlines()[-1][:300]}")
        else:
            answers[command] = {line["row"]: ended or "read" for line in lines}
    whole = {command: found for command, found in answers.items() if command in AS_A_WHOLE and "read" in found.values()}
    for line in lines:
        mine = {command: found.get(line["row"], "silent") for command, found in answers.items() if command not in whole}
        results.add(line, mine)
        for command in whole:  # they say how many rows they leave out, and name the first
            results.by_command[command]["named" if "named" in mine.values() else "read"] += 1


def rows_of(command: str, out: Path, outcome: Outcome, lines: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Return what a command made of each row."""
    if command == "check":
        found = json.loads(outcome.stdout)
        named = {each["row"] for key in ("image_troubles", "row_errors") for each in found[key]} | set(
            found["without_both"]
        )
        return {line["row"]: "named" if line["row"] in named else "read" for line in lines}
    path = (
        out / {"evaluate": "predictions.csv", "explain": "modality.csv", "decide": "decisions.csv"}[command]
        if command != "predict"
        else out
    )
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    if len(rows) != len(lines):
        return {}
    return {
        line["row"]: "named" if row["error"] else "read" if row["label"] else "silent"
        for line, row in zip(lines, rows, strict=True)
    }


# ---- whole files -------------------------------------------------------------------------------------------


def tables_through(lines: Sequence[dict[str, Any]], names: Sequence[str], commands: Commands, results: Results) -> None:
    """Take each table through the commands of these names, those that were changed at random through two at most."""
    asked = []
    for line in lines:
        few = line["kind"].startswith("table: mutated")
        asked += [(line, command) for command in names if not few or command in ("check", "predict")]
    made = (
        Command(f"{command}-{line['id']}", commands.make(command, commands.corpus / line["file"], line["id"]), 60)
        for line, command in asked
    )
    answers: dict[str, dict[str, str]] = defaultdict(dict)
    for number, ((line, command), outcome) in enumerate(zip(asked, commands.run(made), strict=True)):
        if number % 200 == 0 or outcome.seconds > 20:
            tell(f"{command} {line['file']} ({number:,} of {len(asked):,})", outcome)
        answers[line["file"]][command] = results.command(command, line["file"], outcome) or ended_of(line, outcome)
        remove(commands.out(command, line["id"]))
    for line in lines:
        found = answers[line["file"]]
        if not found:
            continue
        # Commands that need labels may refuse a table that others read.
        results.by_kind[line["kind"]][
            worst_of(end for command, end in found.items() if command in ("check", "predict") or end in ENDS[2:])
        ] += 1
        for command, end in found.items():
            results.by_command[command][end] += 1
        if "silent" in found.values() or line["expected"] not in ("either", found.get("predict", line["expected"])):
            results.wrong.append(f"{line['file']}: {line['kind']}: expected {line['expected']}, found {found}")


def ended_of(line: dict[str, Any], outcome: Outcome) -> str:
    """Tell whether a file was read, or refused by name: in one line that says which file, row or label."""
    if outcome.code == 0:
        return "read"
    said = [text for text in outcome.stderr.splitlines() if text.startswith("error: ")]
    named = len(said) == 1 and any(
        word in said[0] for word in (Path(line["file"]).name, "row", "line", "label", "class", "post")
    )
    return "named" if named else "silent"


def worst_of(ends: Iterable[str]) -> str:
    found = set(ends)
    return next(end for end in ("hung", "crashed", "silent", "named", "read") if end in found)


def remove(path: Path) -> None:
    """Remove what a command wrote."""
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)


# ---- raw data sets -----------------------------------------------------------------------------------------


def import_through(name: str, lines: Sequence[dict[str, Any]], commands: Commands, results: Results) -> None:
    """Import a raw data set, and take the table it becomes through `check` and `predict`."""
    out = commands.work / f"{name}.csv"
    kind = name.replace("_", "-")
    more = ("--splits", "train") if name == "hateful_memes" else ()
    args = ("import", kind, str(commands.corpus / "raw" / name), "--out", str(out), "--json", *more)
    asked = [Command(f"import-{name}", args, 300)]
    asked += [
        Command(f"{command}-{name}", (*commands.make(command, out, name), "--allow-outside"), 600)
        for command in ("check", "predict")
    ]
    for command, outcome in zip(("import", "check", "predict"), commands.run(asked), strict=True):
        tell(f"{command} {name}", outcome)
        ended = results.command(command, f"raw/{name}", outcome)
        if ended is None and outcome.code:
            results.wrong.append(f"{command} {name}: {outcome.stderr.strip()[-300:]}")
        if command != "import":
            continue
        found = (
            json.loads(outcome.stdout)
            if ended is None and outcome.code == 0
            else {"posts": 0, "lines": 0, "problems": []}
        )
        read, named = found["posts"], found["lines"] - found["posts"]
        told = sum(len(found.get(key, [])) for key in ("problems", "conflicts", "ties"))
        if ended is None and told < named:
            results.wrong.append(f"import {name}: {named} records left out, {told} of them named")
        counts = {"read": read, "named": named} if ended is None else {ended: len(lines)}
        for counter in (results.by_kind[lines[0]["kind"]], results.by_command["import"]):
            counter.update(counts)


# ---- the service -------------------------------------------------------------------------------------------


def service_through(table: str, lines: Sequence[dict[str, Any]], commands: Commands, results: Results) -> None:
    """Send each post of a table to a service, on one connection after the other."""
    started = time.perf_counter()
    counts: Counter[str] = Counter()
    with RunningService(str(commands.model), ["--max-body", "64"]) as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for line, post in zip(lines, posts_of(commands.corpus / table), strict=True):
            body = json.dumps({"posts": [{"fields": post}]})
            try:
                connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                end = answered(answer.status, answer.read())
            except TimeoutError:
                end = "hung"
            except (OSError, http.client.HTTPException):
                end = "crashed"
            if end not in ("read", "named"):
                results.wrong.append(f"service, {table}, row {line['row']} ({line['id']}): {end}")
                connection.close()
            counts[end] += 1
        connection.close()
        peak = max(service.memory, default=0)
        results.wrong += [f"service, {table}: logged {error}" for error in service.errors[:5]]
    results.by_command["service"].update(counts)
    results.wrong += [f"service, {table}: exit code {service.code}"] if service.code else []
    seconds = time.perf_counter() - started
    results.commands.append(
        {
            "command": "service",
            "table": table,
            "ended": "exit",
            "code": service.code,
            "seconds": round(seconds, 2),
            "peak": peak,
        }
    )
    print(f"service {table}: {dict(counts)} in {seconds:.0f} s, peak {peak / 1e6:,.0f} MB", flush=True)


def posts_of(table: Path) -> Iterator[dict[str, Any]]:
    """Yield the fields of each post, as a client would send them: files as base64, cells as they are."""
    if table.suffix == ".csv":
        with table.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                data = (table.parent / row["image"]).read_bytes()
                yield {"text": row["text"], "image": base64.b64encode(data).decode()}
        return
    with table.open(encoding="utf-8") as handle:
        for line in handle:
            post = json.loads(line)
            yield {"text": post["text"], "image": None if table.stem == "texts" else post["image"]}


def answered(status: int, body: bytes) -> str:
    """Tell what the service made of a post."""
    if status >= 500:
        return "crashed"
    if status >= 400:
        return "named" if json.loads(body).get("error", {}).get("message") else "silent"
    found = json.loads(body)["predictions"][0]
    return "named" if found["error"] else "read" if found["label"] is not None else "silent"


# ---- a table of very many rows -----------------------------------------------------------------------------


def large_through(line: dict[str, Any], commands: Commands, results: Results) -> None:
    """Measure time and memory of a table of very many rows."""
    table = commands.corpus / line["file"]
    asked = {"check": commands.make("check", table, "many")}
    for ending in ("csv", "jsonl", "parquet"):
        predict = ("predict", str(commands.model), str(table), "--out", str(commands.work / f"many.{ending}"))
        asked[f"predict, .{ending}"] = (*predict, "--chunk-size", "4096")
    answers = {}
    for what, args in asked.items():
        # Each in a process of its own, as memory that one leaves behind would count for the next.
        outcome = next(iter(commands.run([Command(f"large-{what}", args, 3_600)])))
        tell(f"{what} {line['file']}", outcome)
        answers[what] = results.command(what, line["file"], outcome) or ("read" if outcome.code == 0 else "named")
    results.add(line, answers)


def tell(what: str, outcome: Outcome) -> None:
    """Say how a command ended, while others are still to come."""
    print(
        f"{what}: {outcome.ended} {outcome.code}, {outcome.seconds:.1f} s, peak {outcome.peak / 1e6:,.0f} MB",
        flush=True,
    )


def report(results: Results) -> None:
    """Print what came of it."""
    for what, counts in (("kind", results.by_kind), ("command", results.by_command)):
        print(f"\n| {what} | inputs | {' | '.join(ENDS)} |\n|---|{'---|' * (len(ENDS) + 1)}")
        total: Counter[str] = Counter()
        for name, counter in counts.items():
            total.update(counter)
            print(f"| {name} | {counter.total():,} | {' | '.join(f'{counter[end]:,}' for end in ENDS)} |")
        if what == "kind":
            print(f"| all | {total.total():,} | {' | '.join(f'{total[end]:,}' for end in ENDS)} |")
    by_command: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in results.commands:
        by_command[each["command"]].append(each)
    print("\n| command | runs | slowest, s | largest, MB |\n|---|---|---|---|")
    for command, each in by_command.items():
        slowest, largest = max(one["seconds"] for one in each), max(one["peak"] for one in each) / 1e6
        print(f"| {command} | {len(each):,} | {slowest:,.1f} | {largest:,.0f} |")
    print("\n" + "\n".join(f"refused as a whole: {each}" for each in results.refused))
    print("\n" + ("\n".join(f"WRONG: {each}" for each in results.wrong) or "nothing wrong"))


if __name__ == "__main__":
    sys.exit(main())
