"""A run is pushed to a hub on loopback and used by its name there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants, metadata_load
from huggingface_hub.utils import disable_progress_bars

import cotune
from cotune.checksums import checksums, sealed
from cotune.cli import main
from cotune.cli.run_folder import on_disk
from cotune.cli.serve import _named
from cotune.errors import ConfigError, HubError
from cotune.hub import parse_repository
from cotune.ownership import EXPORT
from cotune.run import save_run
from cotune.sharing.fetch import local_folder
from cotune.sharing.push import _without_folder
from fake_hub import READER, WRITER, FakeHub, running
from runs import tiny_fit, write_table
from tiny import Zoo

OWN = {
    "README.md", "config.json", "environment.json", "labels.json", "metrics.json", "model.safetensors",
    "image_encoder/encoder.json", "image_encoder/preprocessing.json", "text_encoder/config.json",
    "text_encoder/encoder.json", "text_encoder/tokenizer.json", "text_encoder/tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run among files that are nobody else's business."""
    here = tmp_path_factory.mktemp("secret-client")
    run = tiny_fit(zoo, here, validation=0.25, n=32).run
    run.environment["command"] = f"cotune fit {here}/posts.csv"
    run.metrics["notes"] = [f"{here} holds two posts"]
    save_run(here / "mood", run, pages={"report.html": "<html>posts</html>"})
    (here / "mood" / "predictions.csv").write_text("mine")
    (here / "mood" / "text_encoder" / "notes.txt").write_text("mine")
    (here / "mood" / "checkpoint").mkdir()
    return here / "mood"


