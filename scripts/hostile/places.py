"""Image cells that point where no image should be read: out of the table's folder, to devices, to nowhere, to a URL."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

from hostile.cases import CellCase, Expected
from hostile.images import encoded, photo


def make_places(folder: Path, seed: int) -> Iterator[CellCase]:
    """Make links, pipes and odd folders in `folder`, and yield the cells that point to them and further away.

    Parameters
    ----------
    folder : Path
        Where images lie; cells are relative to the folder above it.
    seed : int
        Of the one sound image.
    """
    sound = encoded(photo(seed), "PNG")
    folder.mkdir()
    outside = folder.parent.parent / f"{folder.parent.name}-outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret.png").write_bytes(sound)
    (folder / "good.png").write_bytes(sound)
    links = {
        "link-inside.png": "good.png", "link-outside.png": str(outside / "secret.png"), "link-passwd.jpg": "/etc/passwd",
        "link-loop.png": "link-loop.png", "link-nowhere.png": "nothing-here.png", "link-folder": str(outside),
        "link-zero.png": "/dev/zero", "link-environ.png": "/proc/self/environ", "link-memory.png": "/proc/self/mem",
        "link-up.png": "../../" + outside.name + "/secret.png",
    }  # fmt: skip
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    locked = folder / "locked.png"
    locked.write_bytes(sound)
    locked.chmod(0)
    here = folder.name
    cells: list[tuple[str, Expected, str]] = [
        ("link inside", "read", f"{here}/link-inside.png"),
        *(("link outside", "named", f"{here}/{name}") for name in links if name != "link-inside.png" and name != "link-folder"),
        ("link outside", "named", f"{here}/link-folder/secret.png"),
        *(("path outside", "named", path) for path in (
            f"../{outside.name}/secret.png", f"{here}/../../{outside.name}/secret.png", str(outside / "secret.png"),
            f"file://{outside}/secret.png", "../../../../../../../../etc/passwd", "/etc/passwd", "~/.bashrc", "file:///etc/hosts",
            "..\\..\\..\\etc\\passwd", f"{here}/./.././../{outside.name}/secret.png",
        )),
        *(("device or pipe", "named", path) for path in (
            f"{here}/pipe.png", "/dev/zero", "/dev/random", "/dev/stdin", "/dev/tty", "/dev/full", "/dev/fd/0", "/proc/self/mem",
            "/proc/self/environ", "/proc/self/fd/1", "/proc/kcore", "/sys/kernel/uevent_helper",
        )),
        *(("no file", "named", path) for path in (
            f"{here}/folder.png", ".", "..", "/", f"{here}/gone.png", f"{here}/good.png/more.png", f"{here}/GOOD.PNG", "\0", f"{here}/a\0b.png",
            "x" * 300, "a/" * 3_000 + "b.png", "CON", "\ud800.png", f"{here}/*.png", f"{here}/good.png\n{here}/good.png",
            "-", "--help", f"{here}/good.png;id", "|id", "$HOME/a.png",
        )),
        *(("URL", "named", url) for url in (
            "http://127.0.0.1:9/a.png", "https://example.invalid/a.png", "http://169.254.169.254/latest/meta-data/", "s3://bucket/a.png", "ftp://a/b.png",
            "file://remote.host/share/a.png", "http://[::1", "simplecache::http://127.0.0.1/a.png", "zip://a.png::http://127.0.0.1/a.zip", "memory://a",
            "github://a:b@c/d.png", "local:///etc/passwd", "HTTP://127.0.0.1/a.png", "javascript://alert(1)", "jar:file:///etc/passwd!/a",
        )),
        *_inline(sound),
        ("no file", "either", " "),  # as good as empty
        ("no file", "either", "\t"),
        ("locked", "either", f"{here}/locked.png"),  # who runs as root may read it
        ("odd but sound", "read", f" {here}/good.png "), ("odd but sound", "read", f"./{here}//good.png"),
        ("odd but sound", "read", f"{here}\\good.png"), ("odd but sound", "read", f"{here}/folder.png/../good.png"),
    ]  # fmt: skip
    for number, (kind, expected, cell) in enumerate(cells):
        yield CellCase(f"place-{number}", f"image cell: {kind}", expected, cell)
    for number, value in enumerate(
        (["a.png", "b.png"], {"path": "/etc/passwd"}, {"bytes": "x"}, 7, True, [1, 2], {"a": 1})
    ):
        yield CellCase(f"place-type-{number}", "image cell: other types", "named", value)


def _inline(sound: bytes) -> Iterator[tuple[str, Expected, str]]:
    plain = base64.b64encode(sound).decode()
    for cell in (plain, f"data:image/png;base64,{plain}", plain.rstrip("="), f"data:text/plain;base64,{plain}"):
        yield "inline", "read", cell
    for cell in (
        plain[: len(plain) // 2], plain[:200] + "!" + plain[201:], "data:image/png;base64,", "data:,x", "data:image/png", "data:image/svg+xml,<svg/>",
        "data:image/png;base64,%%%", "data:image/png;base64," + "A" * 3_000_000, "iVBORw0KGgo" + "A" * 500, "data:image/png;base64," + base64.b64encode(
            b"x" * 50).decode(),
    ):  # fmt: skip
        yield "inline", "named", cell
