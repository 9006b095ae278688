"""One stage of training, readable in one sitting: epochs, steps, early stopping, resuming.

Random numbers are drawn anew at the start of every epoch from the seed, the stage and the epoch alone. So a
run that was killed and goes on from its last epoch gives the numbers of one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from cotune.data.batches import n_batches
from cotune.errors import ConfigError
from cotune.model import Batch, JointModel
from cotune.progress import Progress
from cotune.settings import Stop
from cotune.training.features import Features, Source, iterate
from cotune.training.held_out import HeldOutScore, score_held_out
from cotune.training.parameters import set_train_mode

EpochHook = Callable[["StageState"], None]


@dataclass(frozen=True)
class StagePlan:
    """What one stage does; see :class:`cotune.settings.FitConfig` for the settings' meaning.

    ``post_weights`` holds a weight for every post of the features, of mean one over those trained on.
    ``trained_start`` says whether the weights that the stage begins with have been trained, and so may be its best.
    """

    name: str
    source: Mapping[str, Source]
    epochs: int
    batch_size: int
    seed: int
    stop: Stop = "train-loss"
    min_epochs: int = 1
    patience: int = 1
    accumulate: int = 1
    warmup: float = 0.0
    max_grad_norm: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.0
    frozen_norms: bool = True
    class_weights: tuple[float, ...] | None = None
    keep_best: bool = False
    trained_start: bool = True
    post_weights: Tensor | None = None


@dataclass
class StageState:
    """Where a stage stands after an epoch; all that is needed to go on."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    stale: int = 0
    finished: bool = False
    weights: dict[str, Tensor] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


def run_stage(
    fabric: Fabric,
    model: JointModel,
    groups: list[dict[str, Any]],
    features: Features,
    labels: np.ndarray,
    rows: np.ndarray,
    plan: StagePlan,
    *,
    validation_rows: np.ndarray | None = None,
    validation: tuple[Features, np.ndarray] | None = None,
    state: StageState | None = None,
    on_epoch: EpochHook | None = None,
    progress: Progress | None = None,
) -> StageState:
    """Train until the epochs are over or nothing gets better, and leave the model with the weights to keep.

    Parameters
    ----------
    fabric : Fabric
        Device and precision.
    model : JointModel
        Trained in place.
    groups : list of dict
        AdamW parameter groups.
    features : Features
        The prepared posts.
    labels : ndarray of int
        Class index of every post of `features`.
    rows : ndarray of int
        The training posts.
    plan : StagePlan
        What to do.
    validation_rows : ndarray of int, optional
        Held-out posts of the same features.
    validation : tuple, optional
        Features and labels of a validation table of its own.
    state : StageState, optional
        Where an interrupted stage stood.
    on_epoch : callable, optional
        Called after every epoch with the state, to save it.
    progress : Progress, optional
        Whom to tell.

    Returns
    -------
    StageState
        The last state, with the history of all epochs.
    """
    progress = progress or Progress()
    state = state or StageState()
    trained = trained_tensors(model, plan)
    optimizer = torch.optim.AdamW(groups)
    steps = math.ceil(n_batches(len(rows), plan.batch_size) / plan.accumulate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_cosine(steps * plan.epochs, plan.warmup))
    forward, optimizer_ = fabric.setup(model, optimizer)
    if state.epoch:
        put_back(trained, state.weights)
        optimizer.load_state_dict(state.optimizer)
        schedule.last_epoch = steps * state.epoch
    if validation is None and validation_rows is not None:
        validation = (features, labels)
    watch = None if validation is None else (*validation, validation_rows)
    if plan.keep_best and plan.trained_start and watch is not None and state.epoch == 0:
        # The stage must beat what it starts from.
        state.best = _validate(fabric, forward, watch, plan).value
        state.best_weights = copy_tensors(trained)
    if plan.ema and not state.average:
        state.average = copy_tensors(trained)
    left = plan.epochs - state.epoch
    if left > 0 and not state.finished:
        what = "training the fusion head" if plan.name == "probe" else f"fine-tuning, {plan.name}"
        progress.begin(f"{what}: {len(rows):,} posts, at most {left} epoch{'' if left == 1 else 's'}")
    loss_function = WeightedLoss(plan).to(fabric.device)
    while state.epoch < plan.epochs and not state.finished:
        started = time.perf_counter()
        loss = _one_epoch(
            fabric,
            forward,
            optimizer_,
            schedule,
            loss_function,
            features,
            labels,
            rows,
            plan,
            state,
            trained,
            progress,
        )
        seconds = time.perf_counter() - started
        _refuse_diverged(loss, trained, f"epoch {state.epoch + 1} of {plan.name}")
        live = copy_tensors(trained)
        if plan.ema:
            put_back(trained, state.average)
        score = None if watch is None else _validate(fabric, forward, watch, plan)
        state.epoch += 1
        _judge(state, plan, loss, score, trained)
        put_back(trained, live)
        state.history.append(
            {
                "stage": plan.name,
                "epoch": state.epoch,
                "train_loss": loss,
                "validation_auc": None if score is None else score.auc,
                "validation_loss": None if score is None else score.loss,
                "seconds": seconds,
                "posts_per_second": len(rows) / seconds,
            }
        )
        progress.say(_line(state.history[-1]))
        state.weights, state.optimizer = live, optimizer.state_dict()
        if on_epoch is not None:
            on_epoch(state)
    chosen = final_weights(state)
    if chosen:
        put_back(trained, chosen)
    model.eval()
    return state