@pytest.fixture
def posts(folder: Path) -> Path:
    from tiny import make_posts

    path = folder.parent / "new.csv"
    return path if path.exists() else write_table(make_posts(folder.parent / "new", 10, gaps=False, seed=3), path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    on_disk.cache_clear()
    disable_progress_bars()  # as the command line's main program does by a variable
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub


def push(folder: Path, *more: str, name: str = "me/mood") -> int:
    return main(["push", str(folder), name, *more])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    return err


def damage(hub: FakeHub, name: str, content: bytes) -> None:
    files = dict(hub.files("me/mood"))
    hub.repositories["me/mood"].commit("main", {**files, name: content})


def test_a_pushed_run_gives_the_same_probabilities_by_its_name(hub: FakeHub, folder: Path, posts: Path,
                                                               tmp_path: Path) -> None:  # fmt: skip
    assert push(folder) == 0
    table = cotune.read_posts(posts)
    assert np.array_equal(cotune.load("hf:me/mood").predict_proba(table), cotune.load(folder).predict_proba(table))
    for name, run in {"by-name.csv": "hf:me/mood", "by-folder.csv": str(folder)}.items():
        assert main(["predict", run, str(posts), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "by-name.csv").read_bytes() == (tmp_path / "by-folder.csv").read_bytes()


def test_nothing_but_the_run_goes_to_the_hub(hub: FakeHub, folder: Path, zoo: Zoo) -> None:
    assert push(folder, "--license", "mit", "--private") == 0
    files = hub.files("me/mood")
    assert files.keys() - {".gitattributes"} == OWN
    for name, content in files.items():
        for secret in (folder.parent, zoo.root, "secret-client"):
            assert str(secret).encode() not in content, name
    assert json.loads(files["config.json"])["encoders"]["text"]["spec"] == "./distilbert"
    assert hub.repositories["me/mood"].private


@pytest.mark.parametrize(
    ("text", "is_spec", "public"),
    [
        ("hf:acme/secret", True, "hf:acme/secret"),
        ("bundled:all-MiniLM-L6-v2", True, "bundled:all-MiniLM-L6-v2"),
        ("timm:resnet50.a1_in1k", True, "timm:resnet50.a1_in1k"),
        ("clip:hf:openai/clip", True, "clip:hf:openai/clip"),
        ("timm:hf-hub:timm/resnet18", True, "timm:hf-hub:timm/resnet18"),
        ("distilbert/distilbert-base", False, "distilbert/distilbert-base"),
        ("/home/me/enc", False, "./enc"),
        ("clip:/home/me/enc", True, "clip:./enc"),
        ("timm:local-dir:work/enc", True, "timm:local-dir:./enc"),
        ("work/enc", True, "./enc"),
        ("~/enc", True, "./enc"),
        ("C:\\Users\\me\\enc", True, "./enc"),
        ("\\\\server\\me\\enc", True, "./enc"),
    ],
)
def test_paths_lose_their_folders_and_names_stay(text: str, is_spec: bool, public: str) -> None:
    assert _without_folder(text, is_spec) == public


def test_the_files_are_listed_first_and_a_dry_run_asks_nobody(hub: FakeHub, folder: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert push(folder, "--dry-run") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in OWN)
    assert "library_name: cotune" in out
    assert "nothing was uploaded" in out
    assert not hub.asked
    assert push(folder, "--dry-run", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"].keys() == OWN
    assert answer["url"] is None


def test_only_what_the_run_names_is_downloaded_and_once(hub: FakeHub, folder: Path) -> None:
    assert push(folder) == 0
    for name in ("evil.pkl", "text_encoder/evil.json", "pytorch_model.bin", "report.html"):
        damage(hub, name, b"evil")
    hub.asked.clear()
    there = local_folder("hf:me/mood")
    found = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert found == OWN - {"README.md"}
    assert not [line for line in hub.asked if "evil" in line or ".bin" in line]
    hub.asked.clear()
    local_folder("hf:me/mood")
    assert not [line for line in hub.asked if line.startswith("GET") and "resolve" in line]


def test_offline_the_cache_is_enough(hub: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    assert push(folder) == 0
    there = local_folder("hf:me/mood")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert local_folder("hf:me/mood") == there
    assert main(["info", "hf:me/other"]) == 2
    assert "HF_HUB_OFFLINE is set" in one_line(capsys)
    assert push(folder) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert not hub.asked


def test_a_branch_and_its_name(hub: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(folder) == 0
    assert push(folder, "--revision", "v2", "--license", "mit") == 0
    assert b"license: mit" in hub.files("me/mood", "v2")["README.md"]
    assert b"license" not in hub.files("me/mood")["README.md"]
    assert local_folder("hf:me/mood@v2") != local_folder("hf:me/mood")
    assert push(folder, name="me/mood@v2") == 2
    assert main(["info", "hf:me/mood@v3"]) == 2
    assert "no such revision" in capsys.readouterr().err


def test_the_other_commands_take_the_name(hub: FakeHub, folder: Path, posts: Path, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert push(folder) == 0
    capsys.readouterr()
    assert main(["info", "hf:me/mood", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "hf:me/mood"
    assert main(["evaluate", "hf:me/mood", str(posts), "--bootstrap", "10", "--out", str(tmp_path / "e")]) == 0
    assert "mood on 10 posts" in capsys.readouterr().out
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["run"] == "hf:me/mood"
    assert main(["explain", "hf:me/mood", str(posts), "--find", "conflicts"]) == 0
    assert main(["serve", "mine=hf:me/mood", "--check"]) == 0
    assert _named(["a=hf:me/mood", "hf:me/mood@v2"]).keys() == {"a", "mood-v2"}


@pytest.mark.parametrize(
    ("token", "words"),
    [(None, "no token of the hub was found"), ("hf_wrong", "(401)"), (READER, "(403)")],
)
def test_who_may_not_push_hears_why(hub: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str],
                                    monkeypatch: pytest.MonkeyPatch, token: str | None, words: str) -> None:  # fmt: skip
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    assert push(folder) == 2
    err = one_line(capsys)
    assert words in err
    assert "HF_TOKEN" in err
    assert not hub.repositories


def test_a_hub_that_is_not_there_or_is_ill(hub: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(folder, "--endpoint", "http://127.0.0.1:9") == 2
    assert "http://127.0.0.1:9 cannot be reached" in one_line(capsys)
    hub.broken = {"/api/repos/create": 503}
    assert push(folder) == 2
    assert "answers 503" in one_line(capsys)


def test_another_model_and_a_public_place_are_left_alone(hub: FakeHub, folder: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert push(folder) == 0
    capsys.readouterr()
    assert push(folder, "--private") == 2
    assert "exists and is public" in one_line(capsys)
    damage(hub, "config.json", b'{"model_type": "bert"}')
    before = hub.files("me/mood")
    assert push(folder) == 2
    assert "holds another model" in one_line(capsys)
    assert hub.files("me/mood") is before
    assert main(["info", "hf:me/mood"]) == 2
    assert "was not written by cotune" in one_line(capsys)


def test_what_is_not_there_or_not_for_all_is_one_line(hub: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    assert push(folder, "--private") == 0
    capsys.readouterr()
    assert main(["predict", "hf:me/none", "--text", "a"]) == 2
    assert "hf:me/none: there is no such repository, or it is private and the token does not open it" in one_line(
        capsys
    )
    monkeypatch.delenv("HF_TOKEN")
    assert main(["predict", "hf:me/mood", "--text", "a"]) == 2
    assert "no token was found" in one_line(capsys)
    assert main(["predict", "hf:mood", "--text", "a"]) == 2
    assert "OWNER/NAME" in one_line(capsys)
    (tmp_path / "export.json").write_text(json.dumps(EXPORT.mark()))
    assert push(tmp_path) == 2
    assert "is an export" in one_line(capsys)


def test_a_run_that_was_tampered_with_is_refused(hub: FakeHub, folder: Path) -> None:
    assert push(folder) == 0
    config = json.loads(hub.files("me/mood")["config.json"])
    damage(hub, "text_encoder/tokenizer.json", hub.files("me/mood")["text_encoder/tokenizer.json"] + b" ")
    with pytest.raises(cotune.CotuneError, match=r"tokenizer\.json was changed"):
        cotune.load("hf:me/mood")
    damage(hub, "config.json", json.dumps({**config, "label_type": "int"}).encode())
    with pytest.raises(HubError, match="its checksum differs"):
        cotune.load("hf:me/mood")
    rest = {key: value for key, value in config.items() if key not in ("checksum", "checksums")}
    damage(hub, "config.json", json.dumps(sealed(rest)).encode())
    with pytest.raises(HubError, match="no checksums"):
        cotune.load("hf:me/mood")
    damage(hub, "config.json", json.dumps(sealed({**rest, "checksums": {"labels.json": 1}})).encode())
    with pytest.raises(HubError, match="no checksums"):
        cotune.load("hf:me/mood")
    entry = config["checksums"]["labels.json"]
    for strange in (
        "../../x.json",
        "text_encoder/x.pkl",
        "x.json",
        "/etc/x.json",
        "text_encoder/../x.json",
        "report.html",
    ):
        damage(
            hub,
            "config.json",
            json.dumps(sealed({**rest, "checksums": {**config["checksums"], strange: entry}})).encode(),
        )
        with pytest.raises(HubError, match="files that no run has"):
            cotune.load("hf:me/mood")


@pytest.mark.parametrize(
    "name", ["mood", "a/b/c", "me/mood@", "../mood", "me/..", "me/a--b", "/mood", "me/m d", "-a/b"]
)
def test_names_that_no_hub_has(name: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        parse_repository(name)


def test_the_card_speaks_the_hubs_language(hub: FakeHub, folder: Path, posts: Path, tmp_path: Path) -> None:
    words = ["--license", "mit", "--language", "en", "--language", "pt", "--dataset", "me/posts",
             "--intended-use", "To sort letters.", "--limits", "Not for sarcasm."]  # fmt: skip
    assert push(folder, *words, "--samples", str(posts)) == 0
    card = tmp_path / "README.md"
    card.write_bytes(hub.files("me/mood")["README.md"])
    found: Any = metadata_load(card)
    assert found["license"] == "mit"
    assert found["language"] == ["en", "pt"]
    assert found["datasets"] == ["me/posts"]
    assert (found["library_name"], found["pipeline_tag"]) == ("cotune", "text-classification")
    assert {"roc_auc", "f1", "accuracy"} <= set(found["metrics"])
    assert "base_model" not in found  # its encoders came from folders
    (index,) = found["model-index"]
    (result,) = index["results"]
    auc = next(metric for metric in result["metrics"] if metric["type"] == "roc_auc")
    kept = json.loads((folder / "metrics.json").read_text())["validation"]["scores"]["auc"]
    assert auc["value"] == kept["value"]
    assert (auc["args"]["low"], auc["args"]["high"]) == (kept["low"], kept["high"])
    text = card.read_text()
    assert "To sort letters." in text
    assert "Not for sarcasm." in text
    assert "| class | precision | recall | F1 | posts |" in text
    assert 'cotune.load("hf:me/mood")' in text
    first = pd.read_csv(posts)["text"][0]
    assert "## Sample predictions" in text
    assert f"`{first}`" in text
    assert "new/0.png" not in text
    damage(hub, "README.md", b"edited")
    assert push(folder, "--keep-card") == 0
    assert hub.files("me/mood")["README.md"] == b"edited"
    assert push(folder) == 0
    assert first not in hub.files("me/mood")["README.md"].decode()


def test_a_run_that_names_other_files_is_not_pushed(hub: FakeHub, folder: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    mine = Path(shutil.copytree(folder, tmp_path / "mine"))
    (tmp_path / "secret.txt").write_text("secret")
    settings = json.loads((mine / "config.json").read_text())
    del settings["checksum"]
    settings["checksums"] |= checksums(mine, ["../secret.txt"])
    (mine / "config.json").write_text(json.dumps(sealed(settings)))
    assert push(mine) == 2
    assert "name a file outside of the folder, '../secret.txt'" in one_line(capsys)
    assert not hub.repositories


def test_an_old_run_without_checksums_has_to_be_written_again(hub: FakeHub, folder: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    settings = json.loads((old / "config.json").read_text())
    del settings["checksums"], settings["checksum"], settings["written_by"]
    (old / "config.json").write_text(json.dumps(settings))
    assert push(old) == 2
    assert "has no checksums" in one_line(capsys)
