"""Letters that were hidden from a tokenizer are found again, and texts that hide nothing stay as they are."""

from __future__ import annotations

import builtins
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.encoders.normalizers import text_normalizer
from cotune.encoders.resolve import load_encoder_config, resolve_text
from cotune.errors import ConfigError, EncoderError
from cotune.explain.segments import segment
from cotune.predict import Predictor
from cotune.run import load_run, save_run
from cotune.settings import FitConfig
from runs import tiny_fit
from tiny import Zoo

LEVELS = ("invisible", "confusables", "leet")
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u061c\u115f\u1160\u17b4\u180e\u202e\u2066\u2069\u3164\uffa0\ufe0f\u2062\U000e0061\U000e0101\x00\x7f\ufff9"


def plain(text: str, level: str = "leet") -> str:
    return str(text_normalizer(level).normalize_str(text))  # type: ignore[arg-type]


@pytest.mark.parametrize("hidden", INVISIBLE)
def test_invisible_characters_within_words_are_removed(hidden: str) -> None:
    assert plain(hidden.join("hate"), "invisible") == "hate"
    assert plain(f"{hidden}I {hidden}hate{hidden} it", "invisible") == "I hate it"


@pytest.mark.parametrize(
    "text",
    [
        "\u2764\ufe0f \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f469\U0001f3fd\u200d\U0001f680 1\ufe0f\u20e3",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # a flag
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
        "\u0915\u094d\u200d\u0937 \u0930\u200d\u094d\u09af",  # Devanagari
        "\u0e20\u0e32\u0e29\u0e32\u200b\u0e44\u0e17\u0e22",  # Thai, a place where a line may break
        "ti\u00ea\u0301ng Vie\u0323\u0302t e\u0301 \u03c9\u0314\u0342\u0345",
        "\u845b\U000e0100 \u0664\u0665\u0666",
        "tabs\tand\nlines and\u00a0spaces",
        "\u0600\u0661\u0662",  # a sign that is of the category of invisible ones, and seen
    ],
)
def test_what_unicode_gives_a_meaning_stays(text: str) -> None:
    assert plain(text) == text


def test_heaped_marks_and_strokes_are_removed() -> None:
    marks = [chr(code) for code in range(0x300, 0x334)]
    heaped = "".join(letter + "".join(random.Random(at).sample(marks, 9)) for at, letter in enumerate("hate"))
    assert plain(heaped, "invisible") == "hate"
    assert plain("h\u0336a\u0336t\u0336e\u0336", "invisible") == "hate"
    assert plain("h\u0489a\u20dd te", "invisible") == "ha te"


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        ("h\u0430te", "hate"),
        ("\u0420\u0430ypal", "Paypal"),
        ("\u0397\u0391TE", "HATE"),  # Greek
        ("h\u200b\u0430te", "hate"),
        ("\U0001d421\U0001d41a\U0001d42d\U0001d41e", "hate"),
        ("\uff48\uff41\uff54\uff45 \u24d7\u24d0\u24e3\u24d4", "hate hate"),
        ("\U0001f177\U0001f170\U0001f183\U0001f174 \u029c\u1d00\u1d1b\u1d07", "HATE hate"),
        ("\u043f\u0430\u0441c\u0430\u0436\u0438\u0440", "\u043f\u0430\u0441\u0441\u0430\u0436\u0438\u0440"),
    ],
)
def test_lookalikes_in_words_of_two_scripts_are_replaced(shown: str, meant: str) -> None:
    assert plain(shown, "confusables") == meant
    if "\u200b" not in shown:
        assert plain(shown, "invisible") == shown


@pytest.mark.parametrize(
    "text",
    [
        "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0410 \u0441\u043e\u0441\u043d\u0430",
        "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u03ba\u03cc\u03c3\u03bc\u03b5, \u03bf\u03bd",
        "\u03b2-carotene, \u0394t, 5 \u00b5m, Stra\u00dfe, na\u00efve \u00d8l, \u0131s\u0131",
        "\u65e5\u672c\u8a9e\uff17 \ud55c\uad6d\uc5b4 \u05e9\u05dc\u05d5\u05dd \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
        "x\u00b2 \u00bd \u2460 1\u00aa n\u00ba \U0001f171 \u2139\ufe0f",
    ],
)
def test_texts_of_one_script_stay(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        ("h4te l33t n00b h4t3 s3x sh1t", "hate leet noob hate sex shit"),
        ("$hit a$$ 4ssh0le b@stard Micro$oft #h4te", "shit ass asshole bastard Microsoft #hate"),
        ("h\u200b4te h4t\u0435", "hate hate"),
    ],
)
def test_digits_within_words_are_letters(shown: str, meant: str) -> None:
    assert plain(shown) == meant


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "text",
    [
        "4 2nd 4th 10k 1980s 3d 5g 12x10cm covid19 mp3 h1n1 ps4 iphone5s 4ever 2 day",
        "@h4te m3@m4il.org http://t.co/h4te www.l33t.com/a4b US$5 $5 5$ A4 w8 gr8 like4like Run4Life",
    ],
)
def test_numbers_names_and_links_stay(text: str, level: str) -> None:
    assert plain(text, level) == text


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_normalising_ends_and_is_settled(text: str) -> None:
    for level in ("invisible", "confusables"):
        once = plain(text, level)
        assert plain(once, "invisible") == once or len(plain(once, "invisible")) < len(once)
        assert not set(once) & (set(INVISIBLE) - set("\u200b\u200c\u200d\u180e\ufe0f\u115f\u1160\U000e0061\U000e0101"))
    assert len(plain(text)) <= len(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=9), min_size=1, max_size=6), st.randoms())
