from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from architectures import TEXT, make_text
from cotune.encoders.resolve import resolve_text
from cotune.errors import CotuneError
from cotune.explain.faithfulness import (
    curve_areas,
    random_orders,
    ranking,
    with_random_weights,
    word_evaluator,
)
from cotune.explain.segments import find_words, segment
from cotune.explain.target import Target
from cotune.explain.words import explain_words, left_out, rank_correlation, word_embeddings, word_gradients
from cotune.heads import make_head
from cotune.model import Batch, JointModel
from cotune.tasks.single_label import SingleLabel
from explained import explainer, post, random_run, ruled_posts, ruled_run
from tiny import TEXTS, Zoo, picture

torch.set_num_threads(1)


def target_of(zoo: Zoo, text: str, kind: str = "distilbert") -> Target:
    return explainer(random_run(zoo, text=kind)).target(post(text, picture(1)), "text")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'm sooo happy!!!", ["I'm", "sooo", "happy", "!!!"]),
        ("#LegDay @joe_x well-known, ok...", ["#LegDay", "@joe_x", "well-known", ",", "ok", "..."]),
        ("#happy#sad", ["#happy", "#sad"]),
        ("see https://t.co/a?b=1#c now", ["see", "https://t.co/a?b=1#c", "now"]),
        (":-) \U0001f600\U0001f600", [":-)", "\U0001f600", "\U0001f600"]),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 x", ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "x"]),
        ("\U0001f44d\U0001f3fd\U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea", ["\U0001f44d\U0001f3fd", "\U0001f1eb\U0001f1f7", "\U0001f1e9\U0001f1ea"]),
        ("1\ufe0f\u20e3 ok", ["1\ufe0f\u20e3", "ok"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("안녕 하세요", ["안녕", "하세요"]),
        ("", []),
        (" \n\t ", []),
    ],
)  # fmt: skip
def test_words_are_what_a_reader_sees(text: str, words: list[str]) -> None:
    assert [text[a:b] for a, b in find_words(text)] == words


def test_scripts_without_spaces_are_cut_where_tokens_begin() -> None:
    text = "今日は楽しい"
    assert [text[a:b] for a, b in find_words(text, [0, 2, 3])] == ["今日", "は", "楽しい"]
    assert [text[a:b] for a, b in find_words(text)] == [text]


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_words_hold_every_visible_character_once(text: str) -> None:
    spans = find_words(text)
    assert all(a < b for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
    covered = {i for a, b in spans for i in range(a, b)}
    assert all(char.isspace() for i, char in enumerate(text) if i not in covered)


@pytest.mark.parametrize("kind", TEXTS)
def test_every_token_but_the_special_ones_has_one_word(zoo: Zoo, kind: str) -> None:
    encoder = zoo.text(kind)
    text = "The good DOG is unbelievable! #sunday \U0001f600 今日"
    parts = segment(encoder, text)
    row = encoder.tokenize([text])[0].tolist()
    mask = encoder.tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]
    owned = [token for span in parts.words for token in span.tokens]
    assert sorted(owned) == [i for i in range(len(row)) if not mask[i]]
    assert [parts.word(i) for i in range(len(parts.words))][:6] == ["The", "good", "DOG", "is", "unbelievable", "!"]
    assert (parts.text, parts.cut) == (text, 0)


@given(text=st.text(max_size=120))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_can_be_cut(zoo: Zoo, text: str) -> None:
    encoder = zoo.text("bert")
    parts = segment(encoder, text)
    assert text.startswith(parts.text)
    assert len(parts.text) + parts.cut == len(text)
    tokens = [token for span in parts.words for token in span.tokens]
    assert len(tokens) == len(set(tokens))
    assert parts.without(range(len(parts.words))).strip() == ""


def test_words_behind_the_limit_are_not_read(zoo: Zoo) -> None:
    encoder = zoo.text("bert", max_tokens=8)
    text = "good good bad bad dog dog cat cat food food"
    parts = segment(encoder, text)
    assert [parts.word(i) for i in range(len(parts.words))] == ["good", "good", "bad", "bad", "dog", "dog"]
    assert parts.cut == len(" cat cat food food")
    halved = segment(encoder, "good good bad bad dog wxyz")
    assert halved.word(len(halved.words) - 1) == "w"


