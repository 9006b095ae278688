from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.errors import ConfigError
from cotune.heads import HEADS, FusionHead, make_head
from cotune.heads.base import drop_modalities

NAMES = ("attention", "reference", "concat", "text", "image")
BOTH = ("attention", "reference", "concat")


def head_of(name: str, **settings: object) -> FusionHead:
    torch.manual_seed(0)
    uses = HEADS[name].uses
    dims = [12 if "text" in uses else 0, 20 if "image" in uses else 0]
    return make_head(name, *dims, 3, **{"width": 16, "heads": 2, **settings})


def embeddings(head_name: str, n: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    uses = HEADS[head_name].uses
    return torch.randn(n, 12 if "text" in uses else 0), torch.randn(n, 20 if "image" in uses else 0)


def everything(n: int = 6) -> torch.Tensor:
    return torch.ones(n, 2, dtype=torch.bool)


def test_names() -> None:
    assert set(NAMES) <= set(HEADS)
    with pytest.raises(ConfigError, match=r"unknown fusion head 'atention' \(did you mean 'attention'"):
        make_head("atention", 1, 1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_gradients(name: str) -> None:
    head = head_of(name, modality_dropout=0.0).train()
    text, image = (part.requires_grad_() for part in embeddings(name))
    present = everything()
    present[0, 0] = present[1, 1] = False
    logits = head(text, image, present)
    assert logits.shape == (6, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    for part in (text, image):
        if part.shape[1]:
            assert part.grad is not None
            assert part.grad.abs().sum() > 0
    for key, parameter in head.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", NAMES)
def test_the_learned_absence_gets_a_gradient(name: str) -> None:
    head = head_of(name)
    if not head.learns_absence:
        return
    text, image = embeddings(name)
    present = everything()
    present[0, 0] = present[1, 1] = False
    head.eval()(text, image, present).pow(2).sum().backward()
    for use in head.uses:
        assert getattr(head, f"absent_{use}").grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stranger", [1e6, float("nan"), float("inf")])
def test_absent_rows_do_not_leak(name: str, stranger: float) -> None:
    head = head_of(name).eval()
    text, image = embeddings(name)
    present = everything()
    present[0, 0] = present[1, 1] = False
    present[2] = False
    before = head(text, image, present)
    text[[0, 2]] = stranger
    image[[1, 2]] = stranger
    torch.testing.assert_close(head(text, image, present), before, atol=0, rtol=0)
    assert torch.isfinite(before).all()


@pytest.mark.parametrize("name", BOTH)
def test_both_modalities_count(name: str) -> None:
    head = head_of(name).eval()
    text, image = embeddings(name)
    before = head(text, image, everything())
    assert not torch.allclose(head(text + 1, image, everything()), before)
    assert not torch.allclose(head(text, image + 1, everything()), before)
    one_less = everything()
    one_less[:, 1] = False
    assert not torch.allclose(head(text, image, one_less), before)


@pytest.mark.parametrize("name", NAMES)
def test_posts_do_not_influence_each_other(name: str) -> None:
    head = head_of(name).eval()
    text, image = embeddings(name)
    together = head(text, image, everything())
    alone = torch.cat([head(text[i : i + 1], image[i : i + 1], everything(1)) for i in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_settings_build_the_head_anew(name: str) -> None:
    head = head_of(name).eval()
    dims = [12 if "text" in head.uses else 0, 20 if "image" in head.uses else 0]
    again = HEADS[name](*dims, 3, **{k: v for k, v in head.settings().items() if name != "reference"}).eval()
    again.load_state_dict(head.state_dict(), strict=True)
    text, image = embeddings(name)
    torch.testing.assert_close(again(text, image, everything()), head(text, image, everything()), atol=0, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_make_head_accepts_its_own_settings(name: str) -> None:
    head = head_of(name)
    dims = [12 if "text" in head.uses else 0, 20 if "image" in head.uses else 0]
    assert make_head(name, *dims, 3, **head.settings()).settings() == head.settings()


def test_a_head_that_takes_any_settings_is_given_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Open(HEADS["concat"]):  # type: ignore[misc]
        def __init__(self, *sizes: int, **settings: Any) -> None:
            super().__init__(*sizes, width=settings["width"], modality_dropout=settings["modality_dropout"])
            self.heads = settings["heads"]

    monkeypatch.setitem(HEADS._items, "open", Open)
    head = make_head("open", 12, 20, 3, width=16, heads=2, modality_dropout=0.3)
    assert (head.width, head.heads, head.modality_dropout) == (16, 2, 0.3)


def test_attention_rows_sum_to_one_and_differ_between_posts() -> None:
    head = head_of("attention", width=16, heads=4).eval()
    text, image = embeddings("attention")
    weights = head.attention_weights(text * 5, image * 5, everything())
    assert weights.shape == (6, 4, 2, 2)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(6, 4, 2))
    assert (weights >= 0).all()
    assert weights.std(dim=0).max() > 0.05, "attention that is the same for every post weighs nothing"


def test_attention_weights_are_those_that_fuse() -> None:
    head = head_of("attention", skip=False).eval()
    text, image = embeddings("attention")
    tokens = head._tokens(text, image)
    _, used = head.attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(head.attention_weights(text, image, everything()), used)
    without = everything()
    without[0, 1] = False
    image[0] = torch.nan
    alone = head.attention_weights(text, image, without)
    assert alone.isfinite().all()
    assert not torch.allclose(alone[0], used[0])
    torch.testing.assert_close(alone[1:], used[1:])


@pytest.mark.parametrize("skip", [True, False])
def test_the_skip_lets_embeddings_past_the_bottleneck(skip: bool) -> None:
    """With the tokens cut off, only a head with a skip still sees the embeddings."""
    head = head_of("attention", skip=skip).eval()
    with torch.no_grad():
        head.project_text.weight.zero_()
        head.project_image.weight.zero_()
    text, image = embeddings("attention")
    before = head(text, image, everything())
    for changed in (head(text + 1, image, everything()), head(text, image + 1, everything())):
        assert torch.allclose(changed, before, atol=1e-6) is not skip


def test_the_reference_attends_to_one_token_with_weight_one() -> None:
    head = head_of("reference").eval()
    seen = []
    head.layer.self_attn.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        head(*embeddings("reference"), everything())
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    (tokens,) = seen
    assert tokens.shape == (6, 1, 64), "a sequence of length one"
    _, weights = head.layer.self_attn(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
    assert torch.equal(weights, torch.ones(6, 8, 1, 1))


def test_the_reference_has_the_sizes_of_the_released_code() -> None:
    head = make_head("reference", 768, 2048, 3)
    layer = head.layer
    assert head.project_text[0].out_features == head.project_image[0].out_features == 32
    assert (layer.self_attn.embed_dim, layer.self_attn.num_heads, layer.linear1.out_features) == (64, 8, 2048)
    assert [layer.dropout.p, head.classify[0].p, head.classify[3].p] == [0.4, 0.5, 0.5]
    assert sum(p.numel() for p in head.parameters()) == sum(
        [769 * 32, 2049 * 32, 4 * 64 * 64 + 4 * 64, 64 * 2048 + 2048, 2048 * 64 + 64, 4 * 64, 65 * 128, 129 * 3]
    )


def test_modality_dropout_has_the_rate_that_was_asked_for() -> None:
    torch.manual_seed(0)
    present = torch.ones(20_000, 2, dtype=torch.bool)
    after = drop_modalities(present, 0.2)
    gone = (~after).float().mean(dim=0)
    assert (~after).any(dim=1).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert gone[0].item() == pytest.approx(0.1, abs=0.01)
    assert gone[1].item() == pytest.approx(0.1, abs=0.01)
    assert present.all(), "the input is not changed"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.floats(0, 1), st.integers(0, 99))
def test_modality_dropout_never_takes_the_last(rows: list[tuple[bool, bool]], chance: float, seed: int) -> None:
    torch.manual_seed(seed)
    present = torch.tensor(rows)
    after = drop_modalities(present, chance)
    assert (after <= present).all()
    assert torch.equal(after.any(dim=1), present.any(dim=1))
    one = ~present.all(dim=1)
    assert torch.equal(after[one], present[one])


@pytest.mark.parametrize("name", ["attention", "concat"])
def test_modality_dropout_acts_in_training_alone(name: str) -> None:
    head = head_of(name, dropout=0.0, modality_dropout=0.9)
    text, image = embeddings(name)
    outcomes = {mode: set() for mode in ("train", "eval")}
    for mode, seen in outcomes.items():
        getattr(head, mode)()
        for _ in range(5):
            seen.add(tuple(head(text, image, everything()).flatten().tolist()))
    assert len(outcomes["eval"]) == 1
    assert len(outcomes["train"]) > 1


def test_heads_of_one_modality_have_nothing_of_the_other() -> None:
    assert head_of("text").uses == ("text",)
    assert head_of("image").uses == ("image",)
    assert head_of("text").absent_image.numel() == 0
    assert head_of("image").absent_text.numel() == 0


def test_of_a_post_with_neither_the_class_frequencies_are_the_answer() -> None:
    head = head_of("attention").eval()
    text, image = embeddings("attention")
    present = torch.tensor([[True, True], [False, False], [True, False]] * 2)
    before = head(text, image, present)
    head.set_prior([6, 0, 2])
    after = head(text, image, present)
    there = present.any(dim=1)
    assert torch.equal(after[there], before[there])
    shares = torch.softmax(after[1], dim=0)
    assert torch.allclose(shares, torch.tensor([6, 0.5, 2]) / 8.5, atol=1e-6)


def test_a_run_from_before_frequencies_were_kept_answers_as_it_did() -> None:
    head = head_of("concat").eval()
    text, image = embeddings("concat")
    nothing = torch.zeros(6, 2, dtype=torch.bool)
    expected = head.fuse(head.absent_text.expand_as(text), head.absent_image.expand_as(image))
    assert torch.allclose(head(text, image, nothing), expected)
