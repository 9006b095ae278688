"""Whole files where a posts table should be: odd ones that can be read, broken ones, and ones made to harm."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hostile.cases import Expected, TableCase

Rows = list[dict[str, Any]]


def good_rows(image: str, count: int = 36) -> Rows:
    """Return posts that nothing is wrong with, of two classes, all with one image or none."""
    words = ("good happy sun", "bad sad rain")
    return [
        {"id": f"p{i}", "text": f"{words[i % 2]} {i}", "image": image if i % 3 else "", "label": ("pos", "neg")[i % 2]}
        for i in range(count)
    ]


def table_cases(image: str, seed: int, *, bomb: int = 2**28) -> Iterator[TableCase]:
    """Yield tables, each once; bombs unpack to `bomb` bytes."""
    rows = good_rows(image)
    for make in (_encodings, _separators, _headers, _labels, _ids, _columns, _json, _binary):
        for name, kind, expected, data in make(rows):
            yield TableCase(name, f"table: {kind}", expected, data)
    for name, expected, data in _bombs(bomb):
        yield TableCase(name, "table: bomb", expected, data)
    for number, value in enumerate(np.random.default_rng(seed).bytes(400) for _ in range(3)):
        for ending in ("csv", "jsonl", "json", "parquet", "xlsx", "tsv", "csv.gz"):
            yield TableCase(f"noise-{number}.{ending}", "table: noise", "named", value)


def mutated_tables(image: str, seed: int, count: int) -> Iterator[TableCase]:
    """Yield good tables of every kind with changed bytes, cut off, or with pieces that come twice."""
    dice = np.random.default_rng(seed)
    sound = sound_tables(good_rows(image, 12))
    names = list(sound)
    for number in range(count):
        name = names[number % len(names)]
        data = bytearray(sound[name])
        how = ("bytes", "cut", "repeat")[number // len(names) % 3]
        if how == "bytes":
            for at in dice.integers(len(data), size=int(dice.integers(1, 12))):
                data[at] = int(dice.integers(256))
        elif how == "cut":
            del data[int(dice.integers(len(data))) :]
        else:
            start, stop = sorted(int(at) for at in dice.integers(len(data), size=2))
            data[stop:stop] = data[start:stop]
        stem, _, ending = name.partition(".")
        yield TableCase(f"{how}-{stem}-{number:05}.{ending}", f"table: mutated {how}", "either", bytes(data))


def sound_tables(rows: Rows) -> dict[str, bytes]:
    """Return the rows as a table of every kind."""
    frame = pd.DataFrame(rows)
    sheet, columns = io.BytesIO(), io.BytesIO()
    frame.to_excel(sheet, index=False)
    frame.to_parquet(columns)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return {
        "rows.csv": as_csv(rows), "rows.tsv": as_csv(rows, "\t"), "rows.jsonl": lines, "rows.json": json.dumps(rows).encode(),
        "rows.parquet": columns.getvalue(), "rows.xlsx": sheet.getvalue(), "rows.csv.gz": gzip.compress(as_csv(rows), mtime=0),
    }  # fmt: skip


def as_csv(rows: Rows, delimiter: str = ",", end: str = "\n") -> bytes:
    """Return rows as separated values."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogatepass")


def write_odd_files(folder: Path, rows: Rows) -> Iterator[TableCase]:
    """Make what is no regular file, or lies behind a link, in `folder`; yield it with no data of its own."""
    (folder / "real.csv").write_bytes(as_csv(rows))
    os.mkfifo(folder / "pipe.csv")
    (folder / "folder.csv").mkdir()
    (folder / "link.csv").symlink_to("real.csv")
    (folder / "loop.csv").symlink_to("loop.csv")
    (folder / "nowhere.csv").symlink_to("nothing.csv")
    (folder / "zero.csv").symlink_to("/dev/zero")
    (folder / "passwd.csv").symlink_to("/etc/passwd")
    (folder / "memory.csv").symlink_to("/proc/self/mem")
    known: dict[str, Expected] = {"real.csv": "read", "link.csv": "read"}
    for name in (
        "real.csv",
        "link.csv",
        "pipe.csv",
        "folder.csv",
        "loop.csv",
        "nowhere.csv",
        "zero.csv",
        "passwd.csv",
        "memory.csv",
        "gone.csv",
    ):
        yield TableCase(name, "table: no regular file", known.get(name, "named"), b"")