def test_any_word_is_found_below_any_disguise(words: list[str], chance: random.Random) -> None:
    disguised = " ".join("".join(letter + chance.choice(INVISIBLE) for letter in word) for word in words)
    assert plain(disguised, "invisible") == " ".join(words)


@pytest.mark.parametrize(
    "part", ["\u0430", "a\u0430", "h4", "4", "$", "a\u0301", "\u200d", "@", "\U0001d41a", "4a\u0430"]
)
def test_time_is_linear_in_the_text(part: str) -> None:
    def seconds(n: int) -> float:
        started = time.process_time()
        plain(part * n)
        return time.process_time() - started

    plain("a")
    assert min(seconds(8000), seconds(8000)) < 12 * min(seconds(2000), seconds(2000)) + 0.05


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_it_is_part_of_the_saved_tokenizer(kind: str, zoo: Zoo, tmp_path: Path) -> None:
    spec = str(zoo(kind))
    config = FitConfig(text_encoder=spec, normalize_text="leet")
    encoder = _open(config)
    hidden, meant = "so h\u200b\u0430t\u0435 my d0g d0gs", "so hate my dog dogs"
    usual = resolve_text(spec)
    assert encoder.tokenize([hidden])[0].tolist() == usual.tokenize([meant])[0].tolist()
    assert usual.tokenize([hidden])[0].tolist() != usual.tokenize([meant])[0].tolist()
    encoder.save_config(tmp_path)
    opened: Any = load_encoder_config(tmp_path)
    assert opened.normalize_text == "leet"
    assert opened.describe() == encoder.describe()
    assert opened.tokenize([hidden])[0].tolist() == usual.tokenize([meant])[0].tolist()


def _open(config: FitConfig) -> Any:
    from cotune.encoders.resolve import open_encoder

    return open_encoder(config.read_fields()[0], config)


def test_words_of_an_explanation_are_those_of_the_post(zoo: Zoo) -> None:
    encoder = _open(FitConfig(text_encoder=str(zoo("bert")), normalize_text="leet"))
    text = "so h\u200b\u0430t\u0435 the f\u00adilm, \U0001d421\U0001d41a\U0001d42d\U0001d41e d0gs h\u0301\u0302\u0303\u0304ate"
    found = segment(encoder, text)
    words = [found.word(at) for at in range(len(found.words))]
    assert "".join("".join(words).split()) == "".join(text.split())
    ids = {
        text[word.start : word.end]: [int(encoder.tokenize([text])[0][t]) for t in word.tokens] for word in found.words
    }
    vocabulary = encoder.tokenizer.get_vocab()
    for shown in ("h\u200b\u0430t\u0435", "\U0001d421\U0001d41a\U0001d42d\U0001d41e", "h\u0301\u0302\u0303\u0304ate"):
        assert ids[shown] == [vocabulary["hate"]]
    assert ids["f\u00adilm"] == [vocabulary["film"]]
    assert ids["d0gs"] == encoder.tokenizer("dogs", add_special_tokens=False)["input_ids"]


def test_a_run_scores_a_disguised_post_as_the_plain_one(zoo: Zoo, tmp_path: Path) -> None:
    posts = pd.DataFrame({"id": ["a", "b"], "text": ["i hate my dog", "i h\u200b\u0430te my d\u00ad0\u200bg d0gs"], "image": None,
                          "row": [1, 2], "error": None})  # fmt: skip
    posts.loc[0, "text"] = "i hate my dog dogs"
    for level in ("none", "leet"):
        run = tiny_fit(zoo, tmp_path / level, tune="frozen", normalize_text=level, fusion="text").run
        save_run(tmp_path / level / "run", run)
        found = Predictor(load_run(tmp_path / level / "run")).scores(posts)
        assert found.errors == ["", ""]
        assert np.allclose(found.predictions[0], found.predictions[1], atol=1e-6) == (level == "leet")


def test_a_tokenizer_of_another_library_is_refused(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = resolve_text(str(zoo("bert")))
    encoder.tokenizer = object()
    with pytest.raises(EncoderError, match="leave normalize-text out"):
        encoder.normalize("invisible")


def test_a_missing_package_is_named(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "disarm":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    text_normalizer.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'cotune\[evasion\]'"):
        text_normalizer("confusables")
    text_normalizer("invisible")
    text_normalizer.cache_clear()


@pytest.mark.parametrize("level", LEVELS)
def test_the_setting_is_recorded(level: str) -> None:
    assert FitConfig(normalize_text=level).normalize_text == level  # type: ignore[arg-type]
    assert FitConfig().normalize_text == "none"


def test_an_export_reads_texts_alike_without_the_package(zoo: Zoo, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from tokenizers import Tokenizer

    from cotune.export.describe import describe_field
    from cotune.export.inputs import TextReader

    encoder = _open(FitConfig(text_encoder=str(zoo("bert")), normalize_text="leet"))
    about = describe_field(encoder, tmp_path, "text")
    texts = ["so h\u200b\u0430t\u0435 my d0gs", "so hate my dogs"]
    with ThreadPoolExecutor(1) as pool:
        rows = TextReader(tmp_path / about["tokenizer"], about).read(texts, pool).rows
    assert rows[0].tolist() == rows[1].tolist() == encoder.tokenize(texts)[0].tolist()
    # As the page beside an export says to read it.
    assert Tokenizer.from_file(str(tmp_path / about["tokenizer"])).encode(texts[0]).ids == rows[0].tolist()