def test_a_tokenizer_without_places_falls_back_to_white_space(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = zoo.text("bert")
    monkeypatch.setattr(type(encoder.tokenizer), "is_fast", False)
    parts = segment(encoder, "the good, bad dogs!")
    assert [parts.word(i) for i in range(len(parts.words))] == ["the", "good,", "bad", "dogs!"]
    assert sorted(t for span in parts.words for t in span.tokens) == list(range(1, parts.n_tokens - 1))


def test_a_word_left_out_takes_its_space_along(zoo: Zoo) -> None:
    parts = segment(zoo.text("bert"), "the good dog!")
    assert parts.without([1]) == "the dog!"
    assert parts.without([0]) == " good dog!"
    assert parts.without([2, 3]) == "the good "
    assert parts.without([]) == "the good dog!"


@pytest.mark.parametrize("kind", TEXTS)
def test_gradients_add_up_to_what_the_words_changed(zoo: Zoo, kind: str) -> None:
    text = "the good dog is so very unhappy! #sunday love rain \U0001f600"
    found = explain_words(target_of(zoo, text, kind), text)
    total = sum(word.gradient for word in found.words)
    assert total == pytest.approx(found.value - found.baseline, abs=0.03 * max(abs(found.value - found.baseline), 0.1))
    assert found.error <= 0.03
    assert any(abs(word.gradient) > 1e-4 for word in found.words)
    assert all(text[word.start : word.end] == word.text for word in found.words)


def test_left_out_is_the_change_when_the_word_is_gone(zoo: Zoo) -> None:
    text = "good bad dog"
    explain = explainer(random_run(zoo))
    target = explain.target(post(text, picture(1)), "text")[0]
    parts = segment(target.text_encoder, text)
    lost = left_out(target, parts)
    fewer = explain.target(post("good dog", picture(1)), "text")[0]
    other = Target(fewer.model, fewer.batch, "text", target.index)
    assert lost[1] == pytest.approx(target.value - other.value, abs=1e-4)


def test_a_single_word_left_out_leaves_no_text(zoo: Zoo) -> None:
    explain = explainer(random_run(zoo))
    target = explain.target(post("good", picture(1)), "text")[0]
    lost = left_out(target, segment(target.text_encoder, "good"))
    gone = explain.target(post(None, picture(1)), "text")[0]
    other = Target(gone.model, gone.batch, "text", target.index)
    assert lost[0] == pytest.approx(target.value - other.value, abs=1e-4)


def test_the_class_explained_is_the_predicted_one_unless_said(zoo: Zoo) -> None:
    target = target_of(zoo, "good dog")
    values = [Target(target.model, target.batch, "text", i).value for i in range(3)]
    assert target.index == int(np.argmax(values))


def test_white_space_and_one_letter(zoo: Zoo) -> None:
    target = target_of(zoo, "x")
    found = explain_words(target, "x")
    assert [word.text for word in found.words] == ["x"]
    assert found.agreement is None
    assert explain_words(target, "  ").words == ()


def test_without_captum_the_extra_is_named(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    target = target_of(zoo, "good dog")
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("captum"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CotuneError, match=r"pip install 'cotune\[explain\]'"):
        explain_words(target, "good dog")


def test_a_network_without_word_embeddings_is_refused(zoo: Zoo) -> None:
    encoder = zoo.text("bert")
    encoder.model = torch.nn.Linear(2, 2)
    with pytest.raises(CotuneError, match="no layer of word embeddings"):
        word_embeddings(encoder)


def test_dual_encoders_have_words_too(tmp_path: Path) -> None:
    import transformers as t

    from cotune.encoders.dual import DualTextEncoder
    from tiny import make_tokenizer, stir

    sides = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = t.CLIPTextConfig(**sides, vocab_size=128, max_position_embeddings=20, eos_token_id=3, bos_token_id=2)
    sight = t.CLIPVisionConfig(**sides, image_size=32, patch_size=8)
    dual = stir(
        t.CLIPModel(t.CLIPConfig(text_config=words.to_dict(), vision_config=sight.to_dict(), projection_dim=24))
    )
    encoder = DualTextEncoder(dual, make_tokenizer("bert"), spec="clip", max_tokens=20)
    head = make_head("text", {"text": encoder.dim}, 2)
    model = JointModel({"text": encoder}, head, SingleLabel("ab")).requires_grad_(False).eval()
    text = "the good dog"
    batch = Batch(torch.tensor([[True]]), ("text",), {"text": encoder.collate(encoder.tokenize([text]))})
    found = explain_words(Target(model, batch, "text"), text)
    assert [word.text for word in found.words] == ["the", "good", "dog"]
    assert found.error <= 0.03
    assert any(word.gradient for word in found.words)


def test_the_telling_word_leads_and_order_beats_chance(zoo: Zoo, tmp_path: Path) -> None:
    run = ruled_run(zoo, tmp_path, lambda word, colour: word, fusion="concat")
    explain = explainer(run)
    random = np.random.default_rng(0)
    margins = []
    for i in range(8):
        one = ruled_posts(tmp_path / "posts", lambda word, colour: word, 8, seed=5).iloc[[i]].reset_index(drop=True)
        one["text"] = one["text"] + " the rain day dog cat"
        target, _ = explain.target(one, "text")
        parts = segment(target.text_encoder, one["text"][0])
        gradients = word_gradients(target, parts)[0]
        orders = {"random": random_orders(len(parts.words), 5, random), "gradients": [ranking(gradients)]}
        areas = curve_areas(word_evaluator(target, parts), orders)
        margins.append((areas["random"][0] - areas["gradients"][0], areas["gradients"][1] - areas["random"][1]))
    deletion, insertion = np.mean(margins, axis=0)
    assert deletion > 0.02
    assert insertion > 0.02


def test_random_weights_give_another_explanation(zoo: Zoo, tmp_path: Path) -> None:
    run = ruled_run(zoo, tmp_path, lambda word, colour: word, fusion="concat")
    text = "good rain day bad dog the happy food love sun"
    target, batch = explainer(run).target(post(text, picture(1)), "text")
    parts = segment(target.text_encoder, text)
    mine = word_gradients(target, parts, 32)[0]
    assert rank_correlation(mine, word_gradients(target, parts, 32)[0]) == pytest.approx(1)
    correlations = []
    for seed in range(6):
        other = with_random_weights(run.model, ("head", "text", "image"), seed)
        theirs = word_gradients(Target(other, batch, "text", target.index), parts, 32)[0]
        correlations.append(rank_correlation(mine, theirs))
    assert abs(np.mean(correlations)) < 0.5
    assert max(correlations) < 0.95
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with_random_weights(run.model, ("head",), 0)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize("name", ["XLNet", "Longformer", "FNet"])
def test_networks_that_turn_or_pad_their_embeddings(name: str, tmp_path: Path) -> None:
    found = explain_words(opened_target(name, tmp_path), "the dog so happy")
    assert len(found.words) == 4
    assert found.error < 0.05
    assert any(abs(word.gradient) > 1e-6 for word in found.words)


def test_a_network_that_passes_no_gradients_is_named(tmp_path: Path) -> None:
    with pytest.raises(CotuneError, match="passes no gradients to its word embeddings"):
        explain_words(opened_target("I-BERT", tmp_path), "the dog so happy")


def opened_target(name: str, folder: Path) -> Target:
    make_text(next(a for a in TEXT if a.name == name), folder)
    encoder = resolve_text(str(folder), pooling="mean")
    torch.manual_seed(0)
    head = make_head("text", {"text": encoder.dim}, 2, width=8)
    model = JointModel({"text": encoder}, head, SingleLabel("ab")).eval()
    inputs = {"text": encoder.collate(encoder.tokenize(["the dog so happy"]))}
    return Target(model, Batch(torch.tensor([[True]]), ("text",), inputs), "text")
