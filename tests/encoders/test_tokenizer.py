"""The tokenizer that is used is the one that lies beside the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from cotune.encoders.resolve import load_encoder_config, resolve_text
from cotune.encoders.tokenizer import open_tokenizer, probe_ids
from cotune.errors import EncoderError
from tiny import WORDS, Zoo, make_text_model, make_tokenizer


def unigram_beside(kind: str, folder: Path) -> Tokenizer:
    """Write a model whose tokenizer file is of another kind than its class is known for."""
    make_text_model(kind).save_pretrained(folder)
    pieces = [("[UNK]", 0.0), ("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[MASK]", 0.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in WORDS] + [(chr(c), -6.0) for c in range(97, 123)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"unk_token": "[UNK]", "pad_token": "[PAD]", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_file_counts_where_the_library_builds_another(kind: str, tmp_path: Path) -> None:
    file = unigram_beside(kind, tmp_path / "model")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    said = "the dog so happy"
    assert theirs(said)["input_ids"] != file.encode(said).ids, "the library no longer builds another; nothing is tested"
    encoder = resolve_text(str(tmp_path / "model"), pooling="mean")
    assert encoder.tokenize([said])[0].tolist() == file.encode(said).ids
    encoder.save_config(tmp_path / "saved")
    assert load_encoder_config(tmp_path / "saved").tokenize([said])[0].tolist() == file.encode(said).ids  # type: ignore[attr-defined]


def test_a_file_that_cannot_be_followed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    unigram_beside("bert", tmp_path)
    wrong = make_tokenizer("bert")

    class Stubborn:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> Any:
            return wrong

    monkeypatch.setattr(transformers, "PreTrainedTokenizerFast", Stubborn)
    monkeypatch.setattr(transformers, "AutoTokenizer", Stubborn)
    with pytest.raises(EncoderError, match=r"builds another tokenizer .* than .*tokenizer.json holds"):
        open_tokenizer(str(tmp_path), spec="odd", local=True)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
def test_a_usual_folder_is_opened_as_the_library_does(zoo: Zoo, kind: str) -> None:
    theirs = AutoTokenizer.from_pretrained(zoo(kind), local_files_only=True)
    ours = open_tokenizer(str(zoo(kind)), spec=kind, local=True)
    assert type(ours) is type(theirs)
    assert probe_ids(ours) == probe_ids(theirs)
