"""Training that reads in one go: stages, epochs, steps, early stopping, resuming.

At the start of every epoch random numbers are seeded by the seed, the stage and the epoch alone. So a run that was
killed and is resumed from its last epoch gives the numbers of one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cotune.data.batches import n_batches
from cotune.errors import ConfigError
from cotune.heads import FusionHead
from cotune.model import Batch, JointModel
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.tasks import Task, Watched
from cotune.tasks.links import TaughtLoss
from cotune.training.build import build_model, compute_sources
from cotune.training.callbacks import Callback, CheckpointCallback
from cotune.training.device import make_fabric, one_thread, training_device
from cotune.training.features import iterate
from cotune.training.kept import Source
from cotune.training.lora import merge_adapters
from cotune.training.model_rows import predict_rows
from cotune.training.parallel import Parallel, copy_tensors, divides, finite, is_sharded, put_back
from cotune.training.parameters import set_gradients, set_train_mode
from cotune.training.precision import choose_precision, encoding
from cotune.training.prefetch import on_device
from cotune.training.ranks import ranks
from cotune.training.stages import PROBE, READS, Stage, StageState, learning_rate_factor, make_stages
from cotune.training.training_data import TrainingData

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Trained:
    """What training gives.

    Attributes
    ----------
    model : JointModel
        In evaluation mode; after ``top`` its encoders are still cut, so that they take cached activations as well as
        raw inputs.
    history : list of dict
        One entry for each epoch of each stage.
    source : dict
        From which source of the features this model may be fed, by field.
    interrupted : bool
        Whether the user stopped it; the model is that of the last finished epoch.
    """

    model: JointModel
    history: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Source] = field(default_factory=dict)
    interrupted: bool = False


class Trainer:
    """Trains a model on some posts.

    Parameters
    ----------
    data : TrainingData
        The posts.
    task : Task
        What is learned.
    config : FitConfig
        The settings.
    start : FusionHead, optional
        A trained head to begin with; the encoders in the data are those it was trained with.
    callbacks : sequence of Callback
        Told after every epoch, such as one that keeps a checkpoint.
    progress : Progress, optional
        Progress reporter.
    """

    def __init__(
        self,
        data: TrainingData,
        task: Task,
        config: FitConfig,
        *,
        start: FusionHead | None = None,
        callbacks: Sequence[Callback] = (),
        progress: Progress | None = None,
    ) -> None:
        precision = choose_precision(config.precision, training_device(config).type).name
        config = config.model_copy(update={"precision": precision})
        self.data, self.task, self.config = data, task, config
        self.progress = progress or Progress()
        self.callbacks = callbacks
        self.fabric: Fabric = make_fabric(config)
        self.ranks = ranks()
        torch.manual_seed(config.seed)
        targets, weights = data.of_loss[data.rows], None
        self.weights: np.ndarray | None = None
        if data.weights is not None:
            self.weights = data.weights / data.weights[data.rows].mean()
            weights = self.weights[data.rows]
        self._prior, self._start = task.prior(config, targets, weights), start
        self.model = self._build()
        loss = task.loss(config, targets, weights)
        if data.taught is not None:
            loss = TaughtLoss(loss, task.link, config.distill_weight)
        self.loss = loss.to(self.fabric.device)
        self.sources = compute_sources(data.features, self.model, config)
        if data.held_out is not None and data.held_out.features is not data.features:
            compute_sources(data.held_out.features, self.model, config)
        self.stages = make_stages(config, self.sources, started=start is not None)
        self.keep_best = config.stop == "validation" and data.held_out is not None

    def _build(self) -> JointModel:
        model = build_model(self.data.features, self.task, self.config, self.data.rows, self._start)
        model.head.set_prior(self._prior)
        # What is divided goes to its devices layer by layer, as the whole may be too large for one.
        return model if divides(self.config) else model.to(self.fabric.device)

    def fit(self) -> Trained:
        """Train stage by stage, and return the model with the weights to keep.

        Raises
        ------
        ConfigError
            If training diverges.
        KeyboardInterrupt
            If the user stops it before an epoch was kept.
        """
        kept = next((callback for callback in self.callbacks if isinstance(callback, CheckpointCallback)), None)
        resumed = None if kept is None else kept.load(next(self.model.parameters()).device)
        trained = Trained(self.model)
        for stage in self.stages:
            if resumed is not None and stage.name != resumed.stage and stage.name in resumed.done:
                trained.history += resumed.done[stage.name]
                continue
            state = resumed.state if resumed is not None and resumed.stage == stage.name else StageState()
            if state.epoch:
                self.progress.say(f"resuming: {stage.name}, after epoch {state.epoch}")
                for callback in self.callbacks:
                    callback.on_resume(state, trained.history)
            set_gradients(self.model, stage.name, self.config)
            tensors = trained_tensors(self.model, stage)
            before = copy_tensors(tensors)
            try:
                with one_thread(stage.name == PROBE and self.fabric.device.type == "cpu"):
                    self.run_stage(stage, state, trained.history)
            except KeyboardInterrupt:
                # Back to the last epoch that was kept, or to where the stage before ended.
                last = None if kept is None else kept.last(stage.name)
                if kept is None or (last is None and not trained.history):
                    raise
                back = before if last is None else last.final_weights()
                if is_sharded(self.config, stage):
                    self._make_whole(stage, back)
                else:
                    put_back(tensors, back)
                state, trained.interrupted = last or StageState(), True
            trained.history = [*trained.history, *state.history]
            if trained.interrupted:
                break
        trained.model = self.model
        trained.source = self.sources[READS[self.config.tune]]
        return self._finished(trained)

    def run_stage(self, stage: Stage, state: StageState, history: Sequence[Mapping[str, Any]] = ()) -> None:
        """Train one stage until its epochs are over or nothing gets better; leave the model with the weights to keep.

        Parameters
        ----------
        stage : Stage
            What to do.
        state : StageState
            Where the stage stands; brought up to date after every epoch.
        history : sequence of dict
            Epochs of the stages before, for the callbacks.
        """
        parallel = Parallel(self.fabric, self.model, self.config, stage)
        tensors = trained_tensors(self.model, stage)
        steps = math.ceil(n_batches(len(self.data.rows), stage.batch_size) / stage.accumulate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            parallel.plain, lambda step: learning_rate_factor(step, steps * stage.epochs, self.config.warmup)
        )
        if state.epoch:
            put_back(tensors, state.weights)
            parallel.load(state.optimizer)
            if state.precision:  # how float16 scales gradients
                self.fabric.strategy.precision.load_state_dict(state.precision)
            schedule.last_epoch = steps * state.epoch
        elif self.keep_best and stage.trained_start:
            state.best = self._watch(stage).value  # the stage must beat what it starts from
            state.best_weights = copy_tensors(tensors)
        if stage.ema and not state.average:
            state.average = copy_tensors(tensors)
        left = stage.epochs - state.epoch
        if left > 0 and not state.finished:
            posts, epochs = plural(len(self.data.rows), "post"), plural(left, "epoch")
            self.progress.begin(f"{stage.doing}: {posts}, at most {epochs}")
        while state.epoch < stage.epochs and not state.finished:
            started = time.perf_counter()
            loss = self._train_epoch(_Step(parallel, schedule, tensors), stage, state)
            seconds = time.perf_counter() - started
            self._refuse_diverged(loss, tensors, f"epoch {state.epoch + 1} of {stage.name}")
            live = copy_tensors(tensors)
            if stage.ema:
                put_back(tensors, state.average)
            score = None if self.data.held_out is None else self._watch(stage)
            state.epoch += 1
            self._judge(stage, state, loss, score, tensors)
            put_back(tensors, live)
            state.history.append(self._row(stage, state.epoch, loss, score, seconds))
            state.weights, state.optimizer = live, parallel.state()
            state.precision = self.fabric.strategy.precision.state_dict()
            self.progress.say(epoch_line(state.history[-1], self.task))
            for callback in self.callbacks:
                callback.on_epoch_end(stage, state, history)
        chosen = state.final_weights()
        if parallel.sharded:
            self._make_whole(stage, chosen or copy_tensors(tensors))
        elif chosen:
            put_back(tensors, chosen)
        self.model.eval()

    def _train_epoch(self, step: _Step, stage: Stage, state: StageState) -> float:
        """Train for one epoch and return the mean loss over posts."""
        data, n = self.data, n_batches(len(self.data.rows), stage.batch_size)
        keys = [self.config.seed, stage.place, state.epoch, *([self.ranks.index] if self.ranks.index else [])]
        torch.manual_seed(int(np.random.SeedSequence(keys).generate_state(1)[0]))
        set_train_mode(self.model, frozen_norms=stage.frozen_norms)
        batches = iterate(
            data.features, data.rows, stage.source, stage.batch_size,
            targets=data.of_loss, seed=self.config.seed, epoch=state.epoch, own=self.ranks,
        )  # fmt: skip
        total, parallel = torch.zeros((), device=self.fabric.device), step.parallel
        what = f"{stage.name}, epoch {state.epoch + 1} of {stage.epochs}"
        ready = on_device(map(self._weighted, batches), self.fabric.device)
        for i, batch in enumerate(self.progress.track(ready, what, n)):
            in_group = stage.accumulate if i < n - n % stage.accumulate else n % stage.accumulate
            last = not (i + 1) % stage.accumulate or i + 1 == n
            with parallel.accumulating(not last):
                with self._encoding():
                    loss = parallel.forward(batch, self.loss)
                loss, n_posts = self._of_whole(loss, batch)
                total += loss.detach() * n_posts
                self.fabric.backward(loss / in_group)
            if not last:
                continue
            if self.config.max_grad_norm:
                parallel.clip(self.config.max_grad_norm)
            parallel.optimizer.step()
            parallel.optimizer.zero_grad()
            step.schedule.step()
            if stage.ema:
                _average(state.average, step.tensors, stage.ema)
        parallel.settle()
        return float(self.ranks.sum(total)) / self.ranks.count / len(data.rows)

    def _of_whole(self, loss: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """Return the loss of a device's part of a batch so that the mean over devices is that of the whole batch.

        Devices average their gradients, and their parts need not be alike in size or weight.
        """
        if batch.whole is None:
            return loss, len(batch)
        assert batch.rows is not None
        targets = torch.from_numpy(self.data.of_loss[batch.whole.numpy()]).to(self.fabric.device)
        own = targets[self.ranks.index :: self.ranks.count]
        if not len(own):
            return loss * 0, len(targets)
        return loss * (self.loss.size(own) / self.loss.size(targets) * self.ranks.count), len(targets)

    def _encoding(self) -> AbstractContextManager[None]:
        on_cpu = self.fabric.device.type == "cpu"
        return encoding(self.config.precision, "cpu") if on_cpu else self.fabric.autocast()

    def _weighted(self, batch: Batch) -> Batch:
        assert batch.rows is not None
        rows = batch.rows.numpy()
        if self.weights is not None:
            batch.weights = torch.from_numpy(self.weights[rows]).float()  # MPS has no double
        if self.data.taught is not None:
            batch.taught = torch.from_numpy(self.data.taught[rows]).float()
        return batch

    def _watch(self, stage: Stage) -> Watched:
        held = self.data.held_out
        assert held is not None
        with self._encoding():
            found = predict_rows(self.model, self.task, held.features, held.rows, stage.source, own=self.ranks)
        return self.task.watch(held.targets[held.rows], found)

    def _judge(
        self, stage: Stage, state: StageState, loss: float, score: Watched | None, tensors: Mapping[str, Tensor]
    ) -> None:
        """Note whether the epoch made progress, keep its weights if they are the best, and decide on stopping."""
        value = -loss if self.config.stop == "train-loss" or score is None else score.value
        if value > state.best:
            state.best, state.stale = value, 0
            if self.keep_best:
                state.best_weights = copy_tensors(tensors)
        else:
            state.stale += 1
        state.finished = state.epoch >= stage.min_epochs and state.stale >= stage.patience

    def _row(self, stage: Stage, epoch: int, loss: float, score: Watched | None, seconds: float) -> dict[str, Any]:
        return {
            "stage": stage.name,
            "epoch": epoch,
            "train_loss": loss,
            f"validation_{self.task.main_score}": None if score is None else score.score,
            "validation_loss": None if score is None else score.loss,
            "seconds": seconds,
            "posts_per_second": len(self.data.rows) / seconds,
        }

    def _refuse_diverged(self, loss: float, tensors: Mapping[str, Tensor], when: str) -> None:
        # The last step of an epoch can break the weights after its loss was taken.
        broken = float(self.ranks.sum(torch.tensor(float(not finite(tensors.values())))))
        if broken or not math.isfinite(loss):
            what = f"loss {loss:.4g}" if not math.isfinite(loss) else "weights that are no numbers"
            raise ConfigError(f"training diverged in {when} ({what}); lower the learning rates or use --precision 32")

    def _make_whole(self, stage: Stage, weights: Mapping[str, Tensor]) -> None:
        """Replace the model that is divided among devices by a whole one, on the CPU, with these weights."""
        self.model = self._build()
        set_gradients(self.model, stage.name, self.config)
        put_back(trained_tensors(self.model, stage), weights)

    def _finished(self, trained: Trained) -> Trained:
        for encoder in trained.model.distinct_encoders.values():
            if self.config.tune == "lora" and not encoder.learned:
                merge_adapters(encoder)
            encoder.weights_changed()
        trained.model.requires_grad_(False).eval()
        return trained


@dataclass(frozen=True)
class _Step:
    """What a step of training moves."""

    parallel: Parallel
    schedule: torch.optim.lr_scheduler.LambdaLR
    tensors: Mapping[str, Tensor]


def trained_tensors(model: JointModel, stage: Stage) -> dict[str, Tensor]:
    """Return all that training changes: weights, and the statistics of batch norms that are not frozen."""
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not stage.frozen_norms:
        for at, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                tensors |= {f"{at}.{name}": t for name, t in module.named_buffers() if t.is_floating_point()}
    return tensors


def _average(average: Mapping[str, Tensor], tensors: Mapping[str, Tensor], decay: float) -> None:
    with torch.no_grad():
        for name, parameter in tensors.items():
            average[name].lerp_(parameter, 1 - decay)


def epoch_line(row: Mapping[str, Any], task: Task) -> str:
    """Return one line about an epoch."""
    score = ""
    if row[f"validation_{task.main_score}"] is not None:
        score = f"  validation {task.main_title} {row[f'validation_{task.main_score}']:.4f}"
    elif row["validation_loss"] is not None:
        score = f"  validation loss {row['validation_loss']:.4f}"
    return (
        f"{row['stage']:<6} epoch {row['epoch']:>2}  train loss {row['train_loss']:.4f}{score}"
        f"  {row['posts_per_second']:,.0f} posts/s"
    )
