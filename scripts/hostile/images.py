"""Image files that are broken, mislabelled, of rare kinds, or made to harm."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from hostile.cases import Expected, ImageCase

_SIDE = 40
_PNG = b"\x89PNG\r\n\x1a\n"


def image_cases(seed: int) -> Iterator[ImageCase]:
    """Yield every kind of image that was made by hand, each once."""
    for make in (_rare, _turned, _tiny, _mislabelled, _polyglots, _cut_short, _bombs, _broken, _foreign):
        yield from make(seed)


def mutants(seed: int, count: int) -> Iterator[ImageCase]:
    """Yield sound images of every format with changed bits, cut off, or spliced with another."""
    dice = np.random.default_rng(seed)
    sound = sound_images(seed)
    names = list(sound)
    for number in range(count):
        name = names[number % len(names)]
        how = ("bits", "bytes", "cut", "splice", "repeat", "head")[number // len(names) % 6]
        other = sound[names[int(dice.integers(len(names)))]]
        data = _MUTATIONS[how](sound[name], other, dice)
        stem, _, ending = name.rpartition(".")
        yield ImageCase(f"{how}-{stem}-{number:06}.{ending}", f"mutated: {how}", "either", data)


def sound_images(seed: int) -> dict[str, bytes]:
    """Return sound images of every format that Pillow writes and cotune reads, by file name."""
    colour, other = photo(seed), photo(seed + 1)
    grey, alpha = colour.convert("L"), colour.copy()
    alpha.putalpha(other.convert("L"))
    wide = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    frames: dict[str, Any] = {"save_all": True, "append_images": [other, colour], "duration": 50}
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "plain.png": (colour, "PNG", {}),
        "palette.png": (colour.quantize(16), "PNG", {"transparency": 3}),
        "wide.png": (wide, "PNG", {}),
        "alpha.png": (alpha, "PNG", {}),
        "animated.png": (colour, "PNG", frames),
        "plain.jpg": (colour, "JPEG", {"quality": 80}),
        "progressive.jpg": (colour, "JPEG", {"progressive": True}),
        "grey.jpg": (grey, "JPEG", {}),
        "cmyk.jpg": (colour.convert("CMYK"), "JPEG", {}),
        "several.mpo": (colour, "MPO", {"save_all": True, "append_images": [other]}),
        "plain.gif": (colour.quantize(32), "GIF", {}),
        "animated.gif": (colour, "GIF", frames),
        "plain.webp": (colour, "WEBP", {"quality": 70}),
        "lossless.webp": (alpha, "WEBP", {"lossless": True}),
        "animated.webp": (colour, "WEBP", frames),
        "plain.bmp": (colour, "BMP", {}),
        "palette.bmp": (colour.quantize(16), "BMP", {}),
        "plain.tif": (colour, "TIFF", {}),
        "lzw.tif": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": (wide, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (colour, "TIFF", {"compression": "jpeg"}),
        "fax.tif": (colour.convert("1"), "TIFF", {"compression": "group4"}),
        "plain.avif": (colour, "AVIF", {"quality": 60}),
        "animated.avif": (colour, "AVIF", frames),
        "plain.ico": (colour, "ICO", {"sizes": [(32, 32)]}),
        "plain.jp2": (colour, "JPEG2000", {}),
        "plain.ppm": (colour, "PPM", {}),
        "wide.pgm": (wide, "PPM", {}),
        "plain.tga": (colour, "TGA", {}),
        "packed.tga": (alpha, "TGA", {"compression": "tga_rle"}),
    }
    return {name: encoded(image, kind, **options) for name, (image, kind, options) in made.items()}


def photo(seed: int, side: int = _SIDE) -> Image.Image:
    """Return smooth random colours with some detail, as photos have."""
    dice = np.random.default_rng(seed)
    small = Image.fromarray(dice.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side))
    noisy = np.asarray(small, dtype=np.int16) + dice.integers(-12, 13, (side, side, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---- changed at random -------------------------------------------------------------------------------------


def _bits(data: bytes, _: bytes, dice: np.random.Generator) -> bytes:
    found = np.frombuffer(data, dtype=np.uint8).copy()
    for at in dice.integers(len(found), size=int(dice.integers(1, 9))):
        found[at] ^= np.uint8(1 << int(dice.integers(8)))
    return found.tobytes()


def _bytes(data: bytes, _: bytes, dice: np.random.Generator) -> bytes:
    found = np.frombuffer(data, dtype=np.uint8).copy()
    at = dice.integers(len(found), size=int(dice.integers(1, 40)))
    found[at] = dice.integers(0, 256, len(at), dtype=np.uint8)
    return found.tobytes()


def _cut(data: bytes, _: bytes, dice: np.random.Generator) -> bytes:
    return data[: int(dice.integers(0, len(data)))]


def _splice(data: bytes, other: bytes, dice: np.random.Generator) -> bytes:
    return data[: int(dice.integers(len(data)))] + other[int(dice.integers(len(other))) :]


def _repeat(data: bytes, _: bytes, dice: np.random.Generator) -> bytes:
    start, stop = sorted(int(at) for at in dice.integers(len(data), size=2))
    return data[:stop] + data[start:stop] * int(dice.integers(1, 4)) + data[stop:]


def _head(data: bytes, _: bytes, dice: np.random.Generator) -> bytes:
    """Change a number in the first bytes, where sizes, depths and offsets stand."""
    at, width = int(dice.integers(4, min(len(data) - 4, 80))), int(dice.choice([1, 2, 4]))
    extreme = dice.choice([0, 1, 0x7F, 0x80, 0xFF], size=width).astype(np.uint8).tobytes()
    return data[:at] + extreme + data[at + width :]


_MUTATIONS: dict[str, Callable[[bytes, bytes, np.random.Generator], bytes]] = {
    "bits": _bits, "bytes": _bytes, "cut": _cut, "splice": _splice, "repeat": _repeat, "head": _head,
}  # fmt: skip


# ---- rare, and sound ---------------------------------------------------------------------------------------


def _rare(seed: int) -> Iterator[ImageCase]:
    """Yield images that are sound, though few programs make them."""
    for name, data in sound_images(seed + 10).items():
        expected: Expected = "either" if name.endswith(".tga") else "read"  # which has no mark of its own
        yield ImageCase(f"sound-{name}", "rare but sound", expected, data)
    colour = photo(seed)
    grey = np.asarray(colour.convert("L"), dtype=np.float32)
    scaled = {
        "float.tif": Image.fromarray(grey / 255),
        "nan.tif": Image.fromarray(np.where(grey > 128, np.nan, grey).astype(np.float32)),
        "thirty-two-bits.tif": Image.fromarray(grey.astype(np.int32) * 65_536),
        "lab.tif": colour.convert("LAB"),
        "cmyk.tif": colour.convert("CMYK"),
        "ycbcr.tif": colour.convert("YCbCr"),
    }
    for name, image in scaled.items():
        yield ImageCase(f"rare-{name}", "rare but sound", "read", encoded(image, "TIFF"))
    turned = colour.quantize(8)
    turned.info["transparency"] = bytes([0, 64, 128, 255, 0, 0, 0, 0])
    yield ImageCase("rare-palette-alpha.png", "rare but sound", "read", encoded(turned, "PNG"))
    yield ImageCase("rare-keyed.png", "rare but sound", "read", encoded(colour, "PNG", transparency=(0, 0, 0)))
    yield ImageCase("rare-two-shades.png", "rare but sound", "read", encoded(colour.convert("1"), "PNG"))
    yield ImageCase("rare-interlaced.png", "rare but sound", "read", _interlaced_png())
    wide = np.asarray(colour, dtype=">u2") * 257
    yield ImageCase("rare-16-bit-rgb.png", "rare but sound", "read", png(_SIDE, _SIDE, wide, depth=16, colours=2))
    yield ImageCase("rare-arithmetic.jpg", "rare but sound", "either", _arithmetic_jpeg(seed))
    yield ImageCase("rare-profile.jpg", "rare but sound", "read", encoded(colour, "JPEG", icc_profile=b"\0" * 5_000))
    yield ImageCase("rare-comment.jpg", "rare but sound", "read", encoded(colour, "JPEG", comment=b"\xff\xd8" * 9_999))


def _interlaced_png() -> bytes:
    """Return 8 x 8 grey pixels in seven passes (Adam7)."""
    widths, heights = (1, 1, 2, 2, 4, 4, 8), (1, 1, 1, 2, 2, 4, 4)
    raw = b"".join((b"\0" + bytes(range(10, 10 + w))) * h for w, h in zip(widths, heights, strict=True))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    return _PNG + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def _arithmetic_jpeg(seed: int) -> bytes:
    """Return a JPEG that says that it is coded arithmetically; decoders without it refuse, others may read noise."""
    return encoded(photo(seed), "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1)


def _turned(seed: int) -> Iterator[ImageCase]:
    """Yield images that say which way is up, in EXIF and in XMP, or lie about it."""
    for way in (*range(1, 9), 0, 9, 255, 65_535):
        exif = Image.Exif()
        exif[0x0112] = way
        for ending, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
            data = encoded(photo(seed), kind, exif=exif)
            yield ImageCase(f"exif-{way}.{ending}", "orientation", "read", data)
        packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF tiff:Orientation="{way}"/></x:xmpmeta>'.encode()
        yield ImageCase(f"xmp-{way}.jpg", "orientation", "read", encoded(photo(seed), "JPEG", xmp=packet))
        yield ImageCase(f"xmp-{way}.webp", "orientation", "read", encoded(photo(seed), "WEBP", xmp=packet))
    bad = {
        "loop": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\x08",
        "huge-count": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\xff\xff\xff\xff\0\x06\0\0",
        "noise": b"Exif\0\0" + np.random.default_rng(seed).bytes(3_000),
    }
    for name, data in bad.items():
        yield ImageCase(f"exif-{name}.jpg", "orientation", "either", encoded(photo(seed), "JPEG", exif=data))
    deep = b"<a>" * 9_000
    yield ImageCase("xmp-deep.jpg", "orientation", "read", encoded(photo(seed), "JPEG", xmp=deep))
    entities = "".join(f'<!ENTITY a{i + 1} "&a{i};&a{i};">' for i in range(30))
    laugh = f'<!DOCTYPE l [<!ENTITY a0 "ha">{entities}]><l>&a30;</l>'.encode()
    yield ImageCase("xmp-laughs.jpg", "orientation", "read", encoded(photo(seed), "JPEG", xmp=laugh))


def _tiny(_: int) -> Iterator[ImageCase]:
    """Yield images of one pixel and of none, and very long ones."""
    dot = Image.new("RGB", (1, 1), "red")
    for ending, kind in (("png", "PNG"), ("jpg", "JPEG"), ("gif", "GIF"), ("webp", "WEBP"), ("bmp", "BMP"),
                         ("tif", "TIFF"), ("avif", "AVIF"), ("ppm", "PPM"), ("tga", "TGA")):  # fmt: skip
        yield ImageCase(f"one-pixel.{ending}", "one pixel", "either" if kind == "TGA" else "read", encoded(dot, kind))
    nothing = np.zeros((1, 1), dtype=np.uint8)
    for width, height in ((0, 0), (0, 5), (5, 0)):
        yield ImageCase(f"no-pixel-{width}x{height}.png", "no pixel", "named", png(width, height, nothing))
    yield ImageCase("no-pixel.gif", "no pixel", "named", b"GIF89a" + bytes(7) + b",\0\0\0\0\0\0\0\0\0\x02\0;")
    yield ImageCase("no-pixel.bmp", "no pixel", "named", bmp(0, 0))
    yield ImageCase("no-pixel.ppm", "no pixel", "named", b"P6 0 0 255\n")
    for width, height in ((20_000, 1), (1, 20_000), (60_000, 2)):
        long = encoded(Image.new("RGB", (width, height), "blue"), "PNG")
        yield ImageCase(f"long-{width}x{height}.png", "very long", "read", long)


# ---- not what their names say ------------------------------------------------------------------------------

_SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
_HTML = b"<!DOCTYPE html><html><body><h1>404</h1><script>alert(1)</script></body></html>"


def _mislabelled(seed: int) -> Iterator[ImageCase]:
    """Yield files whose name promises something else."""
    sound = sound_images(seed)
    for name in ("plain.png", "plain.gif", "plain.webp", "plain.tif", "plain.avif", "plain.bmp", "plain.jp2"):
        yield ImageCase(f"really-{name.partition('.')[2]}.jpg", "mislabelled", "read", sound[name])
    yield ImageCase("really-jpg.png", "mislabelled", "read", sound["plain.jpg"])
    other = {
        "svg.jpg": _SVG, "html.jpg": _HTML, "late-html.jpg": b"\n" * 300 + _HTML, "bom-svg.png": b"\xef\xbb\xbf" + _SVG,
        "text.jpg": b"this is not an image", "empty.jpg": b"", "zeros.jpg": bytes(4_096), "pdf.jpg": b"%PDF-1.7\n%x\n",
        "zip.jpg": b"PK\x03\x04" + bytes(60), "elf.jpg": b"\x7fELF" + bytes(60), "json.jpg": b'{"error": 404}',
        "mp4.jpg": b"\0\0\0\x20ftypisom" + bytes(60), "lfs.jpg": b"version https://git-lfs.github.com/spec/v1\noid x\n",
        "noise.jpg": np.random.default_rng(seed).bytes(5_000), "pickle.jpg": b"\x80\x04\x95\x0c\0\0\0\0\0\0\0\x8c",
        "safetensors.jpg": b"\x40" + bytes(7) + b'{"a":{}}', "script.jpg": b"#!/bin/sh\ntouch /tmp/owned\n",
    }  # fmt: skip
    for name, data in other.items():
        yield ImageCase(name, "no image", "named", data)


def _foreign(seed: int) -> Iterator[ImageCase]:
    """Yield images in formats that are not read, some of which would start programs or that hold vectors."""
    colour = photo(seed)
    for ending, kind in (("eps", "EPS"), ("pcx", "PCX"), ("sgi", "SGI"), ("im", "IM"), ("dds", "DDS"),
                         ("icns", "ICNS"), ("spi", "SPIDER"), ("blp", "BLP"), ("xbm", "XBM"), ("qoi", "QOI")):  # fmt: skip
        ready = colour.convert("1") if kind == "XBM" else colour.quantize(16) if kind == "BLP" else colour
        ready = ready.convert("F") if kind == "SPIDER" else ready
        for name in (f"foreign.{ending}", f"foreign-{ending}.jpg"):
            yield ImageCase(name, "format not allowed", "named", encoded(ready, kind))
    made = {
        "psd": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(12) + b"\0\0" + bytes(192),
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(36),
        "fits": b"SIMPLE  =                    T" + b" " * 2_850,
        "xpm": b'/* XPM */\nstatic char *a[] = {\n"2 2 1 1",\n"a c #ff0000",\n"aa",\n"aa"};\n',
        "cur": b"\0\0\x02\0\x01\0\x08\x08\0\0\0\0\0\0" + struct.pack("<II", 100, 22) + bytes(100),
        "sun": b"\x59\xa6\x6a\x95" + struct.pack(">7I", 8, 8, 24, 192, 1, 0, 0) + bytes(192),
        "jxl": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
        "heic": _heic(seed),
    }
    for ending, data in made.items():
        for name in (f"foreign.{ending}", f"foreign-{ending}.jpg"):
            yield ImageCase(name, "format not allowed", "named", data)


def _heic(seed: int) -> bytes:
    """Return the boxes of an AVIF with the brand and item type of HEIC."""
    data = encoded(photo(seed), "AVIF")
    for ours, theirs in ((b"avif", b"heic"), (b"av01", b"hvc1"), (b"av1C", b"hvcC")):
        data = data.replace(ours, theirs)
    return data


def _polyglots(seed: int) -> Iterator[ImageCase]:
    """Yield sound images that are a script, an archive or a page as well."""
    sound = sound_images(seed)
    archive = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)
    for name in ("plain.png", "plain.jpg", "plain.gif", "plain.webp", "plain.bmp", "plain.tif"):
        for what, tail in (("zip", archive), ("html", _HTML), ("php", b"<?php system($_GET[0]); ?>"), ("svg", _SVG)):
            yield ImageCase(f"polyglot-{what}-{name}", "polyglot", "read", sound[name] + tail)
    yield ImageCase(
        "polyglot-script.gif", "polyglot", "either", b"GIF89a/*" + sound["plain.gif"][8:] + b"*/=1;alert(1)"
    )
    comment = encoded(photo(seed), "JPEG", comment=b"*/=alert(1);/*<script>alert(1)</script>")
    yield ImageCase("polyglot-script.jpg", "polyglot", "read", comment)
    yield ImageCase("polyglot-pdf.jpg", "polyglot", "either", b"%PDF-1.4\n" + sound["plain.jpg"])
    yield ImageCase("polyglot-two.png", "polyglot", "read", sound["plain.png"] + sound["plain.jpg"])


# ---- broken ------------------------------------------------------------------------------------------------


def _cut_short(seed: int) -> Iterator[ImageCase]:
    """Yield each format cut off early, in its middle, and before its last bytes."""
    for name, data in sound_images(seed + 20).items():
        for part in (0.02, 0.5, 0.9):
            expected = "named" if part < 0.1 else "either"  # what is cut may be a frame that nobody reads
            yield ImageCase(f"cut-{part}-{name}", "truncated", expected, data[: int(len(data) * part)])


def _broken(seed: int) -> Iterator[ImageCase]:
    """Yield images whose parts contradict each other."""
    colour = encoded(photo(seed), "PNG")
    at = colour.index(b"IDAT")
    flat = np.zeros((8, 8), dtype=np.uint8)
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 72))
    end = chunk(b"IEND", b"")
    made: dict[str, tuple[str, bytes]] = {
        "bad-checksum.png": ("named", colour[: at + 8] + b"\xff\xff" + colour[at + 10 :]),
        "no-data.png": ("named", _PNG + chunk(b"IHDR", head) + end),
        "no-end.png": ("either", _PNG + chunk(b"IHDR", head) + data),
        "two-heads.png": ("either", _PNG + chunk(b"IHDR", head) + chunk(b"IHDR", head) + data + end),
        "no-palette.png": ("either", png(8, 8, flat, colours=3)),
        "odd-depth.png": ("named", _PNG + chunk(b"IHDR", head[:8] + b"\x07" + head[9:]) + data + end),
        "long-chunk.png": ("named", _PNG + struct.pack(">I", 2**31 - 1) + b"IHDR" + head),
        "negative-chunk.png": ("named", _PNG + b"\xff\xff\xff\xff" + b"IHDR" + head),
        "text-of-no-format.png": ("either", png(8, 8, flat, more=chunk(b"zTXt", b"a\0\x09xxxx"))),
        "profile-broken.png": ("either", png(8, 8, flat, more=chunk(b"iCCP", b"a\0\0xxxx"))),
        "frames-that-lie.png": ("either", png(8, 8, flat, more=chunk(b"acTL", struct.pack(">II", 2**31, 0)))),
        "no-tables.jpg": ("named", b"\xff\xd8\xff\xda\0\x08\x01\x01\0\0\x3f\0" + bytes(50) + b"\xff\xd9"),
        "only-markers.jpg": ("named", b"\xff\xd8" + b"\xff\xe0\0\x02" * 60_000 + b"\xff\xd9"),
        "many-scans.jpg": ("either", _many_scans(seed)),
        "fill-bytes.jpg": ("named", b"\xff\xd8" + b"\xff" * 500_000),
        "loop.tif": ("named", tiff([(256, 4, 1, 8), (257, 4, 1, 8)], following=8)),
        "no-strips.tif": ("named", tiff([(256, 4, 1, 8), (257, 4, 1, 8), (262, 3, 1, 1)])),
        "strip-outside.tif": ("named", tiff([*_GREY_TIFF, (273, 4, 1, 2**31), (279, 4, 1, 64)])),
        "huge-count.tif": ("named", tiff([*_GREY_TIFF, (273, 4, 2**30, 8), (279, 4, 2**30, 8)])),
        "far-directory.tif": ("named", b"II*\0" + struct.pack("<I", 2**32 - 1)),
        "negative.bmp": ("named", bmp(-8, 8)),
        "no-frames.gif": ("named", b"GIF89a" + struct.pack("<HH", 8, 8) + b"\0\0\0;"),
        "no-clear.gif": ("either", b"GIF89a\x08\0\x08\0\x80\0\0" + bytes(6) + b",\0\0\0\0\x08\0\x08\0\0\x02\xff" + bytes(255)),
        "short-riff.webp": ("named", b"RIFF\xff\xff\xff\x7fWEBPVP8 "),
        "box-of-no-size.avif": ("named", b"\0\0\0\0ftypavif" + bytes(40)),
        "huge-box.avif": ("named", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + b"\xff\xff\xff\xffmeta" + bytes(80)),
        "many-icons.ico": ("named", b"\0\0\x01\0\xff\xff" + (b"\x10\x10\0\0\x01\0\x20\0\xff\xff\0\0\x16\0\0\0" * 65_535)),
        "words.ppm": ("named", b"P3 8 8 255\n" + b"x " * 300),
        "comment-without-end.ppm": ("named", b"P6 #" + b"x" * 100_000),
    }  # fmt: skip
    for name, (expected, content) in made.items():
        yield ImageCase(f"broken-{name}", "broken", expected, content)  # type: ignore[arg-type]


def _many_scans(seed: int) -> bytes:
    """Return a progressive JPEG whose last scan comes 2,000 times."""
    data = encoded(photo(seed), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 2_000 + b"\xff\xd9"


# ---- bombs -------------------------------------------------------------------------------------------------


def _bombs(_: int) -> Iterator[ImageCase]:
    """Yield small files that unpack to gigabytes, or take hours."""
    text = zlib.compress(b"a" * 60_000_000)
    grey = np.zeros((1, 1), dtype=np.uint8)
    made = {
        "flat.png": flat_png(10_000, 9_000),
        "lies.png": flat_png(60_000, 60_000, rows=50),
        "wide.png": flat_png(2**31 - 1, 1, rows=1),
        "16-bit.png": flat_png(10_000, 9_000, depth=16),
        "text.png": png(8, 8, grey, more=chunk(b"zTXt", b"a\0\0" + text)),
        "profile.png": png(8, 8, grey, more=chunk(b"iCCP", b"a\0\0" + text)),
        "words.png": png(8, 8, grey, more=chunk(b"iTXt", b"a\0\x01\0\0\0" + text)),
        "many-words.png": png(8, 8, grey, more=chunk(b"tEXt", b"a\0b") * 60_000),
        "screen.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0," + bytes(4) + b"\xff\xff\xff\xff\0\x02\0;",
        "comments.gif": b"GIF89a" + struct.pack("<HH", 8, 8) + b"\0\0\0\x21\xfe" + b"\x01a" * 400_000 + b"\0;",
        "canvas.webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\x3f\0" * 2,
        "lossless.webp": encoded(Image.new("RGB", (9_500, 9_500)), "WEBP", lossless=True, method=0, quality=0),
        "deflate.tif": flat_tiff(10_000, 9_000),
        "strips.tif": tiff([(256, 4, 1, 60_000), (257, 4, 1, 60_000), *_GREY_TIFF[2:], (273, 4, 1, 8), (279, 4, 1, 64)]),
        "samples.tif": tiff([*_GREY_TIFF, (277, 3, 1, 65_535), (273, 4, 1, 8), (279, 4, 1, 64)]),
        "claims.bmp": bmp(2**31 - 1, 2**31 - 1),
        "claims.tga": b"\0\0\x0a" + bytes(9) + struct.pack("<HH", 65_535, 65_535) + b"\x20\x08" + b"\xff" * 500,
        "claims.ppm": b"P6 99999 99999 255\n" + bytes(100),
        "claims.jp2": _claims_jp2(),
        "claims.avif": _claims_avif(),
        "icon.ico": _icon(flat_png(10_000, 9_000)),
        "claims.jpg": encoded(Image.new("L", (8, 8)), "JPEG").replace(b"\xff\xc0\0\x0b\x08\0\x08\0\x08", b"\xff\xc0\0\x0b\x08\xff\xff\xff\xff"),
    }  # fmt: skip
    harmless = {"text.png", "profile.png", "words.png", "many-words.png"}
    for name, data in made.items():
        yield ImageCase(f"bomb-{name}", "bomb", "either" if name in harmless else "named", data)
    frames = [Image.new("P", (8, 8), i % 2) for i in range(5_000)]
    many = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10)
    yield ImageCase("bomb-frames.gif", "bomb", "read", many)


_GREY_TIFF = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a piece of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: np.ndarray, *, depth: int = 8, colours: int = 0, more: bytes = b"") -> bytes:
    """Return a PNG of the size that it claims, with the rows of `pixels`, and further chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    if pixels.size == 1 and width and height:
        rows = (b"\0" + bytes(width)) * height
    return _PNG + head + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def flat_png(width: int, height: int, *, rows: int | None = None, depth: int = 8) -> bytes:
    """Return a grey PNG of any size, of which only some rows may be there."""
    packer = zlib.compressobj(9)
    row = bytes(1 + min(width, 60_000) * depth // 8)
    packed = b"".join(packer.compress(row) for _ in range(rows or height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return _PNG + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(entries: list[tuple[int, int, int, int]], *, following: int = 0, data: bytes = b"") -> bytes:
    """Return a TIFF of one directory with these tags: number, type, count, value."""
    found = struct.pack("<H", len(entries))
    for tag, kind, count, value in sorted(entries):
        found += struct.pack("<HHII", tag, kind, count, value % 2**32)
    return b"II*\0" + struct.pack("<I", 8) + found + struct.pack("<I", following) + data


def flat_tiff(width: int, height: int) -> bytes:
    """Return a grey, packed TIFF of any size."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(width)) for _ in range(height)) + packer.flush()
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
               (278, 4, 1, height), (279, 4, 1, len(packed))]  # fmt: skip
    return tiff([*entries, (273, 4, 1, 8 + 2 + 12 * 8 + 4)], data=packed)


def bmp(width: int, height: int) -> bytes:
    """Return the head of a bitmap that claims any size."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + bytes(64)


def _icon(inner: bytes) -> bytes:
    return bytes([0, 0, 1, 0, 1, 0, 16, 16, 0, 0, 1, 0, 32, 0]) + struct.pack("<II", len(inner), 22) + inner


def _claims_jp2() -> bytes:
    data = encoded(Image.new("L", (_SIDE, _SIDE)), "JPEG2000")
    return data.replace(struct.pack(">II", _SIDE, _SIDE), struct.pack(">II", 2**31 - 1, 2**31 - 1))


def _claims_avif() -> bytes:
    data = encoded(photo(0), "AVIF")
    return data.replace(struct.pack(">II", _SIDE, _SIDE), struct.pack(">II", 65_535, 65_535))
