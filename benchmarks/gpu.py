"""Everything that needs a CUDA GPU, checked and timed at once: one table, in about five minutes.

    python benchmarks/gpu.py [--posts 1536] [--epochs 3] [--out gpu.json]

Checks are the tests that skip without a GPU (`pytest -m gpu`). Timed is training by `fit_posts`, as users call it, with
encoders of real sizes and random weights, which are as fast as trained ones: `small` is a text encoder of the size of
all-MiniLM-L6-v2 with EfficientNet-Lite0, `base` one of the size of BERT base with ViT-B/16. Posts are made on the spot:
words at random, 5 to 40 a post, and images of 256 x 256. Reported are posts per second of joint or upper-layer
fine-tuning, the median over the epochs but the first with its range, and the largest memory that tensors took. Rows of
several devices are there where the machine has them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from cotune.data.posts import read_posts
from cotune.environment import environment
from cotune.settings import make_config
from cotune.training import model_rows, trainer
from cotune.training.fit import fit_posts

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {"small": (384, 6, 12, 1536), "base": (768, 12, 12, 3072)}
IMAGES = {"small": "tf_efficientnet_lite0", "base": "vit_base_patch16_224"}
WORDS = [f"w{i}" for i in range(2000)]
Row = dict[str, Any]


def make_text_encoder(size: str, folder: Path) -> Path:
    """Write a BERT of this size with random weights, and a tokenizer of made-up words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    width, layers, heads, inner = TEXTS[size]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
    )
    BertModel(config).save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names).save_pretrained(folder)
    return folder


def make_image_encoder(size: str, folder: Path) -> Path:
    """Write a network of timm with random weights."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(IMAGES[size], pretrained=False, num_classes=0)
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    shape = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9}
    scale = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    about = {"architecture": IMAGES[size], "num_classes": 0, "pretrained_cfg": {**shape, **scale}}
    (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def make_posts(n: int, folder: Path) -> Path:
    """Write a posts table with random words and images, of two classes."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for i in range(n):
        small = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((256, 256)).save(folder / f"{i}.jpg")
        words = random.choice(WORDS, size=int(random.integers(5, 41)))
        rows.append({"text": " ".join(words), "image": str(folder / f"{i}.jpg"), "label": "ab"[i % 2]})
    path = folder / "posts.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


