from __future__ import annotations

from pathlib import Path

import fsspec
import pandas as pd
import pytest

from cotune.data.posts import ColumnNames, read_posts
from cotune.errors import DataError
from cotune.scale.shards import Block, Reading, Shard, ShardEnd, first_posts, list_shards, read_blocks
from runs import Told

READING = Reading(ColumnNames(), block_rows=4)


def blocks(shard: Shard, reading: Reading = READING, done: tuple[int, ...] = ()) -> tuple[list[Block], ShardEnd]:
    *found, end = list(read_blocks(reading, shard, done))
    assert isinstance(end, ShardEnd)
    return [each for each in found if isinstance(each, Block)], end


def test_every_row_comes_once_in_blocks(shards: Path) -> None:
    for shard in list_shards(str(shards)):
        found, end = blocks(shard)
        whole = read_posts(shard.url)
        assert [block.number for block in found] == list(range(end.blocks))
        assert all(len(block.posts) <= 4 for block in found)
        pd.testing.assert_frame_equal(pd.concat([block.posts for block in found], ignore_index=True), whole)
        assert (end.rows, end.error) == (len(whole), None)


def test_shards_are_tables_alone(shards: Path) -> None:
    for name in ("_SUCCESS", ".hidden.csv", "notes.txt"):
        (shards / name).write_text("x")
    told = Told()
    found = list_shards(str(shards), progress=told)
    assert [(shard.number, shard.name) for shard in found] == [(0, "a.csv"), (1, "b.parquet"), (2, "c.jsonl")]
    assert told.lines == [f"note: 25 files of {shards} are no tables and are left out"]
    assert [shard.name for shard in list_shards(str(shards / "a.csv"))] == ["a.csv"]
    with pytest.raises(DataError, match="holds no posts tables"):
        list_shards(str(shards / "images"))


def test_blocks_that_are_done_are_not_read_again(shards: Path) -> None:
    shard = list_shards(str(shards))[0]
    found, end = blocks(shard, done=(0, 2))
    assert [block.number for block in found] == [1]
    assert (end.blocks, end.rows) == (3, 10)


def test_a_shard_that_is_cut_short_keeps_what_was_read(shards: Path) -> None:
    with (shards / "a.csv").open("a") as file:
        file.write('p99,"never closed')
    found, end = blocks(list_shards(str(shards))[0])
    assert [len(block.posts) for block in found] == [4, 4, 1]
    assert found[-1].error is not None
    assert found[-1].posts["id"].tolist() == ["a.csv"]
    assert str(shards / "a.csv") in found[-1].error
    assert end == ShardEnd(0, 3, 8, found[-1].error)


def test_a_shard_that_is_no_table_is_one_error(shards: Path) -> None:
    (shards / "b.parquet").write_bytes(b"PAR1 but not really")
    found, end = blocks(list_shards(str(shards))[1])
    assert [block.error for block in found] == [end.error]
    assert end.rows == 0
    assert "not a readable Parquet file" in str(end.error)


def test_empty_shards_and_those_without_a_row_that_is_asked_for(shards: Path) -> None:
    (shards / "a.csv").write_text("id,text,image,label\n")
    found = list_shards(str(shards))
    assert blocks(found[0]) == ([], ShardEnd(0, 0, 0))
    asked = Reading(ColumnNames(), where={"id": ["p20"]})
    assert blocks(found[1], asked) == ([], ShardEnd(1, 0, 0))
    assert first_posts(asked, found)["id"].tolist() == ["p20"]


def test_posts_that_nobody_can_read_are_refused(shards: Path) -> None:
    for shard in shards.glob("*.*"):
        shard.write_text("name,word\nx,y\n") if shard.suffix == ".csv" else shard.unlink()
    with pytest.raises(DataError, match=r"a\.csv has no column 'text'"):
        first_posts(READING, list_shards(str(shards)))


def test_a_shard_that_changes_meanwhile_is_refused(shards: Path) -> None:
    shard = list_shards(str(shards))[0]
    (shards / "a.csv").write_text("id,text\n1,other\n")
    with pytest.raises(DataError, match="was changed while"):
        blocks(shard)


def test_shards_by_url_name_their_images_by_url(shards: Path, memory: str) -> None:
    fs, path = fsspec.core.url_to_fs(memory)
    fs.put(str(shards), path, recursive=True)
    local, remote = list_shards(str(shards)), list_shards(memory)
    assert [(a.name, a.bytes, a.sha256) for a in local] == [(a.name, a.bytes, a.sha256) for a in remote]
    images = {str(image) for block in blocks(remote[1])[0] for image in block.posts["image"].dropna()}
    folder = remote[1].url.rpartition("/")[0]
    assert f"{folder}/images/10.png" in images
    assert all(image.startswith(f"{folder}/images/") for image in images)


@pytest.mark.parametrize("image", ["../../../other/x.png", "a/../../x.png", "..\\x.png"])
def test_a_relative_image_does_not_leave_its_bucket(image: str) -> None:
    from cotune.data.images.sources import is_url
    from cotune.data.tables.cells import FIELD_KINDS

    found = FIELD_KINDS["image"].read({"image": image}, base="s3://bucket/folder")
    assert is_url(found)
    assert found.startswith("s3://bucket/")
    assert ".." not in found
