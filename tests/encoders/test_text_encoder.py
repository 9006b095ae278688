from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Regex
from transformers import AutoModel, AutoTokenizer

from architectures import TEXT, make_text
from cotune.encoders.pooling import choose_pooling
from cotune.encoders.resolve import load_encoder_config, resolve_text
from cotune.encoders.text import TextEncoder
from cotune.errors import EncoderError
from tiny import TEXTS, Zoo, make_text_model, make_tokenizer, stir

SENTENCES = ["a good day !", "so", "the dog and the cat hate the rain"]


@pytest.mark.parametrize("kind", TEXTS)
def test_says_what_the_library_says(zoo: Zoo, kind: str) -> None:
    encoder = zoo.text(kind)
    tokenizer = AutoTokenizer.from_pretrained(zoo(kind), local_files_only=True)
    model = AutoModel.from_pretrained(zoo(kind), local_files_only=True).eval()
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        theirs = model(**inputs).last_hidden_state
        ours = encoder(encoder.collate(encoder.tokenize(SENTENCES)))
    assert ours.pooled.shape == (3, 32)
    torch.testing.assert_close(ours.states, theirs, atol=1e-6, rtol=1e-6)
    mask = inputs["attention_mask"].bool()
    assert torch.equal(ours.mask, mask)
    expected = theirs[:, 0] if encoder.pooling == "cls" else torch.stack(
        [row[real].mean(dim=0) for row, real in zip(theirs, mask, strict=True)]
    )  # fmt: skip
    torch.testing.assert_close(ours.pooled, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", TEXTS)
def test_opens_in_evaluation_mode_with_three_layers(zoo: Zoo, kind: str) -> None:
    encoder = zoo.text(kind)
    assert len(encoder.units) == 3
    assert not any(module.training for module in encoder.modules())
    assert encoder.n_parameters() == sum(p.numel() for p in encoder.model.parameters())


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_neighbours_in_a_batch_change_nothing(zoo: Zoo, kind: str, pooling: str) -> None:
    encoder = zoo.text(kind, pooling=pooling)
    rows = encoder.tokenize(SENTENCES)
    with torch.no_grad():
        together = encoder(encoder.collate(rows)).pooled
        alone = torch.cat([encoder(encoder.collate([row])).pooled for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", TEXTS)
def test_config_saved_and_built_anew(zoo: Zoo, kind: str, tmp_path: Path) -> None:
    encoder = zoo.text(kind, pooling="mean", max_tokens=20)
    encoder.save_config(tmp_path / "encoder")
    assert not list((tmp_path / "encoder").glob("*.safetensors"))
    again = load_encoder_config(tmp_path / "encoder")
    assert isinstance(again, TextEncoder)
    assert (again.pooling, again.max_tokens, again.spec) == ("mean", 20, str(zoo(kind)))
    again.load_state_dict(encoder.state_dict(), strict=True)
    inputs = encoder.collate(encoder.tokenize(SENTENCES))
    with torch.no_grad():
        torch.testing.assert_close(again(inputs).pooled, encoder(inputs).pooled, atol=0, rtol=0)
    again.weights_changed()
    assert again.fingerprint() == encoder.fingerprint()


def test_tokens(zoo: Zoo) -> None:
    encoder = zoo.text("bert", max_tokens=8)
    rows = encoder.tokenize(["a good day", "", None, "good " * 500, "\u202emixed \U0001f600 مرحبا"])
    assert all(row.dtype == np.int32 and 2 <= len(row) <= 8 for row in rows)
    assert rows[1].tolist() == rows[2].tolist(), "no text is tokenised as an empty one"
    assert encoder.tokenize([]) == []


def test_a_million_characters_are_cut_before_they_are_tokenised(zoo: Zoo) -> None:
    encoder = zoo.text("bert", max_tokens=16)
    seen = []
    real = encoder.tokenizer
    encoder.tokenizer = lambda texts, **settings: seen.extend(map(len, texts)) or real(texts, **settings)
    assert len(encoder.tokenize(["good " * 200_000])[0]) == 16
    assert max(seen) <= 16 * 32


@pytest.mark.parametrize("prefix", [" ", "\n", "\u200b", "\ufeff", "\u00ad"])
def test_text_behind_a_long_prefix_that_gives_no_token_is_read(tmp_path: Path, prefix: str) -> None:
    from tokenizers import normalizers

    tokenizer = make_tokenizer("bert")
    strip = normalizers.Replace(Regex("[\u200b\ufeff\u00ad]"), "")
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([strip, normalizers.Lowercase()])
    tokenizer.save_pretrained(tmp_path)
    make_text_model("bert").save_pretrained(tmp_path)
    encoder = resolve_text(str(tmp_path), max_tokens=16)
    said = "we love the sun and hate the rain"
    assert len(encoder.tokenize([said])[0]) > 8
    for times in (100, 16 * 32, 50_000):
        assert encoder.tokenize([prefix * times + said])[0].tolist() == encoder.tokenize([said])[0].tolist()
        assert not encoder.is_cut(prefix * times + said)


def test_what_is_cut_is_known(zoo: Zoo) -> None:
    encoder = zoo.text("bert", max_tokens=8)
    assert encoder.is_cut("good " * 7)
    assert encoder.is_cut("good " * 100_000)
    assert not encoder.is_cut("good " * 6)
    assert not encoder.is_cut("")
    assert encoder.count_tokens("good " * 50) == 52


def test_collate_pads_to_the_longest_of_the_batch(zoo: Zoo) -> None:
    encoder = zoo.text("roberta")
    inputs = encoder.collate([np.asarray([0, 5, 2], np.int32), np.asarray([0, 2], np.int32)])
    assert inputs["input_ids"].tolist() == [[0, 5, 2], [0, 2, 1]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_tokenizer_without_special_tokens_still_gives_one_token(tmp_path: Path) -> None:
    make_text_model("bert").save_pretrained(tmp_path)
    make_tokenizer("bert", special=False).save_pretrained(tmp_path)
    encoder = resolve_text(str(tmp_path), pooling="mean")
    rows = encoder.tokenize(["", "good"])
    assert [len(row) for row in rows] == [1, 1]
    with torch.no_grad():
        assert torch.isfinite(encoder(encoder.collate(rows)).pooled).all()
        encoder.cut_at(1)


@pytest.mark.parametrize(
    ("kind", "asked", "length"),
    [("bert", 128, 64), ("bert", 10, 10), ("roberta", 128, 64), ("mpnet", 1000, 64)],
)
def test_length_is_bounded_by_the_tokenizer(zoo: Zoo, kind: str, asked: int, length: int) -> None:
    assert zoo.text(kind, max_tokens=asked).max_tokens == length


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "electra", "deberta-v2"])
def test_the_longest_text_fits_the_position_embeddings(tmp_path: Path, kind: str) -> None:
    make_text_model(kind, max_position_embeddings=24).save_pretrained(tmp_path)
    tokenizer = make_tokenizer(kind)
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path)
    encoder = resolve_text(str(tmp_path), max_tokens=500)
    rows = encoder.tokenize(["good day " * 100])
    assert len(rows[0]) == encoder.max_tokens
    assert encoder.max_tokens >= 22
    with torch.no_grad():
        assert torch.isfinite(encoder(encoder.collate(rows)).pooled).all()


@pytest.mark.parametrize(
    ("kind", "pooling"), [("bert", "cls"), ("distilbert", "cls"), ("roberta", "cls"), ("mpnet", "mean")]
)
def test_pooling_that_suits_the_kind(zoo: Zoo, kind: str, pooling: str) -> None:
    assert zoo.text(kind).pooling == pooling


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_what_sentence_transformers_says_comes_first(
    zoo: Zoo, tmp_path: Path, said: dict[str, object], pooling: str
) -> None:
    folder = zoo.copy("bert", tmp_path / "sentence")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    assert resolve_text(str(folder)).pooling == pooling
    assert resolve_text(str(folder), pooling="mean").pooling == "mean"


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_other_poolings_of_sentence_transformers(
    zoo: Zoo, tmp_path: Path, said: dict[str, object], pooling: str
) -> None:
    folder = zoo.copy("bert", tmp_path / "sentence")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    encoder = resolve_text(str(folder))
    assert encoder.pooling == pooling
    rows = encoder.tokenize(SENTENCES)
    with torch.no_grad():
        found = encoder(encoder.collate(rows))
    real = [states[mask] for states, mask in zip(found.states, found.mask, strict=True)]
    expected = [row.amax(dim=0) if pooling == "max" else row[-1] for row in real]
    torch.testing.assert_close(found.pooled, torch.stack(expected), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_token and mean_tokens"),
        ({}, "nothing"),
    ],
)
def test_a_pooling_that_is_not_at_hand_is_refused(
    zoo: Zoo, tmp_path: Path, said: dict[str, object], named: str
) -> None:
    folder = zoo.copy("bert", tmp_path / "sentence")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    with pytest.raises(
        EncoderError, match=f"asks for the pooling {named}, which is not available" if said else "names no pooling"
    ):
        resolve_text(str(folder))
    assert resolve_text(str(folder), pooling="cls").pooling == "cls"