class Bench:
    """Posts, encoders, and what was measured with them."""

    def __init__(self, folder: Path, n: int, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        self.encoders = {
            size: (make_text_encoder(size, folder / f"text-{size}"), make_image_encoder(size, folder / f"image-{size}"))
            for size in TEXTS
        }
        self.table = make_posts(n, folder / "posts")
        self.posts = read_posts(self.table)

    def settings(self, size: str, **more: Any) -> dict[str, Any]:
        """Return the settings of a training."""
        text, image = self.encoders[size]
        return {
            "text_encoder": str(text), "image_encoder": str(image), "cache": str(self.folder / "cache"),
            "device": "cuda", "epochs": self.epochs, "min_epochs": self.epochs, "probe_epochs": 0, "tune": "joint",
            **more,
        }  # fmt: skip

    def train(self, size: str, **more: Any) -> Row:
        """Train, and return what it took."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        result = fit_posts(self.posts, make_config(self.settings(size, **more)))
        rates = [row["posts_per_second"] for row in result.run.metrics["history"]]
        rates = rates[1:] or rates
        return {
            "posts/s": statistics.median(rates), "range": (min(rates), max(rates)),
            "GB": torch.cuda.max_memory_allocated() / 1e9, "result": result,
        }  # fmt: skip


def run_tests(out: Path) -> list[Row]:
    """Run the tests that need a GPU, and return a row for each."""
    command = [sys.executable, "-m", "pytest", str(ROOT / "tests"), "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    subprocess.run([*command, f"--junitxml={out}"], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if not out.exists():
        return [{"what": "tests", "result": "could not be run; is pytest installed?"}]
    rows = []
    for case in ET.parse(out).iter("testcase"):
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        words = "passed" if outcome is None else f"{outcome.tag}: {outcome.get('message', '')}"
        rows.append({"what": case.get("name"), "result": " ".join(words.split())[:150]})
    return rows


@contextmanager
def without_prefetch() -> Iterator[None]:
    """Assemble and copy each batch only once the one before is done."""

    def one_by_one(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
        return (batch.to(device) for batch in batches)

    with patch.object(trainer, "on_device", one_by_one), patch.object(model_rows, "on_device", one_by_one):
        yield


def timings(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    """Train in every way that one GPU allows."""
    rows: list[Row] = []

    def add(what: str, found: Row) -> None:
        say(f"{what}: {found['posts/s']:,.0f} posts/s")
        rows.append({"what": what, **{key: value for key, value in found.items() if key != "result"}})

    bench.train("small", epochs=1, min_epochs=1)  # CUDA and cuDNN start
    for size in TEXTS:
        for tune in ("joint", "top"):
            for precision in ("32", "bf16", "16"):
                add(f"{size}, {tune}, {precision}", bench.train(size, tune=tune, precision=precision))
        with without_prefetch():
            add(f"{size}, joint, bf16, no prefetch", bench.train(size, precision="bf16"))
    add("small, joint, bf16, batches of 256", bench.train("small", precision="bf16", batch_size=256))
    return rows


def kernels(device: torch.device, repeats: int = 30) -> list[Row]:
    """Time one step of EfficientNet-Lite0 (32 images): memory layouts, and CUDA graphs that replay it."""
    import timm

    def median(step: Callable[[], Any]) -> tuple[float, tuple[float, float]]:
        found = []
        for i in range(repeats + 5):
            torch.cuda.synchronize()
            started = time.perf_counter()
            step()
            torch.cuda.synchronize()
            if i >= 5:
                found.append((time.perf_counter() - started) * 1e3)
        return statistics.median(found), (min(found), max(found))

    rows: list[Row] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = timm.create_model(IMAGES["small"], num_classes=0).to(device, memory_format=layout).eval()
        images = torch.randn(32, 3, 224, 224, device=device).contiguous(memory_format=layout)

        def step(model: Any = model, images: Any = images) -> None:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(images).float().square().mean()
            loss.backward()

        ms, span = median(step)
        rows.append({"what": f"one step, bf16, {str(layout).removeprefix('torch.')}", "ms": ms, "range": span})
        if layout is torch.channels_last:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph), torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
                model(images).float().square().mean().backward()
            ms, span = median(graph.replay)
            rows.append({"what": "one step, bf16, channels_last, replayed as a CUDA graph", "ms": ms, "range": span})
    return rows


def parity(bench: Bench) -> Row:
    """Compare the probabilities of a run that the GPU trained, by GPU and by CPU."""
    from cotune.predict import Predictor

    run = bench.train("small", precision="32", tune="top")["result"].run
    some = bench.posts.head(64)
    found = {device: Predictor(run, device=device).scores(some).predictions for device in ("cuda", "cpu")}
    gap = float(np.abs(found["cuda"] - found["cpu"]).max())
    return {"what": "probabilities of 64 posts, GPU against CPU, float32", "result": f"largest difference {gap:.1e}"}


def several(bench: Bench, count: int) -> list[Row]:
    """Train on several GPUs through the command line; a row that says why not where there is one."""
    if count < 2:
        return [{"what": "ddp and fsdp on 2 devices (NCCL)", "result": "skipped: one CUDA device"}]
    rows: list[Row] = []
    for size, strategy in (("small", "ddp"), ("base", "ddp"), ("base", "fsdp")):
        settings = bench.settings(size, precision="bf16", devices=count, strategy=strategy, batch_size=32 * count)
        flags = [word for key, value in settings.items() for word in ("--set", f"{key.replace('_', '-')}={value}")]
        out = bench.folder / f"run-{size}-{strategy}"
        command = [sys.executable, "-m", "cotune", "fit", str(bench.table), "--out", str(out), *flags]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
        rates = pd.read_csv(out / "log.csv")["posts_per_second"].tolist()[1:]
        what = f"{size}, joint, bf16, {strategy} on {count} devices"
        rows.append({"what": what, "posts/s": statistics.median(rates), "range": (min(rates), max(rates))})
    return rows


def show(rows: list[Row], about: str) -> None:
    """Print everything as one table."""
    table = Table("what", "result", "range", "GB", title=about)
    for row in rows:
        unit = next((name for name in ("posts/s", "ms") if name in row), None)
        figure = (
            str(row.get("result", "")) if unit is None else f"{row[unit]:,.{0 if unit == 'posts/s' else 2}f} {unit}"
        )
        span = " to ".join(f"{value:,.4g}" for value in row["range"]) if "range" in row else ""
        table.add_row(row["what"], figure, span, f"{row['GB']:.2f}" if "GB" in row else "")
    Console(width=150).print(table)


def main() -> None:
    """Check, time, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=1536)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is visible: everything here needs one")
    started = time.perf_counter()
    rows: list[Row] = []

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {line}", flush=True)

    def keep(more: list[Row]) -> None:
        rows.extend(more)
        if given.out:
            plain = [
                {key: value for key, value in row.items() if key != "result" or isinstance(value, str)} for row in rows
            ]
            given.out.write_text(json.dumps({"environment": about, "rows": plain}, indent=1))

    about = environment(0, "made up", "cuda")
    with tempfile.TemporaryDirectory() as folder:
        keep(run_tests(Path(folder) / "tests.xml"))
        say(f"{len(rows)} tests")
        bench = Bench(Path(folder), given.posts, given.epochs)
        say("posts and encoders made")
        keep(timings(bench, say))
        keep(kernels(torch.device("cuda")))
        keep([parity(bench)])
        keep(several(bench, torch.cuda.device_count()))
    name = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, batches of 32"
    show(rows, name)


if __name__ == "__main__":
    main()
