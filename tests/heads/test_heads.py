from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.errors import ConfigError
from cotune.heads import HEADS, Embeddings, FusionHead, make_head
from cotune.heads.base import drop_fields

NAMES = ("attention", "reference", "concat", "text", "image")
BOTH = ("attention", "reference", "concat")


SIZES = {"text": 12, "image": 20}
KINDS = {"text": "text", "image": "image"}


def dims_of(name: str) -> dict[str, int]:
    return {field: SIZES[field] for field in HEADS[name].reads(KINDS)}


def head_of(name: str, **settings: object) -> FusionHead:
    torch.manual_seed(0)
    return make_head(name, dims_of(name), 3, **{"width": 16, "heads": 2, **settings})


def embeddings(head_name: str, n: int = 6, seed: int = 1, present: torch.Tensor | None = None) -> Embeddings:
    torch.manual_seed(seed)
    drawn = {name: torch.randn(n, size) for name, size in SIZES.items()}
    fields = tuple(dims_of(head_name))
    here = everything(n) if present is None else present
    return Embeddings({name: drawn[name] for name in fields}, here[:, [["text", "image"].index(f) for f in fields]])


def everything(n: int = 6) -> torch.Tensor:
    return torch.ones(n, 2, dtype=torch.bool)


def with_gaps() -> torch.Tensor:
    present = everything()
    present[0, 0] = present[1, 1] = False
    return present