def test_unknown_pooling(zoo: Zoo) -> None:
    with pytest.raises(EncoderError, match="'auto', 'cls', 'mean', 'max' or 'last', not 'mode'"):
        choose_pooling("mode", ".", zoo.text("bert").model.config)


def test_fingerprint_tells_weights_settings_and_architecture(zoo: Zoo, tmp_path: Path) -> None:
    encoder = zoo.text("bert")
    assert encoder.fingerprint() == zoo.text("bert").fingerprint()
    assert encoder.fingerprint() == resolve_text(str(zoo.copy("bert", tmp_path / "elsewhere"))).fingerprint()
    assert encoder.fingerprint() != zoo.text("bert", pooling="mean").fingerprint()
    before = encoder.fingerprint()
    with torch.no_grad():
        next(encoder.model.parameters()).view(-1)[0] += 1
    encoder.weights_changed()
    assert encoder.fingerprint() != before
    folder = zoo.copy("bert", tmp_path / "other-heads")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 4}))
    assert resolve_text(str(folder)).fingerprint() != before, "same weights, another network"


def test_a_pooled_embedding_passes_through(zoo: Zoo) -> None:
    given = torch.randn(3, 32, dtype=torch.float64)
    out = zoo.text("bert")({"pooled": given})
    assert torch.equal(out.pooled, given.float())
    assert out.states is None


