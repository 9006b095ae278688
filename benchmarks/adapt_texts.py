"""Adapt a text encoder to unlabelled texts by masked language modelling, and look at what becomes of its embeddings.

    python benchmarks/adapt_texts.py other.csv --out adapted [--epochs 3] [--device cuda] [--limit N]

`cotune fit ... --text-encoder adapted` then begins with it. The head that guesses words is a dense layer and the
encoder's own word embeddings; it is trained alone for one epoch first, since a sentence encoder has none, and left out
of what is saved. Printed are the loss of held-out texts before and after, and of their sentence embeddings how far they
moved, how alike different texts are (near 1: they have collapsed) and how many keep their nearest neighbour.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cotune.data.posts import ColumnNames, has_text, read_posts
from cotune.encoders.resolve import resolve_text
from cotune.encoders.text import TextEncoder
from cotune.fields import Field
from cotune.files import atomic_path

BUNDLED = "bundled:all-MiniLM-L6-v2"
_HELD_OUT = 0.05
_IGNORED = -100  # what the collator writes where no word is to be guessed


class WordHead(nn.Module):
    """Guesses words from token states: a dense layer, then products with the word embeddings, which it shares."""

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        width = words.embedding_dim
        self.dense = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))
        self._words = [words]  # in a list, so that its weights are counted as the encoder's alone

    def forward(self, states: Tensor) -> Tensor:
        """Return a score for every word, shape (..., V)."""
        return nn.functional.linear(self.dense(states), self._words[0].weight, self.bias)


def adapt(
    texts: Sequence[str],
    out: Path,
    *,
    encoder: str = BUNDLED,
    epochs: int = 3,
    batch_size: int = 64,
    lr: float = 5e-5,
    device: str = "cpu",
    seed: int = 42,
) -> dict[str, float]:
    """Train an encoder to guess masked words of `texts`, save it as a folder, and return what was measured."""
    from transformers import DataCollatorForLanguageModeling

    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    opened = resolve_text(encoder)
    model, words = opened.model.to(device), opened.word_embedding()
    if not isinstance(words, nn.Embedding):
        raise SystemExit(f"{encoder} has no word embeddings that a head could share")
    head = WordHead(words).to(device)
    rows = opened.tokenize(list(dict.fromkeys(texts)))
    order = random.permutation(len(rows))
    held, train = np.split(order, [max(1, int(_HELD_OUT * len(rows)))])
    collate = DataCollatorForLanguageModeling(opened.tokenizer, mlm_probability=0.15)

    def loss_of(at: np.ndarray) -> Tensor:
        batch = collate([{"input_ids": rows[i].tolist()} for i in at]).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            asked = batch["labels"] != _IGNORED
            return nn.functional.cross_entropy(head(states[asked]).float(), batch["labels"][asked])

    def held_out_loss() -> float:
        model.eval()
        state = torch.get_rng_state()
        torch.manual_seed(0)  # the same words are masked each time
        with torch.inference_mode():
            found = [loss_of(at).item() for at in _batches(held, batch_size)]
        torch.set_rng_state(state)
        return float(np.mean(found))

    before = embeddings(opened, [rows[i] for i in held])
    losses = []
    for stage, n in (("head", 1), ("all", epochs)):
        for parameter in model.parameters():
            parameter.requires_grad_(stage == "all")
        parts = [{"params": head.parameters(), "lr": 1e-3 if stage == "head" else 10 * lr}]
        if stage == "all":
            parts.append({"params": model.parameters(), "lr": lr})
        steps = n * len(_batches(train, batch_size))
        if not steps:
            continue
        optimizer = torch.optim.AdamW(parts, weight_decay=0.01)
        warm = max(1, steps // 10)

        def rate(step: int, warm: int = warm, steps: int = steps) -> float:
            return min(step + 1, warm) / warm * max(0.0, (steps - step) / max(1, steps - warm) if step > warm else 1.0)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        for epoch in range(n):
            started, total = time.perf_counter(), 0.0
            model.train(stage == "all")
            for at in _batches(random.permutation(train), batch_size):
                loss = loss_of(at)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([p for part in parts for p in part["params"]], 1.0)
                optimizer.step()
                schedule.step()
                total += loss.item() * len(at)
            losses.append(held_out_loss())
            print(
                f"masked words, {stage}, epoch {epoch + 1} of {n}: training loss {total / len(train):.3f}, held-out "
                f"{losses[-1]:.3f}, {time.perf_counter() - started:.1f} s",
                flush=True,
            )
    after = embeddings(opened, [rows[i] for i in held])
    found = {"texts": len(rows), "loss_before": losses[0], "loss_after": losses[-1], **moved(before, after)}
    save(opened, out)
    again = embeddings(resolve_text(str(out)), [rows[i] for i in held])
    if not np.allclose(again, after, atol=1e-4):
        raise SystemExit(f"{out} does not give the embeddings of what was saved there")
    return found


def _batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def embeddings(encoder: TextEncoder, rows: Sequence[np.ndarray], batch_size: int = 256) -> np.ndarray:
    """Return sentence embeddings of unit length, as cotune pools them, shape (N, dim)."""
    device = next(encoder.model.parameters()).device
    encoder.eval()
    found = []
    with torch.inference_mode():
        for i in range(0, len(rows), batch_size):
            inputs = {name: value.to(device) for name, value in encoder.collate(rows[i : i + batch_size]).items()}
            found.append(nn.functional.normalize(encoder.encode(inputs).pooled.float()).cpu().numpy())
    return np.concatenate(found)


def moved(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Return what adaptation does to embeddings of unit length, each of shape (N, dim)."""
    own, other = before @ before.T, after @ after.T
    apart = ~np.eye(len(before), dtype=bool)
    np.fill_diagonal(own, -1)
    np.fill_diagonal(other, -1)
    return {
        "same_text_before_and_after": float((before * after).sum(axis=1).mean()),
        "different_texts_before": float(own[apart].mean()) if len(before) > 1 else np.nan,
        "different_texts_after": float(other[apart].mean()) if len(before) > 1 else np.nan,
        "nearest_neighbour_kept": float((own.argmax(axis=1) == other.argmax(axis=1)).mean()),
    }


def save(encoder: TextEncoder, out: Path) -> None:
    """Write model, tokenizer and pooling as a folder that `--text-encoder` opens."""
    with atomic_path(out, directory=True) as folder:
        encoder.model.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        (folder / "1_Pooling").mkdir()
        pooling: dict[str, Any] = {
            "word_embedding_dimension": encoder.dim,
            "pooling_mode_mean_tokens": encoder.pooling == "mean",
            "pooling_mode_cls_token": encoder.pooling == "cls",
            "pooling_mode_max_tokens": encoder.pooling == "max",
            "pooling_mode_lasttoken": encoder.pooling == "last",
        }
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")


def texts_of(path: Path, limit: int | None = None) -> list[str]:
    """Return the texts of a table, the first `limit` of them in a random order."""
    posts = read_posts(path, columns=ColumnNames(fields=(Field(name="text", kind="text"),)))
    found = [text for text in posts["text"] if has_text(text)]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:limit]]


def main() -> None:
    """Adapt, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a table with a column text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text-encoder", default=BUNDLED)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--limit", type=int, help="take a random part of the texts")
    args = parser.parse_args()
    found = adapt(
        texts_of(args.texts, args.limit), args.out, encoder=args.text_encoder, epochs=args.epochs,
        batch_size=args.batch_size, lr=args.lr, device=args.device, seed=args.seed,
    )  # fmt: skip
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<28}{value:,.4g}")


if __name__ == "__main__":
    main()
