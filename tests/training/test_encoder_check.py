"""An encoder is looked at once before anything is built on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import TEXT, make_text
from cotune.encoders.resolve import load_encoder_config, resolve_text
from cotune.errors import ConfigError, EncoderError
from cotune.settings import FitConfig
from cotune.training import encoder_check
from cotune.training.encoder_check import check_encoder
from tiny import TEXTS, Zoo, make_text_model, make_tokenizer

SENTENCES = ["a good day !", "so", "the dog and the cat hate the rain", "we love"]
NOT_MASKED = ("ConvBERT", "FNet", "MobileBERT", "YOSO")


def architecture(name: str, folder: Path) -> Any:
    found = next(a for a in TEXT if a.name == name)
    return resolve_text(str(make_text(found, folder)), pooling="mean")


@pytest.mark.parametrize("kind", ["bert", "timm-resnet", "vit"])
@pytest.mark.parametrize("tune", ["frozen", "top", "joint", "lora"])
def test_an_encoder_that_is_sound_stays_as_it_is(zoo: Zoo, kind: str, tune: Any) -> None:
    encoder = zoo.text(kind) if kind in TEXTS else zoo.image(kind)
    before, fingerprint = {k: v.clone() for k, v in encoder.state_dict().items()}, encoder.fingerprint()
    wanted = {name: p.requires_grad for name, p in encoder.named_parameters()}
    check_encoder(encoder, FitConfig(tune=tune))
    assert encoder.n_lower == 0
    assert encoder.fingerprint() == fingerprint
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert {name: p.requires_grad for name, p in encoder.named_parameters()} == wanted
    assert all(p.grad is None for p in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize("name", NOT_MASKED)
def test_padding_no_longer_changes_the_answer(name: str, tmp_path: Path) -> None:
    encoder = architecture(name, tmp_path)
    rows = encoder.tokenize(SENTENCES)
    with torch.no_grad():
        alone = torch.cat([encoder(encoder.collate([row])).pooled for row in rows])
        assert not torch.allclose(encoder(encoder.collate(rows)).pooled, alone, atol=1e-4), "nothing to be mended"
        check_encoder(encoder, FitConfig(tune="frozen"))
        assert encoder.by_length
        torch.testing.assert_close(encoder(encoder.collate(rows)).pooled, alone, atol=1e-6, rtol=1e-5)
        encoder.save_config(tmp_path / "saved")
        again = load_encoder_config(tmp_path / "saved")
        again.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(again(again.collate(rows)).pooled, alone, atol=1e-6, rtol=1e-5)


def test_activations_of_an_encoder_without_a_mask(tmp_path: Path) -> None:
    encoder = architecture("FNet", tmp_path)
    check_encoder(encoder, FitConfig(tune="top"))
    inputs = encoder.collate(encoder.tokenize(SENTENCES))
    with torch.no_grad():
        whole = encoder(inputs).pooled
        encoder.cut_at(1)
        kept = encoder({"hidden": encoder.lower(inputs), **inputs}).pooled
    torch.testing.assert_close(kept, whole, atol=1e-6, rtol=1e-5)


class Moody(torch.nn.Module):
    """Adds noise to what a network answers."""

    def __init__(self, model: Any, amount: float = 0.3) -> None:
        super().__init__()
        self.inner, self.config, self.amount = model, model.config, amount

    def forward(self, **inputs: Any) -> Any:
        answer = self.inner(**inputs)
        answer.last_hidden_state = answer.last_hidden_state + self.amount * torch.randn_like(answer.last_hidden_state)
        return answer


class Sociable(Moody):
    """Lets every post see the others of its batch."""

    def forward(self, **inputs: Any) -> Any:
        answer = self.inner(**inputs)
        answer.last_hidden_state = answer.last_hidden_state + answer.last_hidden_state.mean(dim=0, keepdim=True)
        return answer


class Broken(Moody):
    """Answers with what is no number."""

    def forward(self, **inputs: Any) -> Any:
        answer = self.inner(**inputs)
        answer.last_hidden_state = answer.last_hidden_state * float("nan")
        return answer


class Wide(Moody):
    """Answers twice as wide as its configuration says, as Reformer does."""

    def forward(self, **inputs: Any) -> Any:
        answer = self.inner(**inputs)
        answer.last_hidden_state = torch.cat([answer.last_hidden_state] * 2, dim=-1)
        return answer


@pytest.mark.parametrize(
    ("wrapper", "says"),
    [
        (Wide, "gives embeddings 64 wide, and its configuration says 32"),
        (Moody, "different embeddings for the same post from call to call"),
        (Sociable, "another embedding when it shares a batch with others"),
        (Broken, "values that are not finite"),
    ],
)
def test_an_encoder_that_cannot_be_relied_on_is_refused(zoo: Zoo, wrapper: Any, says: str, tmp_path: Path) -> None:
    encoder = zoo.text("bert")
    encoder.model = wrapper(encoder.model)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(EncoderError, match=says):
            check_encoder(encoder, FitConfig(tune="frozen"), tmp_path)


def test_ways_that_remain_are_named(tmp_path: Path) -> None:
    encoder = architecture("T5", tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be cut after unit 1.*; use --tune joint, lora or frozen$"):
        check_encoder(encoder, FitConfig(tune="top"))
    for tune in ("joint", "lora", "frozen"):
        check_encoder(encoder, FitConfig(tune=tune))


def test_it_is_found_out_once_for_the_same_weights_and_versions(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = encoder_check._answers
    monkeypatch.setattr(encoder_check, "_answers", lambda encoder: asked.append(encoder.spec) or real(encoder))
    config = FitConfig(tune="joint")
    check_encoder(zoo.text("bert"), config, tmp_path)
    check_encoder(zoo.text("bert"), config, tmp_path)
    assert len(asked) == 1
    (file,) = (tmp_path / "checks").glob("*.json")
    assert json.loads(file.read_text())["joint"] == ""
    for damage in ("{", json.dumps({**json.loads(file.read_text()), "made with": {"torch": "1.0"}})):
        file.write_text(damage)
        check_encoder(zoo.text("bert"), config, tmp_path)
    assert len(asked) == 3


def test_a_deeper_cut_is_another_question(zoo: Zoo, tmp_path: Path) -> None:
    check_encoder(zoo.text("bert"), FitConfig(tune="top", text_top=1), tmp_path)
    check_encoder(zoo.text("bert"), FitConfig(tune="top", text_top=2), tmp_path)
    (file,) = (tmp_path / "checks").glob("*.json")
    assert {"top 1", "top 2"} <= json.loads(file.read_text()).keys()


def test_fit_refuses_in_one_line_before_it_reads_an_image(tmp_path: Path) -> None:
    from cotune.estimators.classifier import JointClassifier

    folder = tmp_path / "t5"
    make_text(next(a for a in TEXT if a.name == "T5"), folder)
    model = JointClassifier(text_encoder=str(folder), fusion="text", tune="top")
    with pytest.raises(ConfigError, match="use `tune` joint, lora or frozen"):
        model.fit([{"text": "a good day", "image": "nowhere.jpg"}] * 4, ["a", "b", "a", "b"])


def test_probe_texts_differ_in_length_and_fit_the_limit() -> None:
    encoder = resolve_small_limit()
    inputs = encoder.probe_inputs(3)
    assert inputs["input_ids"].shape[1] <= encoder.max_tokens
    assert torch.equal(inputs["input_ids"], encoder.probe_inputs(3)["input_ids"])


def resolve_small_limit() -> Any:
    from cotune.encoders.text import TextEncoder

    return TextEncoder(make_text_model("bert"), make_tokenizer("bert"), spec="small", pooling="mean", max_tokens=6)
