from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest

from runs import write_table
from tiny import make_posts


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """One cluster of two cores for all tests; whoever connects uses it. Workers have the environment of now."""
    if find_spec("ray") is None:
        pytest.skip("the extra `ray` is not installed")
    from cotune.scale.connect import start

    with start(num_cpus=2):
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server on loopback with the bucket `posts`; returns its address."""
    pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    # For the workers too, which have the environment of the process that started them.
    named = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": address,
             "AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    before = {name: os.environ.get(name) for name in named}
    os.environ.update(named)
    fsspec.filesystem("s3").mkdir("posts")
    yield address
    fsspec.filesystem("s3").clear_instance_cache()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of its own in fsspec's memory."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of three shards of 10, 10 and 4 posts in three formats, beside the folder of their images."""
    folder = tmp_path / "shards"
    posts = make_posts(folder / "images", 24, classes=2)
    posts.loc[7, "image"] = str(folder / "images" / "nowhere.png")
    posts.loc[20, ["text", "image"]] = None
    write_table(posts.iloc[:10], folder / "a.csv")
    table = posts.drop(columns=["row", "group"])
    table["image"] = [image and f"images/{Path(image).name}" for image in table["image"]]
    table.iloc[10:20].to_parquet(folder / "b.parquet")
    table.iloc[20:].to_json(folder / "c.jsonl", orient="records", lines=True)
    return folder
