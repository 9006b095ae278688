"""Batches made ready while the GPU works on the one before, in memory that it reads without the processor's help."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from cotune.model import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches on `device`; for a GPU the next one is assembled, and copied, meanwhile."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    source = iter(batches)

    def following() -> Batch | None:
        batch = next(source, None)
        return None if batch is None else batch.pin_memory()

    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as reader:
        coming: Future[Batch | None] = reader.submit(following)
        while (batch := coming.result()) is not None:
            coming = reader.submit(following)
            yield batch.to(device)
