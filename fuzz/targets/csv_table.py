"""Posts tables of separated values: read whole and in pieces, which must agree."""

from __future__ import annotations

from pathlib import Path

from targets._tables import read_both_ways

WORDS = ('"', '""', ",", ";", "\t", "\r\n", "\r", "\ufeff", "id", "text", "image", "label", "group", "label:text",
         "label:image:1", "data:image/png;base64,", "|", "\u202e", "\0", "1.0", "nan", "file://", "https://")  # fmt: skip


def seeds() -> list[bytes]:
    """Return tables as programs of all kinds write them."""
    plain = "id,text,image,label,group\n1,a day,a.png,x,g\n2,,b.png,y,\n"
    return [
        plain.encode(),
        plain.replace(",", ";").encode(),
        plain.replace(",", "\t").encode(),
        plain.replace("\n", "\r\n").encode("utf-8-sig"),
        b'text,label\n"a ""quoted"", and\nbroken text",x\n"b",y\n',
        b"text,label,label:text,label:image:1,label:image:2\na,x,x,x,y\nb,y,y,y,y\n",
        b"text,label\na,x|y\nb,|\nc,1.0\nd,\n",
        b"\n\ntext\na\n\nb\n",
    ]


def read(data: bytes, folder: Path) -> None:
    """Read the table."""
    read_both_ways(data, folder / "posts.csv")