def test_names() -> None:
    assert set(NAMES) <= set(HEADS)
    with pytest.raises(ConfigError, match=r"unknown fusion head 'atention' \(did you mean 'attention'"):
        make_head("atention", {"text": 1}, 2)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_gradients(name: str) -> None:
    head = head_of(name, modality_dropout=0.0).train()
    given = embeddings(name, present=with_gaps())
    for part in given.values():
        part.requires_grad_()
    outputs = head(given)
    assert outputs.shape == (6, 3)
    torch.nn.functional.cross_entropy(outputs, torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    for part in given.values():
        assert part.grad is not None
        assert part.grad.abs().sum() > 0
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", NAMES)
def test_the_learned_absence_gets_a_gradient(name: str) -> None:
    head = head_of(name)
    if not head.learns_absence:
        return
    head.eval()(embeddings(name, present=with_gaps())).pow(2).sum().backward()
    for absent in head.absent:
        assert absent.grad is not None
        assert absent.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stranger", [1e6, float("nan"), float("inf")])
def test_absent_rows_do_not_leak(name: str, stranger: float) -> None:
    head = head_of(name).eval()
    present = with_gaps()
    present[2] = False
    given = embeddings(name, present=present)
    before = head(given)
    for at, part in enumerate(given.values()):
        part[~given.present[:, at]] = stranger
    torch.testing.assert_close(head(given), before, atol=0, rtol=0)
    assert torch.isfinite(before).all()


@pytest.mark.parametrize("name", BOTH)
def test_both_modalities_count(name: str) -> None:
    head = head_of(name).eval()
    given = embeddings(name)
    before = head(given)
    for field in given:
        assert not torch.allclose(head(Embeddings({**given, field: given[field] + 1}, given.present)), before)
    one_less = everything()
    one_less[:, 1] = False
    assert not torch.allclose(head(given.with_present(one_less)), before)


@pytest.mark.parametrize("name", NAMES)
def test_posts_do_not_influence_each_other(name: str) -> None:
    head = head_of(name).eval()
    given = embeddings(name)
    together = head(given)
    alone = torch.cat([head(given.rows(torch.tensor([i]))) for i in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_settings_build_the_head_again(name: str) -> None:
    head = head_of(name).eval()
    settings = {k: v for k, v in head.settings().items() if name != "reference"}
    again = HEADS[name](dims_of(name), 3, **settings).eval()
    again.load_state_dict(head.state_dict(), strict=True)
    torch.testing.assert_close(again(embeddings(name)), head(embeddings(name)), atol=0, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_make_head_accepts_its_own_settings(name: str) -> None:
    head = head_of(name)
    assert make_head(name, dims_of(name), 3, **head.settings()).settings() == head.settings()


def test_a_head_that_takes_any_settings_is_given_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Open(HEADS["concat"]):  # type: ignore[misc]
        def __init__(self, *sizes: Any, **settings: Any) -> None:
            super().__init__(*sizes, width=settings["width"], modality_dropout=settings["modality_dropout"])
            self.heads = settings["heads"]

    monkeypatch.setitem(HEADS._items, "open", Open)
    head = make_head("open", SIZES, 3, width=16, heads=2, modality_dropout=0.3)
    assert (head.width, head.heads, head.modality_dropout) == (16, 2, 0.3)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("n_fields", [1, 3])
def test_heads_of_any_number_of_fields(name: str, n_fields: int) -> None:
    torch.manual_seed(0)
    dims = {f"field {i}": 4 + i for i in range(n_fields)}
    head = make_head(name, dims, 2, width=16, heads=2).eval()
    given = Embeddings({field: torch.randn(5, dim) for field, dim in dims.items()}, torch.ones(5, n_fields) > 0)
    before = head(given)
    assert before.shape == (5, 2)
    for field in dims:
        assert not torch.allclose(head(Embeddings({**given, field: given[field] + 1}, given.present)), before)


def test_attention_rows_sum_to_one_and_differ_between_posts() -> None:
    head = head_of("attention", width=16, heads=4).eval()
    given = embeddings("attention")
    weights = head.attention_weights(Embeddings({name: 5 * part for name, part in given.items()}, given.present))
    assert weights.shape == (6, 4, 2, 2)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(6, 4, 2))
    assert (weights >= 0).all()
    assert weights.std(dim=0).max() > 0.05, "attention that is the same for every post weighs nothing"


def test_attention_weights_are_those_that_fuse() -> None:
    head = head_of("attention", skip=False).eval()
    given = embeddings("attention")
    tokens = head._tokens(list(given.values()))
    _, used = head.attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(head.attention_weights(given), used)
    without = everything()
    without[0, 1] = False
    given["image"][0] = torch.nan
    alone = head.attention_weights(given.with_present(without))
    assert alone.isfinite().all()
    assert not torch.allclose(alone[0], used[0])
    torch.testing.assert_close(alone[1:], used[1:])


@pytest.mark.parametrize("skip", [True, False])
def test_the_skip_lets_embeddings_past_the_bottleneck(skip: bool) -> None:
    """With the tokens cut off, only a head with a skip still sees the embeddings."""
    head = head_of("attention", skip=skip).eval()
    with torch.no_grad():
        for project in head.project:
            project.weight.zero_()
    given = embeddings("attention")
    before = head(given)
    for field in given:
        changed = head(Embeddings({**given, field: given[field] + 1}, given.present))
        assert torch.allclose(changed, before, atol=1e-6) is not skip


def test_the_reference_attends_to_one_token_with_weight_one() -> None:
    head = head_of("reference").eval()
    seen = []
    head.layer.self_attn.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        head(embeddings("reference"))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    (tokens,) = seen
    assert tokens.shape == (6, 1, 64), "a sequence of length one"
    _, weights = head.layer.self_attn(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
    assert torch.equal(weights, torch.ones(6, 8, 1, 1))


def test_the_reference_has_the_sizes_of_the_released_code() -> None:
    head = make_head("reference", {"text": 768, "image": 2048}, 3)
    layer = head.layer
    assert [project[0].out_features for project in head.project] == [32, 32]
    assert (layer.self_attn.embed_dim, layer.self_attn.num_heads, layer.linear1.out_features) == (64, 8, 2048)
    assert [layer.dropout.p, head.classify[0].p, head.classify[3].p] == [0.4, 0.5, 0.5]
    assert sum(p.numel() for p in head.parameters()) == sum(
        [769 * 32, 2049 * 32, 4 * 64 * 64 + 4 * 64, 64 * 2048 + 2048, 2048 * 64 + 64, 4 * 64, 65 * 128, 129 * 3]
    )


def test_modality_dropout_has_the_rate_that_was_asked_for() -> None:
    torch.manual_seed(0)
    present = torch.ones(20_000, 2, dtype=torch.bool)
    after = drop_fields(present, 0.2)
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
    after = drop_fields(present, chance)
    assert (after <= present).all()
    assert torch.equal(after.any(dim=1), present.any(dim=1))
    one = ~present.all(dim=1)
    assert torch.equal(after[one], present[one])


def test_of_three_fields_some_are_taken_and_never_all() -> None:
    torch.manual_seed(0)
    present = torch.ones(20_000, 3, dtype=torch.bool)
    present[:100, 1:] = False
    after = drop_fields(present, 0.3)
    assert after.any(dim=1).all()
    assert after[:100].equal(present[:100]), "a post with one field keeps it"
    lost = (~after[100:]).sum(dim=1)
    assert (lost > 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    # Of the six choices three take one field and three take two.
    assert (lost == 1).sum().item() == pytest.approx((lost == 2).sum().item(), rel=0.1)


@pytest.mark.parametrize("name", ["attention", "concat"])
def test_modality_dropout_acts_in_training_alone(name: str) -> None:
    head = head_of(name, dropout=0.0, modality_dropout=0.9)
    given = embeddings(name)
    outcomes: dict[str, set[Any]] = {mode: set() for mode in ("train", "eval")}
    for mode, seen in outcomes.items():
        getattr(head, mode)()
        for _ in range(5):
            seen.add(tuple(head(given).flatten().tolist()))
    assert len(outcomes["eval"]) == 1
    assert len(outcomes["train"]) > 1


def test_heads_of_one_modality_have_nothing_of_the_other() -> None:
    assert head_of("text").fields == ("text",)
    assert head_of("image").fields == ("image",)
    assert HEADS["text"].reads({"title": "text", "photo": "image", "caption": "text"}) == ("title", "caption")
    with pytest.raises(ConfigError, match="the fusion head 'table' reads table fields, and there are none"):
        HEADS["table"].reads(KINDS)


def test_of_a_post_with_neither_the_prior_is_the_answer() -> None:
    head = head_of("attention").eval()
    present = torch.tensor([[True, True], [False, False], [True, False]] * 2)
    given = embeddings("attention", present=present)
    before = head(given)
    prior = (torch.tensor([6, 0.5, 2]) / 8.5).log()
    head.set_prior(prior)
    after = head(given)
    there = present.any(dim=1)
    assert torch.equal(after[there], before[there])
    assert torch.equal(after[1], prior)


def test_a_run_from_before_frequencies_were_kept_answers_as_it_did() -> None:
    head = head_of("concat").eval()
    nothing = torch.zeros(6, 2, dtype=torch.bool)
    given = embeddings("concat", present=nothing)
    absent = Embeddings({name: head.absent[at].expand_as(given[name]) for at, name in enumerate(given)}, nothing)
    assert torch.allclose(head(given), head.fuse(absent))