def write_many_rows(path: Path, count: int, images: list[str]) -> None:
    """Write a table of `count` short posts, whose images are a few that come again and again."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        handle.write("id,text,image,label\n")
        for start in range(0, count, 10_000):
            handle.writelines(
                f"{i},{('good happy', 'bad sad')[i % 2]} day {i % 1_000},{images[i % len(images)] if images and i % 2 else ''},{('pos', 'neg')[i % 2]}\n"
                for i in range(start, min(start + 10_000, count))
            )


Made = Iterator[tuple[str, str, Expected, bytes]]


def _encodings(rows: Rows) -> Made:
    text = as_csv(rows).decode()
    yield "bom.csv", "encoding", "read", b"\xef\xbb\xbf" + text.encode()
    yield "two-boms.csv", "encoding", "either", b"\xef\xbb\xbf" * 2 + text.encode()
    for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037"):
        yield f"{name}.csv", "encoding", "either" if name == "utf-7" else "named", text.encode(name)
    odd = text.replace("good", "gööd")
    yield "latin-1.csv", "encoding", "named", odd.encode("latin-1")
    yield "gb18030.csv", "encoding", "named", text.replace("good", "好的").encode("gb18030")
    yield "shift-jis.csv", "encoding", "named", text.replace("good", "良い").encode("shift_jis")
    yield "surrogates.csv", "encoding", "named", text.replace("good", "\ud83d\ude00").encode("utf-8", "surrogatepass")
    yield "overlong.csv", "encoding", "named", text.replace("good", "xx").encode().replace(b"xx", b"\xc0\xaf")
    yield "nul.csv", "encoding", "either", text.replace("good", "go\0od").encode()
    yield "nul-bytes.csv", "encoding", "named", bytes(3_000)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    yield "bom.jsonl", "encoding", "read", b"\xef\xbb\xbf" + lines.encode()
    yield "utf-16.jsonl", "encoding", "named", lines.encode("utf-16")
    yield "latin-1.jsonl", "encoding", "named", lines.replace("good", "gööd").encode("latin-1")
    yield "bom.json", "encoding", "read", b"\xef\xbb\xbf" + json.dumps(rows).encode()
    yield "utf-16.json", "encoding", "named", json.dumps(rows).encode("utf-16")


def _separators(rows: Rows) -> Made:
    text = as_csv(rows).decode()
    yield "semicolons.csv", "separators", "read", as_csv(rows, ";")
    yield "tabs.csv", "separators", "read", as_csv(rows, "\t")
    yield "pipes.csv", "separators", "named", as_csv(rows, "|")
    yield "windows.csv", "line ends", "read", as_csv(rows, end="\r\n")
    yield "old-mac.csv", "line ends", "named", as_csv(rows, end="\r")
    mixed = text.split("\n")
    yield (
        "mixed.csv",
        "line ends",
        "read",
        "".join(line + ("\n", "\r\n")[i % 2] for i, line in enumerate(mixed[:-1])).encode(),
    )
    yield (
        "mixed-mac.csv",
        "line ends",
        "either",
        "".join(line + ("\n", "\r")[i % 2] for i, line in enumerate(mixed[:-1])).encode(),
    )
    yield "no-last-end.csv", "line ends", "read", text.rstrip("\n").encode()
    yield "blank-lines.csv", "line ends", "read", ("\n\n" + text.replace("\n", "\n\n")).encode()
    yield "unicode-ends.csv", "line ends", "either", text.replace("good", "a\u2028b\u0085c\x0bd").encode()
    lines = text.splitlines()
    yield "ragged-short.csv", "ragged rows", "named", "\n".join([*lines[:5], "p99,only", *lines[5:]]).encode()
    yield (
        "ragged-long.csv",
        "ragged rows",
        "named",
        "\n".join([*lines[:5], lines[5] + ",more,and more", *lines[6:]]).encode(),
    )
    yield (
        "ragged-empty.csv",
        "ragged rows",
        "either",
        "\n".join(line + ",,," if i else line for i, line in enumerate(lines)).encode(),
    )
    yield (
        "open-quote.csv",
        "quotes",
        "named",
        ("\n".join([*lines[:5], 'p99,"never closed,,pos', *lines[5:]]) + "\n").encode(),
    )
    yield "stray-quote.csv", "quotes", "either", "\n".join([*lines[:5], 'p99,"a" b,,pos', *lines[5:]]).encode()
    yield "quote-inside.csv", "quotes", "read", "\n".join([*lines[:5], 'p99,a "b" c,,pos', *lines[5:]]).encode()
    yield (
        "new-lines-inside.csv",
        "quotes",
        "read",
        "\n".join([*lines[:5], 'p99,"a\r\nb\n\nc",,pos', *lines[5:]]).encode(),
    )
    yield (
        "many-quotes.csv",
        "quotes",
        "either",
        "\n".join([*lines[:5], "p99," + '"' * 99_999 + ",,pos", *lines[5:]]).encode(),
    )
    yield "one-long-line.csv", "separators", "named", b"id,text,label" + b"," * 2_000_000


def _headers(rows: Rows) -> Made:
    body = as_csv(rows).decode().split("\n", 1)[1]
    for name, expected, header in (
        ("twice", "named", "id,text,text,label"), ("all-same", "named", "text,text,text,text"), ("none-known", "named", "a,b,c,d"),
        ("no-names", "named", ",,,"), ("blanks", "read", " id , text ,image , label "), ("capitals", "either", "ID,Text,Image,Label"),
        ("quoted", "read", '"id","text","image","label"'), ("formula", "named", "=1+1,@SUM(A1),+a,-b"), ("html", "named", "<b>id</b>,<i>text</i>,x,y"),
        ("endless", "named", "id,text,image,label" * 20_000), ("escape", "named", "\x1b[31mid,\x1b]0;x\x07text,c,d"),
        ("bidi", "named", "\u202eid,\u202etext,\u202eimage,\u202elabel"), ("zero-width", "either", "id,te\u200bxt,image,label"),
        ("nul", "either", "id,te\0xt,image,label"), ("dunder", "named", "__class__,__init__,__dict__,__doc__"),
    ):  # fmt: skip
        yield f"header-{name}.csv", "header", expected, f"{header}\n{body}".encode()  # type: ignore[misc]
    yield "header-only.csv", "header", "named", b"id,text,image,label\n"
    yield "header-only.jsonl", "header", "named", b"\n\n\n"
    yield "empty.csv", "header", "named", b""
    yield "only-blanks.csv", "header", "named", b"\n \n\t\n"
    wide = {**rows[0], **{f"column {i}": i for i in range(20_000)}}
    yield "wide.csv", "header", "read", as_csv([wide])
    yield (
        "reserved.csv",
        "header",
        "read",
        as_csv([{**row, "row": 1, "error": "x", "p_pos": 2, "index": 0, "column:text": 1} for row in rows]),
    )


def _labels(rows: Rows) -> Made:
    def relabelled(label: Callable[[int], Any]) -> bytes:
        return as_csv([{**row, "label": label(i)} for i, row in enumerate(rows)])

    yield "labels-case.csv", "labels", "read", relabelled(lambda i: ("pos", "Pos", "POS", "neg")[i % 4])
    yield "labels-blanks.csv", "labels", "read", relabelled(lambda i: ("pos", " pos ", "pos\t", "neg")[i % 4])
    yield (
        "labels-invisible.csv",
        "labels",
        "read",
        relabelled(lambda i: ("pos", "pos\u200b", "\u202epos", "neg")[i % 4]),
    )
    yield "labels-forms.csv", "labels", "read", relabelled(lambda i: ("\xe9", "e\u0301", "neg")[i % 3])
    yield "labels-alike.csv", "labels", "read", relabelled(lambda i: ("pos", "p\u043es", "neg")[i % 3])
    yield "labels-numbers.csv", "labels", "read", relabelled(lambda i: ("1", "1.0", "01", "0")[i % 4])
    yield "labels-formula.csv", "labels", "read", relabelled(lambda i: ("=1+1", "@x", "neg")[i % 3])
    yield (
        "labels-html.csv",
        "labels",
        "read",
        relabelled(lambda i: ("<script>alert(1)</script>", "{{7*7}}", "[bold]x[/y]")[i % 3]),
    )
    yield "labels-long.csv", "labels", "read", relabelled(lambda i: ("x" * 60_000, "neg")[i % 2])
    yield "labels-escape.csv", "labels", "read", relabelled(lambda i: ("\x1b[2Jx", "a\nb", "neg")[i % 3])
    yield "labels-all-different.csv", "labels", "either", relabelled(lambda i: f"class {i}")
    yield "labels-one.csv", "labels", "either", relabelled(lambda _: "pos")
    yield "labels-none.csv", "labels", "either", relabelled(lambda _: "")
    yield "labels-paths.csv", "labels", "read", relabelled(lambda i: ("../../x", "/etc", "a/b")[i % 3])
    yield "labels-separator.csv", "labels", "either", relabelled(lambda i: ("a|b", "|", "a", "b")[i % 4])
    yield "labels-nan.csv", "labels", "either", relabelled(lambda i: ("nan", "inf", "-inf", "1")[i % 4])
    yield "labels-huge.csv", "labels", "either", relabelled(lambda i: (f"{i}.5", "1e999", "9" * 400)[i % 3])
    yield "labels-columns.csv", "labels", "read", relabelled(lambda i: ("id", "error", "label", "text_share")[i % 4])


def _ids(rows: Rows) -> Made:
    def renamed(name: Callable[[int], Any]) -> bytes:
        return as_csv([{**row, "id": name(i)} for i, row in enumerate(rows)])

    yield "ids-same.csv", "ids", "either", renamed(lambda _: "a")
    yield "ids-case.csv", "ids", "read", renamed(lambda i: "aA"[i % 2] * (i + 1))
    yield "ids-empty.csv", "ids", "read", renamed(lambda _: "")
    yield "ids-made-up.csv", "ids", "either", renamed(lambda i: "" if i % 2 else f"row-{i}")
    yield "ids-paths.csv", "ids", "read", renamed(lambda i: "../" * i + "etc/passwd")
    yield "ids-html.csv", "ids", "read", renamed(lambda i: f"<img src=x onerror=alert({i})>")
    yield "ids-formula.csv", "ids", "read", renamed(lambda i: f"=cmd|'/C calc'!A{i}")
    yield "ids-long.csv", "ids", "read", renamed(lambda i: "x" * 50_000 + str(i))
    yield (
        "ids-odd.csv",
        "ids",
        "read",
        renamed(lambda i: ("\x1b[31m", "\u202e", "\0", "con", ".", "..", "a/b", "a\\b", "%00")[i % 9] + str(i)),
    )


def _columns(rows: Rows) -> Made:
    yield (
        "column-split.csv",
        "columns",
        "read",
        as_csv([{**row, "split": ("train", "Test", "")[i % 3]} for i, row in enumerate(rows)]),
    )
    yield (
        "column-group.csv",
        "columns",
        "read",
        as_csv([{**row, "group": "g" * (i % 3) * 9_999} for i, row in enumerate(rows)]),
    )
    yield (
        "column-votes.csv",
        "columns",
        "either",
        as_csv([{**row, "label:text": "pos|?", "label:image": "|||"} for row in rows]),
    )
    yield (
        "no-text.csv",
        "columns",
        "read",
        as_csv([{key: row[key] for key in ("id", "image", "label")} for row in rows]),
    )
    yield (
        "no-label.csv",
        "columns",
        "either",
        as_csv([{key: row[key] for key in ("id", "text", "image")} for row in rows]),
    )
    yield "all-empty.csv", "columns", "either", as_csv([{**row, "text": "", "image": ""} for row in rows])


def _json(rows: Rows) -> Made:
    lines = [json.dumps(row) for row in rows]

    def with_line(line: str) -> bytes:
        return "\n".join([*lines[:5], line, *lines[5:]]).encode("utf-8", "surrogatepass")

    for name, expected, line in (
        ("cut", "named", '{"id": "x", "text": "a'), ("list", "named", "[1, 2]"), ("number", "named", "7"), ("null", "named", "null"),
        ("deep", "named", '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"), ("deep-objects", "named", '{"a":' * 50_000 + "1" + "}" * 50_000),
        ("digits", "read", '{"id": "x", "label": "pos", "text": ' + "9" * 50_000 + "}"), ("nan", "read", '{"id": "x", "text": NaN, "label": "pos"}'),
        ("infinity", "read", '{"id": "x", "text": -Infinity, "label": "pos"}'), ("same-keys", "either", '{"id": "x", "text": "a", "text": "b", "label": "pos"}'),
        ("surrogate", "read", '{"id": "x", "text": "\\ud800", "label": "pos"}'), ("many-keys", "read", json.dumps({**rows[0], "id": "x", **{f"k{i}": i for i in range(50_000)}})),
        ("two", "named", lines[0] + lines[1]), ("comment", "named", "// a comment"), ("comma", "named", lines[0] + ","), ("quotes", "named", "{'id': 'x'}"),
        ("proto", "read", '{"id": "x", "__proto__": {"a": 1}, "text": "a", "label": "pos"}'),
    ):  # fmt: skip
        yield f"line-{name}.jsonl", "json", expected, with_line(line)  # type: ignore[misc]
    for name, expected, text in (
        ("object", "named", "{}"), ("columns", "read", json.dumps({key: [row[key] for row in rows] for key in rows[0]})), ("empty", "named", "[]"),
        ("ragged", "named", '{"id": ["a"], "text": ["a", "b"]}'), ("string", "named", '"x"'), ("deep", "named", "[" * 200_000), ("mixed", "named", '[{"id": 1}, 2]'),
        ("trailing", "named", json.dumps(rows) + "x"), ("lines", "named", "\n".join(lines)), ("null", "named", "null"),
    ):  # fmt: skip
        yield f"array-{name}.json", "json", expected, text.encode()  # type: ignore[misc]


def _binary(rows: Rows) -> Made:
    sound = sound_tables(rows)
    yield from ((name, "sound", "read", data) for name, data in sound.items())
    for name, other in (("csv.parquet", "rows.csv"), ("parquet.csv", "rows.parquet"), ("xlsx.csv", "rows.xlsx"), ("csv.xlsx", "rows.csv"), ("csv.gz.csv", "rows.csv.gz"),
                        ("csv.csv.gz", "rows.csv"), ("json.jsonl", "rows.json"), ("jsonl.json", "rows.jsonl"), ("csv.jsonl", "rows.csv"), ("jsonl.csv", "rows.jsonl")):  # fmt: skip
        yield f"really-{name}", "mislabelled", "named", sound[other]
    for ending in ("pickle", "npy", "feather", "sqlite", "xls", "html", "txt", "exe", "", "csv.zip", "csv.bz2"):
        yield f"unknown.{ending}" if ending else "unknown", "mislabelled", "named", sound["rows.csv"]
    for name in ("rows.parquet", "rows.xlsx", "rows.csv.gz"):
        yield f"half-{name}", "truncated", "named", sound[name][: len(sound[name]) // 2]
    frame = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "text": [b"\xff\xfe", b"good", b""],
            "image": [b"\x89PNG", None, b"x"],
            "label": [1.0, None, 0.0],
        }
    )
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    yield "bytes.parquet", "odd types", "read", buffer.getvalue()
    odd = pd.DataFrame({"text": [["a", "b"], None, ["c"]], "label": pd.to_datetime(["2024-01-01", None, "2024-01-02"])})
    buffer = io.BytesIO()
    odd.to_parquet(buffer)
    yield "lists.parquet", "odd types", "either", buffer.getvalue()


def _bombs(size: int) -> Iterator[tuple[str, Expected, bytes]]:
    """Yield small files that unpack to `size` bytes and more."""
    head = b"id,text,label\na,"
    packer = io.BytesIO()
    with gzip.GzipFile(fileobj=packer, mode="wb", mtime=0) as packed:
        packed.write(head)
        for _ in range(size // 2**20):
            packed.write(b"x" * 2**20)
    yield "one-line.csv.gz", "named", packer.getvalue()
    packer = io.BytesIO()
    with gzip.GzipFile(fileobj=packer, mode="wb", mtime=0) as packed:
        for _ in range(size // 2**20):
            packed.write(b"\n" * 2**20)
    yield "blank-lines.csv.gz", "named", packer.getvalue()
    packer = io.BytesIO()
    with gzip.GzipFile(fileobj=packer, mode="wb", mtime=0) as packed:
        packed.write(b'[{"text": "')
        for _ in range(size // 2**20):
            packed.write(b"x" * 2**20)
    yield "array.json.gz", "named", packer.getvalue()
    book = io.BytesIO()
    with (
        zipfile.ZipFile(book, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet,
    ):
        for _ in range(size // 2**20):
            sheet.write(b" " * 2**20)
    yield "sheet.xlsx", "named", book.getvalue()
    buffer = io.BytesIO()
    frame = pd.DataFrame({"id": ["a"], "text": ["x" * size], "label": ["pos"]})
    frame.to_parquet(buffer, compression="gzip")
    yield "one-cell.parquet", "either", buffer.getvalue()
