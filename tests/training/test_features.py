from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cotune.data.images.load import ReadImage
from cotune.encoders import prepared_images
from cotune.encoders.base import Encoder
from cotune.encoders.prepared import ReadOptions
from cotune.progress import Progress
from cotune.training.features import Features, iterate, prepare
from tiny import PostsMaker, Zoo, picture

RAW = {"text": "raw", "image": "raw"}
POOLED = {"text": "pooled", "image": "pooled"}


class Listener(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def ready(posts: pd.DataFrame, encoders: dict[str, Encoder], root: Path, **settings: Any) -> Features:
    return prepare(posts, encoders, ReadOptions(root=root, **{"max_bytes": 10**9, **settings}))


def count_calls(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the number of posts of every pass through the encoder."""
    calls: list[int] = []
    real = encoder.encode

    def encode(inputs: Any) -> Any:
        calls.append(len(next(iter(inputs.values()))))
        return real(inputs)

    monkeypatch.setattr(encoder, "encode", encode)
    return calls


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen: list[object] = []
    real = ReadImage.decode
    monkeypatch.setattr(ReadImage, "decode", lambda self, **more: seen.append(self.key) or real(self, **more))
    return seen


def test_posts_without_a_field(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    posts = new_posts(12)
    features = ready(posts, zoo.pair(), cache)
    assert features.present[:, 0].tolist() == [i % 6 != 4 for i in range(12)]
    assert features.present[:, 1].tolist() == [i % 6 != 5 for i in range(12)]
    assert features.faults == {}
    batch = features.batch(np.asarray([3, 4, 5]), RAW)
    assert len(batch.inputs["text"]["input_ids"]) == len(batch.inputs["image"]["pixels"]) == 2
    both = features.batch(np.asarray([4]), RAW)
    assert set(both.inputs) == {"image"}


def test_raw_pooled_and_hidden_agree(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    encoders = zoo.pair("deberta-v2", "swin")
    features = ready(new_posts(12), encoders, cache)
    rows = np.asarray([7, 0, 3])
    with torch.no_grad():
        raw = {name: encoders[name](inputs).pooled for name, inputs in features.batch(rows, RAW).inputs.items()}
        for name, encoder in encoders.items():
            features.compute(name, "pooled", encoder)
        for name, inputs in features.batch(rows, POOLED).inputs.items():
            torch.testing.assert_close(inputs["pooled"], raw[name], atol=1e-5, rtol=1e-5)
        for name, encoder in encoders.items():
            encoder.cut_at(2)
            features.compute(name, "hidden", encoder)
        for name, inputs in features.batch(rows, {"text": "hidden", "image": "hidden"}).inputs.items():
            torch.testing.assert_close(encoders[name](inputs).pooled, raw[name], atol=2e-2, rtol=2e-2)


def test_embeddings_do_not_depend_on_what_was_cached_before(zoo: Zoo, new_posts: PostsMaker, tmp_path: Path) -> None:
    """Those made from half-precision activations must not be taken for the exact ones."""
    posts, rows = new_posts(6, gaps=False), np.arange(6)
    exact = []
    for first_cut in (False, True):
        encoders = zoo.pair()
        root = tmp_path / str(first_cut)
        if first_cut:
            cut = ready(posts, encoders, root)
            for name, encoder in encoders.items():
                encoder.cut_at(1)
                cut.compute(name, "hidden", encoder)
                cut.compute(name, "pooled", encoder)
                encoder.cut_at(0)
        features = ready(posts, encoders, root)
        for name, encoder in encoders.items():
            features.compute(name, "pooled", encoder)
        exact.append(features.batch(rows, POOLED).inputs)
    for name in ("text", "image"):
        assert torch.equal(exact[0][name]["pooled"], exact[1][name]["pooled"])


def test_whole_and_cut_encoders_may_share_features(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    encoders = zoo.pair()
    features = ready(new_posts(6), encoders, cache)
    encoders["text"].cut_at(1)
    features.compute("text", "hidden", encoders["text"])
    encoders["text"].cut_at(0)
    features.compute("text", "pooled", encoders["text"])
    batch = features.batch(np.asarray([0]), {"text": "pooled"})
    with torch.no_grad():
        raw = encoders["text"](features.batch(np.asarray([0]), {"text": "raw"}).inputs["text"]).pooled
    torch.testing.assert_close(batch.inputs["text"]["pooled"], raw, atol=1e-6, rtol=1e-6)


def test_second_run_calls_no_encoder_and_decodes_nothing(
    zoo: Zoo, new_posts: PostsMaker, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = new_posts(12)
    for turn in (1, 2):
        encoders = zoo.pair()
        calls = {name: count_calls(encoder, monkeypatch) for name, encoder in encoders.items()}
        decodes = count_decodes(monkeypatch)
        features = ready(posts, encoders, cache)
        for name, encoder in encoders.items():
            features.compute(name, "pooled", encoder)
        assert sum(calls["text"]) == (10 if turn == 1 else 0)
        assert sum(calls["image"]) == (10 if turn == 1 else 0)
        assert len(decodes) == (10 if turn == 1 else 0)
        monkeypatch.undo()


def test_changed_weights_do_not_find_old_embeddings(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    encoders = zoo.pair()
    features = ready(new_posts(6), encoders, cache)
    features.compute("text", "pooled", encoders["text"])
    before = features.batch(np.asarray([0]), {"text": "pooled"}).inputs["text"]["pooled"]
    with torch.no_grad():
        for parameter in encoders["text"].parameters():
            parameter.add_(0.1)
    encoders["text"].weights_changed()
    features.compute("text", "pooled", encoders["text"])
    after = features.batch(np.asarray([0]), {"text": "pooled"}).inputs["text"]["pooled"]
    assert not torch.allclose(before, after)


def test_equal_posts_are_computed_once(
    zoo: Zoo, new_posts: PostsMaker, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = new_posts(4, gaps=False)
    copy = tmp_path / "same bytes under another name.png"
    copy.write_bytes(Path(posts["image"][0]).read_bytes())
    posts = pd.concat([posts, posts, posts.assign(image=str(copy))], ignore_index=True)
    encoders = zoo.pair()
    calls = {name: count_calls(encoder, monkeypatch) for name, encoder in encoders.items()}
    features = ready(posts, encoders, cache)
    for name, encoder in encoders.items():
        features.compute(name, "pooled", encoder)
    assert sum(calls["image"]) == sum(calls["text"]) == 4
    keys = features.fields["image"].keys
    assert keys[0] == keys[4] == keys[11]
    store = features.fields["image"].store
    assert store is not None
    assert len(store) == 4


def test_broken_images_are_listed_and_count_as_absent(
    zoo: Zoo, new_posts: PostsMaker, cache: Path, tmp_path: Path
) -> None:
    posts = new_posts(6, gaps=False)
    whole = Path(posts["image"][0]).read_bytes()
    broken = {1: b"", 2: whole[: len(whole) // 2], 3: b"<html>not found</html>"}
    for row, content in broken.items():
        path = tmp_path / f"broken{row}.png"
        path.write_bytes(content)
        posts.loc[row, "image"] = str(path)
    posts.loc[4, "image"] = str(tmp_path / "nowhere.png")
    posts.loc[5, "image"] = "https://example.org/picture.png"
    features = ready(posts, zoo.pair(), cache)
    assert features.present[:, 1].tolist() == [True] + [False] * 5
    assert features.present[:, 0].all()
    kinds = {row: fault.kind for row, fault in features.faults.items()}
    assert kinds == {1: "empty", 2: "truncated", 3: "unreadable", 4: "missing", 5: "remote"}
    assert all(str(fault) for fault in features.faults.values())
    features.compute("image", "pooled", features.encoders["image"])
    assert len(features.batch(np.arange(6), POOLED | {"text": "raw"}).inputs["image"]["pooled"]) == 1


def test_images_may_be_opened_ones_and_arrays(zoo: Zoo, cache: Path) -> None:
    shot = picture(1, size=(64, 64))
    posts = pd.DataFrame({"text": ["a", "b", "c"], "image": [shot, np.asarray(shot), None]}, dtype=object)
    features = ready(posts, zoo.pair(), cache)
    assert features.fields["image"].keys[0] == features.fields["image"].keys[1] != ""
    pixels = features.batch(np.arange(3), RAW).inputs["image"]["pixels"]
    assert torch.equal(pixels[0], pixels[1])


def test_a_full_store_falls_back_to_decoding(
    zoo: Zoo, new_posts: PostsMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotune.encoders.prepared_images._CHUNK", 2)
    posts = new_posts(8, gaps=False)
    expected = ready(posts, zoo.pair(), tmp_path / "wide").batch(np.arange(8), RAW).inputs["image"]["pixels"]
    one = 3 * 64 * 64
    listener = Listener()
    features = ready(posts, zoo.pair(), tmp_path / "narrow", max_bytes=5 * one, progress=listener)
    store = features.fields["image"].store
    assert store is not None
    assert len(store) == 4
    assert (tmp_path / "narrow").stat()
    assert [line for line in listener.lines if "decoded again" in line]
    decodes = count_decodes(monkeypatch)
    assert torch.equal(features.batch(np.arange(8), RAW).inputs["image"]["pixels"], expected)
    assert len(decodes) == 4
    size = sum(file.stat().st_size for file in (tmp_path / "narrow").rglob("data.bin"))
    assert size <= 5 * one


def test_without_a_cache_folder_images_stay_in_memory(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    posts = new_posts(6)
    expected = ready(posts, zoo.pair(), cache).batch(np.arange(5), RAW).inputs["image"]["pixels"]
    features = prepare(posts, zoo.pair())
    assert torch.equal(features.batch(np.arange(5), RAW).inputs["image"]["pixels"], expected)


def test_one_field_alone_reads_nothing_of_the_other(
    zoo: Zoo, new_posts: PostsMaker, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    real = prepared_images.read_image
    monkeypatch.setattr(prepared_images, "read_image", lambda image, **more: read.append(image) or real(image, **more))
    features = ready(new_posts(6), {"text": zoo.text()}, cache)
    assert read == []
    assert list(features.fields) == ["text"]
    assert features.present[:, 0].sum() == 5
    images = ready(new_posts(6).drop(columns="text"), {"image": zoo.image()}, cache)
    assert list(images.fields) == ["image"]
    assert images.present[:, 0].sum() == len(read) == 5


def test_batches_hold_each_post_once_with_its_label(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    features = ready(new_posts(12), zoo.pair(), cache)
    labels = np.arange(12) % 3
    rows = np.asarray([11, 2, 5, 7, 4])
    for seed in (None, 1):
        seen = []
        for batch in iterate(features, rows, RAW, 2, targets=labels, seed=seed):
            assert batch.rows is not None
            assert batch.targets is not None
            seen += batch.rows.tolist()
            assert batch.targets.tolist() == labels[batch.rows.numpy()].tolist()
            assert torch.equal(batch.present, torch.from_numpy(features.present[batch.rows.numpy()]))
        assert sorted(seen) == sorted(rows.tolist())


def test_no_posts_at_all(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    encoders = zoo.pair()
    features = ready(new_posts(3).iloc[:0], encoders, cache)
    for name, encoder in encoders.items():
        features.compute(name, "pooled", encoder)
    assert len(features) == 0
    assert list(iterate(features, np.zeros(0, dtype=int), RAW, 4)) == []


def test_subset(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    encoders = zoo.pair()
    features = ready(new_posts(12), encoders, cache)
    features.compute("image", "pooled", encoders["image"])
    part = features.subset(np.asarray([8, 2]))
    assert len(part) == 2
    whole = features.batch(np.asarray([8, 2]), {"image": "pooled"}).inputs["image"]["pooled"]
    assert torch.equal(part.batch(np.arange(2), {"image": "pooled"}).inputs["image"]["pooled"], whole)


def test_old_stores_make_room_for_new_ones(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    one = 3 * 64 * 64
    ready(new_posts(6, gaps=False), zoo.pair(image="timm-efficientnet"), cache, max_bytes=10**6)
    (old,) = cache.glob("pixels-*")
    ready(new_posts(6, gaps=False, seed=1), zoo.pair(image="vit"), cache, max_bytes=10**6)
    assert old.exists(), "there is room for both"
    encoders = zoo.pair(image="timm-convnext")
    encoders["image"].preprocessor.config["note"] = "another transform"
    ready(new_posts(6, gaps=False, seed=2), encoders, cache, max_bytes=10 * one)
    assert not old.exists()


def test_a_store_that_is_read_makes_no_room_for_another(zoo: Zoo, new_posts: PostsMaker, cache: Path) -> None:
    posts = new_posts(6, gaps=False)
    encoders = {name: zoo.image(kind) for name, kind in (("image", "timm-resnet"), ("photo", "vit"))}
    encoders["text"] = zoo.text()
    posts["photo"] = posts["image"]
    both = 6 * 3 * (64 * 64 + 32 * 32)
    features = ready(posts, encoders, cache, max_bytes=both + 100)
    pixels = {name: features.fields[name].store for name in ("image", "photo")}
    assert all(store is not None and store.folder.exists() and len(store) == 6 for store in pixels.values())
    features.compute("text", "pooled", encoders["text"])
    assert all(store is not None and store.folder.exists() for store in pixels.values())
    assert len(features.batch(np.arange(6), {"image": "raw", "photo": "raw"}).inputs["photo"]["pixels"]) == 6