class WeightedLoss(nn.Module):
    """The cross-entropy of a batch, with the weights of classes and of posts."""

    def __init__(self, plan: StagePlan) -> None:
        super().__init__()
        weight = None if plan.class_weights is None else torch.tensor(plan.class_weights)
        self.mean = nn.CrossEntropyLoss(weight=weight, label_smoothing=plan.label_smoothing)
        self.each = nn.CrossEntropyLoss(weight=weight, label_smoothing=plan.label_smoothing, reduction="none")
        self.post_weights = plan.post_weights

    def forward(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss, a number."""
        assert batch.labels is not None
        if self.post_weights is None:
            result: Tensor = self.mean(logits, batch.labels)
            return result
        assert batch.rows is not None
        weights = self.post_weights[batch.rows].to(logits)
        whole = len(batch) if self.each.weight is None else self.each.weight[batch.labels].sum()
        # Not divided by the sum of the batch's weights, which would let a heavy post count for less than it should.
        weighted: Tensor = (self.each(logits, batch.labels) * weights).sum() / whole
        return weighted


def _one_epoch(
    fabric: Fabric,
    forward: Any,
    optimizer: Any,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    loss_function: WeightedLoss,
    features: Features,
    labels: np.ndarray,
    rows: np.ndarray,
    plan: StagePlan,
    state: StageState,
    trained: Mapping[str, Tensor],
    progress: Progress,
) -> float:
    torch.manual_seed(int(np.random.SeedSequence([plan.seed, len(plan.name), state.epoch]).generate_state(1)[0]))
    set_train_mode(forward.module, frozen_norms=plan.frozen_norms)
    n = n_batches(len(rows), plan.batch_size)
    batches = iterate(features, rows, plan.source, plan.batch_size, labels=labels, seed=plan.seed, epoch=state.epoch)
    total = torch.zeros((), device=fabric.device)
    what = f"{plan.name}, epoch {state.epoch + 1} of {plan.epochs}"
    for i, batch in enumerate(progress.track(batches, what, n)):
        batch = batch.to(fabric.device)
        last = (i + 1) % plan.accumulate == 0 or i + 1 == n
        in_group = plan.accumulate if i < n - n % plan.accumulate else n % plan.accumulate
        loss = loss_function(forward(batch).float(), batch)
        total += loss.detach() * len(batch)
        fabric.backward(loss / in_group)
        if not last:
            continue
        if plan.max_grad_norm:
            fabric.clip_gradients(forward, optimizer, max_norm=plan.max_grad_norm, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if plan.ema:
            _average(state.average, trained, plan.ema)
    return float(total) / len(rows)


def _refuse_diverged(loss: float, trained: Mapping[str, Tensor], when: str) -> None:
    # The last step of an epoch can break the weights after its loss was taken.
    broken = not all(bool(tensor.isfinite().all()) for tensor in trained.values())
    if broken or not math.isfinite(loss):
        what = f"loss {loss:.4g}" if not math.isfinite(loss) else "weights that are no numbers"
        raise ConfigError(f"training diverged in {when} ({what}); lower the learning rates or use --precision 32")


def final_weights(state: StageState) -> Mapping[str, Tensor]:
    """Return the weights that a stage ends with: the best ones, else the averaged ones, else the last ones.

    Weights that were never scored by a number are not the best ones.
    """
    best = state.best_weights if math.isfinite(state.best) else {}
    return best or state.average or state.weights


def _judge(
    state: StageState, plan: StagePlan, loss: float, score: HeldOutScore | None, trained: Mapping[str, Tensor]
) -> None:
    """Note whether the epoch made progress, keep its weights if they are the best, and decide on stopping."""
    value = -loss if plan.stop == "train-loss" or score is None else score.value
    if value > state.best:
        state.best, state.stale = value, 0
        if plan.keep_best:
            state.best_weights = copy_tensors(trained)
    else:
        state.stale += 1
    state.finished = state.epoch >= plan.min_epochs and state.stale >= plan.patience


def _validate(
    fabric: Fabric, forward: Any, watch: tuple[Features, np.ndarray, np.ndarray | None], plan: StagePlan
) -> HeldOutScore:
    features, labels, rows = watch
    at = np.arange(len(features)) if rows is None else rows
    return score_held_out(labels[at], predict_rows(forward, features, at, plan.source, device=fabric.device))


def predict_rows(
    model: Any,
    features: Features,
    rows: np.ndarray,
    source: Mapping[str, Source],
    *,
    device: torch.device | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Return class probabilities of the posts at `rows`, shape (len(rows), n_classes), in their order."""
    model.eval()
    where = {int(row): i for i, row in enumerate(rows)}
    result: np.ndarray | None = None
    with torch.inference_mode():
        for batch in iterate(features, rows, source, batch_size):
            moved = batch.to(device or torch.device("cpu"))
            proba = torch.softmax(model(moved).float(), dim=1).cpu().numpy()
            if result is None:
                result = np.zeros((len(rows), proba.shape[1]))
            assert batch.rows is not None
            result[[where[int(row)] for row in batch.rows]] = proba
    if result is None:
        return np.zeros((0, getattr(model, "module", model).head.n_classes))
    return result


def _warm_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Rise linearly over the first part of the steps, then fall to zero along a cosine."""
    rising = max(1, int(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))

    return factor


def trained_tensors(model: JointModel, plan: StagePlan) -> dict[str, Tensor]:
    """Return all that training changes: weights, and the statistics of batch norms that are not frozen."""
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not plan.frozen_norms:
        for at, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                tensors |= {f"{at}.{name}": t for name, t in module.named_buffers() if t.is_floating_point()}
    return tensors


def copy_tensors(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that training does not touch."""
    return {name: p.detach().clone() for name, p in trained.items()}


def put_back(trained: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Write kept values into what is trained."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])


def _average(average: Mapping[str, Tensor], trained: Mapping[str, Tensor], decay: float) -> None:
    with torch.no_grad():
        for name, parameter in trained.items():
            average[name].lerp_(parameter, 1 - decay)


def _line(row: Mapping[str, Any]) -> str:
    score = ""
    if row["validation_auc"] is not None:
        score = f"  validation AUC {row['validation_auc']:.4f}"
    elif row["validation_loss"] is not None:
        score = f"  validation loss {row['validation_loss']:.4f}"
    return (
        f"{row['stage']:<6} epoch {row['epoch']:>2}  train loss {row['train_loss']:.4f}{score}"
        f"  {row['posts_per_second']:,.0f} posts/s"
    )
