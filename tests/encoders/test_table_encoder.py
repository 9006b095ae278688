"""The encoder that is learned from columns of numbers and categories."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from cotune.encoders.prepared import ReadOptions
from cotune.encoders.prepared_table import PreparedTable
from cotune.encoders.sources import SOURCES, Wanted
from cotune.encoders.table import TableEncoder
from cotune.encoders.table_columns import Column, read_columns
from cotune.errors import DataError, EncoderError

Posts = Sequence[Any]
LIKES = Column("likes", "number")
DEVICE = Column("device", "category", ("phone", "tablet", "web"))


def one_column(values: Sequence[object], **options: Any) -> Column:
    (column,) = read_columns([{"x": value} for value in values], ["x"], **options)
    return column


def learned(columns: Sequence[Column], posts: Posts, rows: Sequence[int] | None = None, **sizes: Any) -> TableEncoder:
    torch.manual_seed(0)
    encoder = TableEncoder(columns, **sizes)
    encoder.learn_from(prepared(encoder, posts), np.arange(len(posts)) if rows is None else np.array(rows))
    return encoder.eval()


def prepared(encoder: TableEncoder, posts: Posts) -> PreparedTable:
    return encoder.prepare(posts, ReadOptions())


def embed(encoder: TableEncoder, *posts: Any) -> Tensor:
    with torch.no_grad():
        return encoder(prepared(encoder, posts).inputs(np.arange(len(posts)))).pooled


def seen_by_network(encoder: TableEncoder, posts: Posts) -> Tensor:
    """Return standardised numbers, then flags of missing ones."""
    return encoder.network._numbers(torch.from_numpy(encoder.reader.cells(posts)))


# ---- the kind of a column --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, None],
        ["1", " 2.5 ", "", "1e3", "NaN", "-4"],
        [np.int64(3), np.float32(1.5), float("nan"), pd.NA, pd.NaT],
        [Decimal("1.5"), Decimal("NaN"), 10**30],
    ],
)
def test_numbers_in_any_form_make_a_number_column(values: list[object]) -> None:
    assert one_column(values) == Column("x", "number")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([" web", "phone ", "web", None], ("phone", "web")),
        ([True, False, None], ("False", "True")),
        ([np.True_, True], ("True",)),
        (["1", "2", "three"], ("1", "2", "three")),
        ([float("inf"), 1.0], ("1", "inf")),
        ([pd.Timestamp("2020-01-01"), pd.NaT, np.datetime64("NaT")], ("2020-01-01 00:00:00",)),
    ],
)
def test_everything_else_is_a_category(values: list[object], expected: tuple[str, ...]) -> None:
    assert one_column(values) == Column("x", "category", expected)


def test_a_forced_category_has_one_name_for_all_forms_of_a_number() -> None:
    column = one_column([3, 3.0, "3", "3.0", np.int8(3), Decimal("3"), 2.5, "-0.5", 1e400], categories=["x"])
    assert column == Column("x", "category", ("-0.5", "2.5", "3", "inf"))


def test_few_values_among_numbers_that_are_none_are_taken_for_mistakes() -> None:
    values: list[object] = [None, *range(18), "many", "few"]
    with pytest.raises(DataError) as caught:
        one_column(values)
    assert str(caught.value) == (
        "row 20: the column 'x' holds 'many', expected a number; "
        "fix the cell, leave it empty, or declare the column a category"
    )
    with pytest.raises(DataError, match=r"^row 219: "):
        one_column(values, rows=range(200, 221))
    assert one_column([*range(17), "many", "few"]).kind == "category"  # less than 90 % are numbers
    with pytest.raises(DataError, match="holds 'True', expected a number"):
        one_column([*range(18), True])
    assert one_column([*range(18), "many", "many"], categories={"x"}).values[-1] == "many"


@pytest.mark.parametrize("values", [[], [None], ["", " ", math.nan, "NaN"]])
def test_a_column_without_values_is_refused(values: list[object]) -> None:
    with pytest.raises(DataError, match="^the column 'x' has no values; fill it in or leave it out"):
        one_column(values)
    with pytest.raises(DataError, match="^the column 'x' has no values"):
        read_columns([None, {"y": 1}], ["x"])


def test_identifiers_are_refused() -> None:
    with pytest.raises(
        DataError, match="'x' has a different value in each of 21 posts, which looks like an identifier"
    ):
        one_column([f"user{i}" for i in range(21)])
    assert len(one_column([f"user{i}" for i in range(20)]).values) == 20
    assert len(one_column([f"user{i % 20}" for i in range(21)]).values) == 20
    many = [f"user{i}" for i in range(10_001)]
    with pytest.raises(DataError, match="has 10,001 different values, more than 10,000"):
        one_column(many * 2)
    assert len(one_column(many[1:] * 2).values) == 10_000


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="'x' is listed twice"):
        read_columns([{"x": 1}], ["x", "x"])
    with pytest.raises(DataError, match=r"'devise' is declared a category .* \(did you mean 'device'\?\)"):
        read_columns([{"device": 1}], ["device"], ["devise"])


# ---- cells -----------------------------------------------------------------------------------------------


def test_cells() -> None:
    encoder = TableEncoder([LIKES, DEVICE])
    posts = [
        {"likes": " 12 ", "device": "web ", "other": 1},
        {"likes": 1e300, "device": "fridge"},
        {"likes": -(10**400), "device": None},
        {"device": np.str_("phone")},
        None,
    ]
    cells = encoder.reader.cells(posts)
    assert cells.dtype == np.float32
    largest = np.finfo(np.float32).max
    expected = [[12, 2], [largest, -1], [math.nan, math.nan], [math.nan, 0], [math.nan, math.nan]]
    np.testing.assert_array_equal(cells, np.array(expected, dtype=np.float32))
    assert encoder.reader.cells([]).shape == (0, 2)


def test_what_is_no_number_is_missing_and_named() -> None:
    encoder = TableEncoder([LIKES, DEVICE])
    posts: Posts = [{"likes": 1}, {"likes": "many", "device": "web"}, None, {"likes": "inf"}, {"likes": False}]
    found = prepared(encoder, posts)
    assert found.problems == {
        1: "the column 'likes' holds 'many', expected a number",
        3: "the column 'likes' holds 'inf', expected a number",
        4: "the column 'likes' holds 'False', expected a number",
    }
    assert found.present.tolist() == [True, True, False, False, False]
    assert encoder.reader.problem({"device": "fridge", "likes": ""}) is None
    part = found.subset(np.array([4, 0, 1]))
    assert part.problems == {0: found.problems[4], 2: found.problems[1]}
    assert part.keys == [found.keys[i] for i in (4, 0, 1)]


def test_prepared_posts() -> None:
    found = prepared(TableEncoder([LIKES, DEVICE]), [{"likes": 1}, {"likes": "1.0"}, {"device": "fridge"}, {}])
    assert found.present.tolist() == [True, True, True, False]
    assert found.keys[0] == found.keys[1] != found.keys[2] != ""
    assert found.keys[3] == ""
    assert found.lengths.tolist() == [0] * 4
    inputs = found.inputs(np.array([2, 0]))
    assert inputs["cells"].dtype == torch.float32
    np.testing.assert_array_equal(inputs["cells"], [[math.nan, -1], [1, math.nan]])


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.decimals(), st.binary(max_size=4),
    st.dates(), st.complex_numbers(), st.sampled_from([pd.NA, pd.NaT, np.nan, np.float16(3), 10**5000, "1e999", "٣"]),
)  # fmt: skip
_CELLS = st.one_of(_SCALARS, st.lists(_SCALARS, max_size=2), st.dictionaries(st.text(max_size=2), _SCALARS, max_size=1))
_POSTS = st.lists(st.none() | st.dictionaries(st.sampled_from(["likes", "device", "other"]), _CELLS), max_size=30)


@settings(max_examples=150, deadline=None)
@given(_POSTS)
def test_wild_cells_are_read_or_missing(posts: list[dict[str, object] | None]) -> None:
    encoder = learned([LIKES, DEVICE], [{"likes": i, "device": "web"} for i in range(4)])
    found = prepared(encoder, posts)
    assert found.cells.shape == (len(posts), 2)
    assert not np.isinf(found.cells).any()
    assert all(bool(key) == here for key, here in zip(found.keys, found.present, strict=True))
    rows = np.flatnonzero(found.present)
    with torch.no_grad():
        pooled = encoder(found.inputs(rows)).pooled
    assert pooled.shape == (len(rows), encoder.dim)
    assert pooled.isfinite().all()
    if found.present.any():
        encoder.learn_from(found, np.arange(len(posts)))
        assert all(value.isfinite().all() for value in encoder.model.state_dict().values())


@settings(max_examples=150, deadline=None)
@given(_POSTS)
def test_columns_of_wild_cells_are_read_or_refused_in_one_line(posts: list[dict[str, object] | None]) -> None:
    try:
        columns = read_columns(posts, ["likes", "device"], ["device"])
    except DataError as error:
        assert "\n" not in str(error)
    else:
        cells = TableEncoder(columns).reader.cells(posts)
        assert not (cells == -1)[:, [column.kind == "category" for column in columns]].any()  # all values are known


# ---- what is learned before training ---------------------------------------------------------------------


def test_numbers_are_standardised_over_the_training_posts() -> None:
    posts = [{"likes": value, "device": "web"} for value in (1, 2, 3, None, 1000)]
    encoder = learned([LIKES, DEVICE], posts, rows=[0, 1, 2, 3])
    step = math.sqrt(1.5)
    found = seen_by_network(encoder, posts)
    expected = torch.tensor([[-step, 0], [0, 0], [step, 0], [0, 1], [10, 0]])  # far values are limited
    torch.testing.assert_close(found, expected)
    assert encoder.network.log.tolist() == [0]


def test_a_constant_column_has_scale_1() -> None:
    encoder = learned([LIKES], [{"likes": 0.1}] * 7)
    assert encoder.network.scale.tolist() == [1]
    torch.testing.assert_close(seen_by_network(encoder, [{"likes": 0.1}, {"likes": 1.1}])[:, 0], torch.tensor([0, 1.0]))


def test_heavy_tails_are_read_as_logarithms() -> None:
    random = np.random.default_rng(0)
    heavy = np.exp(random.normal(0, 2, 200)) * random.choice([-1, 1], 200, p=[0.1, 0.9])
    columns = [Column("heavy", "number"), Column("even", "number")]
    posts = [{"heavy": h, "even": e} for h, e in zip(heavy, random.uniform(size=200), strict=True)]
    encoder = learned(columns, posts)
    assert encoder.network.log.tolist() == [1, 0]
    logs = np.sign(heavy) * np.log1p(np.abs(heavy))
    expected = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(seen_by_network(encoder, posts)[:, 0], expected, atol=1e-4)


def test_a_missing_number_has_a_flag_of_its_own() -> None:
    posts = [{"likes": 1, "device": "web"}, {"likes": 3, "device": "web"}, {"likes": None, "device": "web"}]
    encoder = learned([LIKES, DEVICE], posts)
    mean, missing = embed(encoder, {"likes": 2, "device": "web"}, {"device": "web"})
    assert not torch.allclose(mean, missing, atol=1e-3)
    no_gaps = learned([LIKES, DEVICE], posts[:2])  # nothing is learned of missing numbers, so they are like the mean
    mean, missing = embed(no_gaps, {"likes": 2, "device": "web"}, {"device": "web"})
    torch.testing.assert_close(mean, missing)


def test_unseen_values_are_alike() -> None:
    posts = [{"device": "web"}, {"device": "phone"}, {"device": None, "likes": 1}, {"device": "tablet"}]
    encoder = learned([DEVICE, LIKES], posts, rows=[0, 1, 2])
    names = ("fridge", "watch", "tablet", "web", "phone", None)
    fridge, watch, tablet, web, phone, missing = embed(encoder, *({"device": name, "likes": 1} for name in names))
    assert torch.equal(fridge, watch)
    assert torch.equal(fridge, tablet)  # a value of the column, but of no training post
    for different in (web, phone, missing):
        assert not torch.allclose(fridge, different, atol=1e-3)


def test_training_hides_some_values() -> None:
    encoder = learned([DEVICE], [{"device": "web"}])
    cells = torch.full((4000, 1), 2.0)
    assert bool((encoder.network._indices(cells) == 4).all())
    encoder.train()
    hidden = (encoder.network._indices(cells) == 0).float().mean().item()
    assert 0.03 < hidden < 0.07


def test_learning_initialises_the_weights_from_the_random_state() -> None:
    posts = [{"likes": i, "device": "web"} for i in range(4)]
    encoder = TableEncoder([LIKES, DEVICE])
    found = prepared(encoder, posts)
    prints = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        encoder.learn_from(found, np.arange(4))
        prints.append(encoder.fingerprint())
    assert prints[0] == prints[2] != prints[1]


def test_training_posts_without_any_cell_are_refused() -> None:
    encoder = TableEncoder([LIKES, DEVICE])
    with pytest.raises(DataError, match="^no training post has a value in the columns likes, device; "):
        encoder.learn_from(prepared(encoder, [None, {"likes": 1}]), np.array([0]))
    with pytest.raises(EncoderError, match="its own prepare"):
        encoder.learn_from(prepared(TableEncoder([LIKES]), [{"likes": 1}]), np.array([0]))


# ---- the protocol ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [[LIKES], [DEVICE], [LIKES, DEVICE, Column("author", "category", ("a",))]])
def test_it_follows_the_protocol(columns: list[Column]) -> None:
    encoder = TableEncoder(columns, dim=12, width=8)
    assert (encoder.spec, encoder.units, encoder.learned, encoder.modality) == ("table:", (), True, "table")
    for inputs in (encoder.dummy_inputs(), encoder.probe_inputs(5)):
        with torch.no_grad():
            output = encoder(inputs)
        assert output.pooled.shape == (len(inputs["cells"]), 12)
        assert output.pooled.isfinite().all()
        assert output.states is None
    probe = encoder.probe_inputs(5)
    torch.testing.assert_close(probe["cells"], encoder.probe_inputs(5)["cells"], equal_nan=True)
    with torch.no_grad():
        torch.testing.assert_close(encoder(encoder.take(probe, 3)).pooled, encoder(probe).pooled[3:4])
    assert set(encoder.depths().values()) == {1}
    assert set(encoder.depths()) == encoder.upper_parameters() == {name for name, _ in encoder.model.named_parameters()}
    with pytest.raises(EncoderError, match="cannot be cut"):
        encoder.cut_at(1)
    before = encoder.fingerprint()
    with torch.no_grad():
        next(encoder.model.parameters()).add_(1)
    encoder.weights_changed()
    assert encoder.fingerprint() != before


def test_sizes_of_category_embeddings() -> None:
    columns = [Column(str(n), "category", tuple(map(str, range(n)))) for n in (1, 3, 10, 1000)]
    shapes = [tuple(each.shape) for each in TableEncoder(columns).network.embeddings.parameters()]
    assert shapes == [(3, 2), (5, 3), (12, 6), (1002, 16)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [([], "at least one column"), ([Column("x", "word")], "kind 'word'"), ([Column("x", "category")], "no values")],  # type: ignore[arg-type]
)
def test_columns_that_cannot_be_read_are_refused(columns: list[Column], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        TableEncoder(columns)


def test_a_saved_encoder_says_the_same_again(tmp_path: Path) -> None:
    posts = [{"likes": 4.0**i, "device": ("web", "phone", None)[i % 3]} for i in range(12)]
    encoder = learned([LIKES, DEVICE], posts, dim=10, width=6, dropout=0.2)
    assert encoder.network.log.tolist() == [1]
    encoder.save_config(tmp_path / "encoder")
    save_file(encoder.model.state_dict(), tmp_path / "weights.safetensors")
    saved = json.loads((tmp_path / "encoder" / "encoder.json").read_text(encoding="utf-8"))
    assert saved == encoder.describe()
    assert saved["columns"][1] == {"name": "device", "kind": "category", "values": ["phone", "tablet", "web"]}

    again = SOURCES["table"].load(tmp_path / "encoder", saved)
    assert isinstance(again, TableEncoder)
    assert again.fingerprint() != encoder.fingerprint()
    again.model.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    again.weights_changed()
    assert again.fingerprint() == encoder.fingerprint()
    new = [*(post for post in posts), {"likes": 5, "device": "tablet"}, {"device": "fridge"}]
    assert torch.equal(embed(again, *new), embed(encoder, *new))


# ---- the source ------------------------------------------------------------------------------------------


def test_the_source_makes_an_encoder_for_the_posts() -> None:
    frame = pd.DataFrame({"hour": [1, 2, 1], "device": ["web", None, "web"], "likes": [1, 2, None]})
    values = frame.to_dict("records")
    wanted = Wanted("table:", "table", columns=("likes", "hour", "device"), categories=("hour",), values=values)
    encoder = SOURCES["table"].open("", wanted)
    assert isinstance(encoder, TableEncoder)
    assert encoder.columns == (LIKES, Column("hour", "category", ("1", "2")), Column("device", "category", ("web",)))
    assert SOURCES["table"].ready() == []


def test_rows_of_the_source_are_those_of_the_table() -> None:
    values = [{"likes": i} for i in range(19)] + [{"likes": "many"}]
    wanted = Wanted("table:", "table", columns=("likes",), values=values, rows=range(2, 22))
    with pytest.raises(DataError, match=r"^row 21: the column 'likes' holds 'many'"):
        SOURCES["table"].open("", wanted)


def test_the_source_refuses_in_one_line(tmp_path: Path) -> None:
    source = SOURCES["table"]
    with pytest.raises(EncoderError, match="not a field of kind text"):
        source.open("", Wanted("table:", "text"))
    for refused in (
        lambda: source.open("", Wanted("table:", "table", columns=("x",))),
        lambda: source.open("big", Wanted("table:big", "table", columns=("x",), values=[{"x": 1}])),
        lambda: source.skeleton("", "table:"),
    ):
        with pytest.raises(EncoderError, match=r"^table:\w* cannot be opened by itself: .*name those columns instead$"):
            refused()
    with pytest.raises(EncoderError, match=r"encoder\.json does not describe a table encoder"):
        source.load(tmp_path, {"kind": "table", "columns": [{"name": "x"}]})


# ---- training --------------------------------------------------------------------------------------------


def test_it_learns_a_label_that_depends_on_a_category_and_a_number() -> None:
    random = np.random.default_rng(0)
    likes, device = random.exponential(100, 400), random.choice(["web", "phone"], 400)
    labels = torch.tensor((likes > 70) ^ (device == "web")).float()
    posts = [{"likes": one, "device": other} for one, other in zip(likes, device, strict=True)]
    encoder = learned(read_columns(posts, ["likes", "device"]), posts, rows=range(300))
    head = torch.nn.Linear(encoder.dim, 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.01)
    found = prepared(encoder, posts)
    encoder.train()
    for _ in range(80):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            head(encoder(found.inputs(np.arange(300))).pooled)[:, 0], labels[:300]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encoder.eval()
    with torch.no_grad():
        guess = head(encoder(found.inputs(np.arange(300, 400))).pooled)[:, 0] > 0
    assert (guess == labels[300:].bool()).float().mean() > 0.9
