"""What letters hidden in texts cost a model, and what `--normalize-text` wins back.

    pip download --no-deps augly==1.0.0 silverspeak==3.0.0 -d wheels  # their tables are read, their code is not run
    python benchmarks/evasion.py posts.csv --tables wheels --out evasion --seeds 0,1,2

For each seed a fifth of the posts, grouped by near-duplicates, is held out, and a frozen run (with text and image, and
with text alone) trained on the others as they are. The held-out texts are then attacked: of the words with at least
three letters a share (`--words`) is changed, within such a word half of the letters, at least one. Lookalike letters
are those of silverspeak and AugLy, styled ones and leetspeak those of AugLy: other tables than the normaliser's.
Reported: macro AUC of clean and attacked texts without and with normalisation, the same heads for all; the part of the
texts whose tokens are those of the clean text; how many clean texts each level changes, and texts per second.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import time
import unicodedata
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from cotune.benchmark.folds import cut_posts, posts_of
from cotune.benchmark.plan import Plan
from cotune.data.posts import read_posts
from cotune.demo.posts import demo_posts_path
from cotune.encoders.normalizers import text_normalizer
from cotune.encoders.prepared_texts import PreparedTexts
from cotune.encoders.resolve import resolve_text
from cotune.encoders.text import TextEncoder
from cotune.environment import environment
from cotune.files import write_json
from cotune.progress import TerminalProgress
from cotune.settings import FitConfig, NormalizeText, make_config
from cotune.training.build import open_encoders, prepare_posts, read_options
from cotune.training.features import Features
from cotune.training.model_rows import predict_rows
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import TrainingData

LEVELS: tuple[NormalizeText, ...] = get_args(NormalizeText)
READS = {"text and image": "attention", "text": "text"}
Attack = Callable[[str, random.Random], str]


def attacks(tables: Path) -> dict[str, Attack]:
    """Return what changes a word, by kind of attack."""
    with _wheel(tables, "augly") as file:
        letters = json.loads(file.read("augly/assets/text/letter_unicode_mapping.json"))
        fonts = json.loads(file.read("augly/assets/text/fun_fonts.json"))
        source = file.read("augly/text/augmenters/utils.py").decode()
    with _wheel(tables, "silverspeak") as file:
        identical = json.loads(file.read("silverspeak/homoglyphs/identical_map.json"))
    start = source.index("LETTER_CHAR_MAPPING = ")
    leet = ast.literal_eval(source[source.index("{", start) : source.index("}", start) + 1])
    every = [chr(code) for code in range(128, 0x110000)]
    seen = ("ARABIC", "SYRIAC", "KAITHI")  # signs around numbers, of the same category as what is invisible
    hidden = [c for c in every if unicodedata.category(c) == "Cf" and not unicodedata.name(c, "").startswith(seen)]
    hidden += list("\u034f\u115f\u1160\u3164\uffa0\ufe00\ufe0f")
    bidi = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u2066\u2067\u2068\u2069")
    styles = [style for style in fonts.values() if isinstance(style, dict)]
    found: dict[str, Attack] = {
        "zero-width": _inserted(list("\u200b\u200c\u200d\u2060\ufeff")),
        "invisible, any": _inserted(hidden),
        "bidi controls": _inserted(bidi),
        "zalgo": _heaped(3, 8),
        "one or two marks": _heaped(1, 2),
        "lookalikes (silverspeak)": _replaced(identical),
        "lookalikes (AugLy)": _replaced({key: [v for v in value if not v.isascii()] for key, value in letters.items()}),
        "styled letters": lambda word, chance: _every(word, chance.choice(styles)),
        "leetspeak": _replaced(leet),
        "leetspeak, one sign a word": _replaced(
            {key: [v for v in value if len(v) == 1 and not v.isalpha()] for key, value in leet.items()}, one=True
        ),
    }
    kinds = list(found.values())
    return {**found, "mixed": lambda word, chance: chance.choice(kinds)(word, chance)}


def _wheel(tables: Path, name: str) -> zipfile.ZipFile:
    found = next(iter(sorted(tables.glob(f"{name}-*.whl"))), None)
    if found is None:
        raise SystemExit(f"{tables} has no wheel of {name}; get it with: pip download --no-deps {name} -d {tables}")
    return zipfile.ZipFile(found)


def _some(word: str, chance: random.Random, may: Callable[[str], bool] = str.isalpha, *, one: bool = False) -> set[int]:
    """Return the places of half of the letters that may be changed, at least one; or of one alone."""
    places = [at for at, letter in enumerate(word) if may(letter)]
    return set(chance.sample(places, 1 if one else max(1, round(len(places) / 2)))) if places else set()


def _inserted(letters: Sequence[str]) -> Attack:
    def attack(word: str, chance: random.Random) -> str:
        some = _some(word, chance)
        return "".join(letter + (chance.choice(letters) if at in some else "") for at, letter in enumerate(word))

    return attack


def _heaped(low: int, high: int) -> Attack:
    marks = [chr(code) for code in range(0x300, 0x370) if code != 0x34F]

    def attack(word: str, chance: random.Random) -> str:
        some = _some(word, chance)
        piles = {at: "".join(chance.choices(marks, k=chance.randint(low, high))) for at in sorted(some)}
        return "".join(letter + piles.get(at, "") for at, letter in enumerate(word))

    return attack


def _replaced(table: Mapping[str, Sequence[str]], *, one: bool = False) -> Attack:
    def attack(word: str, chance: random.Random) -> str:
        def options(letter: str) -> Sequence[str]:
            return table.get(letter) or table.get(letter.lower()) or ()

        some = _some(word, chance, lambda letter: letter.isascii() and bool(options(letter)), one=one)
        return "".join(chance.choice(options(c)) if at in some else c for at, c in enumerate(word))

    return attack


def _every(word: str, style: Mapping[str, str]) -> str:
    return "".join(style.get(letter, letter) for letter in word)


def attacked(text: str, attack: Attack, words: float, chance: random.Random) -> str:
    """Return a text with a share of its words changed; links and mentions stay."""
    parts = text.split(" ")
    open_to = [i for i, w in enumerate(parts) if sum(map(str.isalpha, w)) > 2 and not w.startswith(("@", "http"))]
    chosen = chance.sample(open_to, max(1, round(words * len(open_to)))) if open_to else []
    for at in chosen:
        parts[at] = attack(parts[at], chance)
    return " ".join(parts)


class Seed:
    """One cut of the posts, with heads trained on the larger part."""

    def __init__(self, posts: pd.DataFrame, config: FitConfig, seed: int, folds: int, progress: Any) -> None:
        self.config = config.model_copy(update={"seed": seed})
        plan = Plan(("probe",), ((config.text_encoder, config.image_encoder),), folds, fold_seed=seed, fit=self.config,
                    emap=0, seeds=(seed,))  # fmt: skip
        cut = cut_posts(posts, plan)
        self.task, targets = cut.task, cut.targets
        table = posts_of(posts, cut)
        self.encoders = open_encoders(self.config)
        features = prepare_posts(table, self.encoders, self.config, read_options(self.config, progress=progress))
        train, self.test = cut.train(0), cut.test(0)
        self.texts, self.targets = table["text"].iloc[self.test].tolist(), targets[self.test]
        self.models: dict[str, Trained] = {}
        for name, fusion in READS.items():
            settings = self.config.model_copy(update={"fusion": fusion})
            self.models[name] = Trainer(TrainingData(features, targets, train), self.task, settings).fit()
        self.features = features.subset(self.test)

    def auc(self, tokens: list[np.ndarray], present: np.ndarray) -> dict[str, float]:
        """Return the macro AUC of each head on the held-out posts with other texts."""
        encoder = self.encoders["text"]
        assert isinstance(encoder, TextEncoder)
        texts = PreparedTexts(tokens, present, encoder.collate)
        features: Features = replace(self.features, fields={**self.features.fields, "text": texts})
        features.compute("text", "pooled", encoder)
        found = {}
        for name, trained in self.models.items():
            rows = np.arange(len(features))
            proba = predict_rows(trained.model, self.task, features, rows, trained.source)
            scores = proba[:, 1] if proba.shape[1] == 2 else proba
            found[name] = float(roc_auc_score(self.targets, scores, multi_class="ovr", average="macro"))
        return found


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", help="a posts table, or demo")
    parser.add_argument("--tables", type=Path, required=True, help="folder with the wheels of augly and silverspeak")
    parser.add_argument("--out", type=Path, required=True, help="folder for evasion.json")
    parser.add_argument("--words", type=float, default=0.5, help="share of the words that is attacked")
    parser.add_argument("--seeds", default="0,1,2", help="of cut, training and attack")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], help="a setting of fit, as in max-tokens=64")
    args = parser.parse_args(given)
    posts = read_posts(demo_posts_path() if args.posts == "demo" else args.posts, require_labels=True)
    posts = posts[posts["label"].notna()].reset_index(drop=True)
    # Padding and batches of another shape change the last digits alone; the engine of torch is the simplest.
    own = {name.replace("-", "_"): value for name, _, value in (word.partition("=") for word in args.set)}
    config = make_config({"tune": "frozen", "engine": "torch", **own})
    kinds, progress = attacks(args.tables), TerminalProgress()
    levels: dict[str, TextEncoder] = {}
    for level in LEVELS:
        levels[level] = resolve_text(config.text_encoder, max_tokens=config.max_tokens)
        levels[level].normalize(level)
    rows: list[dict[str, Any]] = []
    for seed in map(int, args.seeds.split(",")):
        cut = Seed(posts, config, seed, args.folds, progress)
        plain = levels["none"].tokenize(cut.texts)
        present = np.asarray([bool(text) for text in cut.texts])
        for kind in ("clean", *kinds):
            chance = random.Random(f"{seed} {kind}")
            texts = [
                text if kind == "clean" or not text else attacked(text, kinds[kind], args.words, chance)
                for text in cut.texts
            ]
            for level, encoder in levels.items():
                tokens = encoder.tokenize(texts)
                same = np.mean([np.array_equal(a, b) for a, b in zip(tokens, plain, strict=True)])
                rows.append({"seed": seed, "attack": kind, "level": level, "same tokens": float(same),
                             **cut.auc(tokens, present)})  # fmt: skip
                print(rows[-1], flush=True)
    texts = [text for text in posts["text"] if text]
    harm = {level: _cost(level, texts) for level in LEVELS[1:]}
    about = {k: v for k, v in environment(0, "", "cpu").items() if k not in ("data_hash", "seed")}
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "evasion.json", {"posts": len(posts), "words": args.words, "folds": args.folds, "rows": rows,
                                           "clean": harm, "environment": about})  # fmt: skip
    print(table(pd.DataFrame(rows)))
    print("\n| level | texts | changed | texts per second |\n|---|---|---|---|")
    for level, found in harm.items():
        print(f"| {level} | {' | '.join(f'{value:,}' for value in found.values())} |")
    print(about)


def _cost(level: NormalizeText, texts: Sequence[str]) -> dict[str, float]:
    normalizer = text_normalizer(level)
    started = time.process_time()  # whatever else the machine does
    found = [normalizer.normalize_str(text) for text in texts]
    seconds = time.process_time() - started
    changed = sum(a != b for a, b in zip(texts, found, strict=True))
    return {"texts": len(texts), "changed": changed, "texts per second": round(len(texts) / seconds)}


def table(rows: pd.DataFrame) -> str:
    """Return a Markdown table: means over seeds, and the range of the gain by the last level, seed by seed."""
    lines = []
    for reads in READS:
        lines += [f"\n{reads}", f"| texts | {' | '.join(LEVELS)} | gain | same tokens |", f"|---|{'---|' * 6}"]
        for kind, part in rows.groupby("attack", sort=False):
            wide = part.pivot_table(index="seed", columns="level", values=reads)
            gain = wide[LEVELS[-1]] - wide["none"]
            same = part.groupby("level")["same tokens"].mean()
            cells = [f"{wide[level].mean():.3f}" for level in LEVELS]
            lines.append(
                f"| {kind} | {' | '.join(cells)} | {gain.mean():+.3f} ({gain.min():+.3f} to {gain.max():+.3f}) "
                f"| {' / '.join(f'{same[level]:.0%}' for level in LEVELS)} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