def test_depths_cover_every_parameter(zoo: Zoo) -> None:
    encoder = zoo.text("bert")
    depths = encoder.depths()
    assert set(depths) == {name for name, _ in encoder.model.named_parameters()}
    assert depths["embeddings.word_embeddings.weight"] == 0
    assert {depths[name] for name in depths if name.startswith("encoder.layer.2.")} == {3}


@pytest.mark.parametrize("whole", [True, False])
def test_encoder_of_an_encoder_decoder(tmp_path: Path, whole: bool) -> None:
    from transformers import T5Config, T5EncoderModel, T5Model

    config = T5Config(vocab_size=128, d_model=32, d_kv=16, d_ff=48, num_layers=3, num_heads=2)
    stir((T5Model if whole else T5EncoderModel)(config)).save_pretrained(tmp_path / "t5")
    make_tokenizer("bert").save_pretrained(tmp_path / "t5")
    encoder = resolve_text(str(tmp_path / "t5"))
    inputs = encoder.collate(encoder.tokenize(SENTENCES))
    pooled = encoder(inputs).pooled
    assert pooled.shape == (3, 32)
    # Its layers hand on a position bias that is no activation.
    with pytest.raises(EncoderError, match="cannot be cut after unit 2"):
        encoder.cut_at(2)
    torch.testing.assert_close(encoder(inputs).pooled, pooled, atol=0, rtol=0)
    encoder.save_config(tmp_path / "again")
    again = load_encoder_config(tmp_path / "again")
    again.load_state_dict(encoder.state_dict(), strict=True)
    torch.testing.assert_close(again(inputs).pooled, pooled, atol=0, rtol=0)


def test_a_tokenizer_of_another_model_is_named(zoo: Zoo) -> None:
    encoder = zoo.text(TEXTS[0])
    encoder.model.resize_token_embeddings(8)
    with pytest.raises(EncoderError, match="the model has 8 embeddings; the two do not belong together"):
        encoder.tokenize(SENTENCES)


def test_short_texts_change_nothing_for_long_ones(tmp_path: Path) -> None:
    """BigBird's sparse attention is given up once a short text comes by."""
    make_text(next(a for a in TEXT if a.name == "BigBird (block sparse)"), tmp_path)
    encoder = resolve_text(str(tmp_path), max_tokens=60)
    long = encoder.collate(encoder.tokenize(["we love the sun and hate the rain " * 8]))
    with torch.no_grad():
        before = encoder(long).pooled
        encoder(encoder.collate(encoder.tokenize(["so"])))
        torch.testing.assert_close(encoder(long).pooled, before, atol=0, rtol=0)


def test_texts_are_padded_as_siglip_was_trained(tmp_path: Path) -> None:
    make_text(next(a for a in TEXT if a.name == "SigLIP text"), tmp_path)
    encoder = resolve_text(str(tmp_path), max_tokens=128)
    assert (encoder.pooling, encoder.max_tokens) == ("last", 16)
    assert [len(row) for row in encoder.tokenize(SENTENCES)] == [16, 16, 16]


def test_an_encoder_with_a_decoder_of_its_own_is_used_whole(tmp_path: Path) -> None:
    make_text(next(a for a in TEXT if a.name == "Funnel"), tmp_path)
    encoder = resolve_text(str(tmp_path))
    theirs = AutoModel.from_pretrained(tmp_path, local_files_only=True).eval()
    inputs = encoder.collate(encoder.tokenize(SENTENCES))
    with torch.no_grad():
        torch.testing.assert_close(encoder(inputs).states, theirs(**inputs).last_hidden_state, atol=1e-6, rtol=1e-6)
