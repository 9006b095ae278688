"""Raw data sets with hostile records, for the importers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from hostile.cases import CellCase, ImageCase

_VOTES = ("positive,positive", "neutral,negative", "negative,neutral")


def write_mvsa(folder: Path, images: Sequence[ImageCase], texts: Sequence[CellCase]) -> int:
    """Write a raw MVSA folder of these images and texts with odd lines between; return how many records it has."""
    data = folder / "data"
    data.mkdir(parents=True)
    lines = [b"ID\ttext,image"]
    for number, image in enumerate(images, start=1):
        (data / f"{number}.jpg").write_bytes(image.data)
        text = texts[number % len(texts)].value
        (data / f"{number}.txt").write_bytes(str(text).encode("utf-8", "surrogatepass"))
        lines.append(f"{number}\t{_VOTES[number % 3]}".encode())
    (data / "100001.jpg").symlink_to("/etc/passwd")
    (data / "100002.jpg").mkdir()
    (data / "100003.jpg").symlink_to("/dev/zero")
    (data / "100004.jpg").symlink_to("100004.jpg")
    for number in range(100_001, 100_005):
        (data / f"{number}.txt").symlink_to(("/etc/passwd", "/dev/zero", f"{number}.txt", "gone.txt")[number % 4])
        lines.append(f"{number}\tpositive,positive".encode())
    for number, ending in ((100_011, "jpg"), (100_012, "txt")):
        other = {"jpg": "txt", "txt": "jpg"}[ending]
        os.mkfifo(data / f"{number}.{ending}")
        (data / f"{number}.{other}").write_bytes((data / f"1.{other}").read_bytes())
        lines.append(f"{number}\tpositive,positive".encode())
    lines += [
        b"../../../etc/passwd\tpositive,positive", b"/etc/passwd\tpositive,positive", b"\xff\xfe\tpositive,positive", b"1\tpositive,positive",
        b"7 positive", b"8\t", b"\0\0\tpositive,positive", b"x" * 100_000 + b"\tpositive,positive", b"9\tpositive,happy", b"\x1b[31m9\tpositive,positive",
        b"10" + b"\tpositive,positive" * 20_000, "\u0661\u0662\tpositive,positive".encode(), b"*\tpositive,positive", b"CON\tpositive,positive",
    ]  # fmt: skip
    (folder / "labelResultAll.txt").write_bytes(b"\r\n".join(lines))
    return len(lines) - 1


def write_hateful_memes(folder: Path, images: Sequence[ImageCase], texts: Sequence[CellCase]) -> int:
    """Write a raw Hateful Memes folder of these images and texts with odd lines between; return how many records."""
    (folder / "img").mkdir(parents=True)
    lines = []
    for number, image in enumerate(images, start=1):
        (folder / "img" / image.name).write_bytes(image.data)
        text = texts[number % len(texts)].value
        lines.append(
            json.dumps({"id": number, "img": f"img/{image.name}", "text": text, "label": number % 2}).encode(
                "utf-8", "surrogatepass"
            )
        )
    for at, (place, label) in enumerate(
        (
            (("../" * 9) + "etc/passwd", 0),
            ("/etc/passwd", 1),
            ("/dev/zero", 0),
            ("img", 1),
            ("img/\0.png", 0),
            ("x" * 9_000, 1),
            ("img/*", 0),
        )
    ):
        lines.append(json.dumps({"id": 90_000 + at, "img": place, "text": "a", "label": label}).encode())
    lines += [
        b"{", b"[]", b"null", b"7", b'{"id": {}}', b'{"id": null}', b'{"id": 1e400}', b'{"id": true, "text": "a"}', b"\xff\xfe{}", b'{"id": 1, "label": [1]}',
        b'{"id": "../x", "label": 2}', b'{"id": 5, "text": 7}', b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"id": ' + b"9" * 50_000 + b"}", b'{"id": 1}', b"\0" * 100,
    ]  # fmt: skip
    (folder / "train.jsonl").write_bytes(b"\n".join(lines))
    return len(lines)
