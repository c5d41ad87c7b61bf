"""The training loop: steps, validations, checkpoints, in an order that may be cut anywhere and continued from there.

Knows learners, optimisers and checkpoints; knows nothing of tasks, datasets or what becomes of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from vfmalign.core.domain.artifacts import JobProgress, TrainingSpec, VolumeRef
from vfmalign.core.domain.errors import BadOption, Cancelled, Exhausted, Unavailable
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.training.checkpoint import (
    Checkpoints,
    Position,
    decode_weights,
    encode_state,
    encode_weights,
    restore_state,
)
from vfmalign.training.data import PreparedCase, draw_batch, generator
from vfmalign.training.learner import Learner
from vfmalign.training.optim import build_optimiser, rate_at, set_rate
from vfmalign.training.processes import ALONE, Processes

TRAINING_STAGES = ("train", "validate", "checkpoint")
_log = logs.get(__name__)


class Trainer:
    """Trains one learner to the end of its recipe, from wherever the last attempt stopped.

    Args:
        spec: the job.
        learner: what to train.
        train, val: cases of the two splits.
        checkpoints: where the state is kept.
        publish: called with every point of the learning curve, possibly more than once.
        probe: called with every probe step once it is done, possibly more than once, while the network stands there.
        stop: asked before every step and between validation cases.
        stages: adds up the wall time of each stage.
        device: where the learner lies.
        processes: those that train it together; the first one alone validates and writes.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        learner: Learner,
        train: Sequence[PreparedCase],
        val: Sequence[PreparedCase],
        *,
        checkpoints: Checkpoints,
        publish: Callable[[JobProgress], None],
        probe: Callable[[int], object],
        stop: ShutdownRequest,
        stages: Stages,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self._spec, self._learner, self._train, self._val = spec, learner, train, val
        self._checkpoints, self._publish, self._probe, self._stop = checkpoints, publish, probe, stop
        self._stages, self._device = stages, device
        self._processes = processes
        self._forward = processes.spread(learner.network, spec.recipe.batch_size)
        self._optimiser = build_optimiser(learner.network, spec.recipe)
        self._position = Position(spec_digest=spec.digest())

    def fit(self) -> Position:
        """Trains, and leaves the first process's network with the weights of the best validation.

        Returns:
            The final position: the whole curve and which epoch was best.

        Raises:
            Cancelled: a stop was asked for, in any process; the state is stored.
            BadOption: the loss is no longer a number.
            Exhausted: the device has too little memory.
            Unavailable: the processes do not begin at one step.
        """
        self._resume()
        recipe = self._spec.recipe
        try:
            while True:
                # The curve's next point is epoch len(curve), due once the steps before it are done.
                if self._position.step == len(self._position.curve) * recipe.steps_per_epoch:
                    self._validate()
                elif self._position.step == recipe.epochs * recipe.steps_per_epoch:
                    break
                else:
                    self._processes.check(self._stop.check)
                    self._step()
        except Cancelled:
            self._commit()
            self._processes.wait()  # a launcher ends the rest once one has ended
            raise
        except torch.OutOfMemoryError as error:
            raise Exhausted(
                "the device has too little memory for this batch",
                subject=f"job {self._spec.id}",
                remedy="use a smaller recipe.batch_size or recipe.patch_shape_DHW, or a larger device",
            ) from error
        if self._processes.leads:
            best = self._position.best
            assert best is not None  # noqa: S101  the validation at step 0 sets it
            decode_weights(self._checkpoints.get(best), self._learner.network)
        return self._position

    def _resume(self) -> None:
        found = self._checkpoints.latest()
        state = found[0].state if found else None
        if not self._processes.alike(int(state.sha256[:15], 16) if state else 0):
            raise Unavailable(
                "the processes read different checkpoints: another attempt still writes",
                subject=f"job {self._spec.id}",
                remedy="start the job again",
            )
        if found is None:
            return
        self._position, data = found
        restore_state(data, self._learner.network, self._optimiser)
        self._stages.add(self._position.stage_seconds)
        # A kill between a commit and its progress file leaves the file out: every known point is published again.
        for point in self._position.curve if self._processes.leads else ():
            self._publish(point)
        _log.info("resumed", job=self._spec.id, step=self._position.step)

    def _step(self) -> None:
        recipe, seed, step = self._spec.recipe, self._spec.seed, self._position.step
        with self._stages.stage("train"):
            batch = draw_batch(
                self._train,
                step=step,
                batch_size=recipe.batch_size,
                patch_shape_DHW=recipe.patch_shape_DHW,
                seed=seed,
                device=self._device,
            )
            self._learner.network.train()
            set_rate(self._optimiser, rate_at(step, recipe))
            self._optimiser.zero_grad(set_to_none=True)
            loss = self._learner.loss(batch, generator(seed, "loss", step), self._forward)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._learner.network.parameters(), recipe.gradient_clip)
            value = loss.item()
            if not math.isfinite(value):
                raise BadOption(
                    f"the training diverged: the loss of step {step} is {value}",
                    field="recipe.learning_rate",
                    remedy="use a lower rate or a longer warm-up",
                )
            self._optimiser.step()
        self._move(step=step + 1, loss_sum=self._position.loss_sum + value)

    def _validate(self) -> None:
        recipe, epoch = self._spec.recipe, len(self._position.curve)
        with self._stages.stage("validate"):
            score = self._processes.led(lambda ask: self._learner.validate(self._val, ask), self._stop.check)
        if not math.isfinite(score):
            raise BadOption(
                f"the training diverged: the validation after epoch {epoch} gives {score}",
                field="recipe.learning_rate",
                remedy="use a lower rate or a longer warm-up",
            )
        best = self._is_best(score)
        point = JobProgress(
            epoch=epoch,
            epochs=recipe.epochs,
            step=self._position.step,
            steps=recipe.epochs * recipe.steps_per_epoch,
            train_loss=self._position.loss_sum / recipe.steps_per_epoch if epoch else None,
            val_score=score,
            elapsed_s=0.0,
        )
        self._move(best_epoch=epoch if best else self._position.best_epoch)
        if self._processes.leads:
            self._store(point, best=best)
        else:
            self._move(curve=(*self._position.curve, point), loss_sum=0.0)

    def _store(self, point: JobProgress, *, best: bool) -> None:
        """Writes what the validation just done leaves behind."""
        replaced: VolumeRef | None = None
        if best:
            with self._stages.stage("checkpoint"):
                ref = self._checkpoints.put(encode_weights(self._learner.network))
            replaced = self._position.best if self._position.best != ref else None
            self._move(best=ref)
        seconds = self._stages.seconds()
        elapsed_s = sum(seconds.get(stage, 0.0) for stage in TRAINING_STAGES)
        point = point.model_copy(update={"elapsed_s": elapsed_s})
        self._move(curve=(*self._position.curve, point), loss_sum=0.0)
        if point.step in self._spec.recipe.probe_steps:
            # Before the commit: a kill in between repeats the steps to here, and no point of the curve lacks its probe.
            with self._stages.stage("publish"):
                self._probe(point.step)
        self._commit()
        self._publish(point)
        if replaced is not None:
            self._checkpoints.drop(replaced)
        _log.info("epoch", job=self._spec.id, epoch=point.epoch, train_loss=point.train_loss, val_score=point.val_score)

    def _is_best(self, score: float) -> bool:
        """Strictly better than every epoch before: of equals the earliest is kept."""
        if not self._position.curve:
            return True
        best = self._position.curve[self._position.best_epoch].val_score
        return score > best if self._learner.metrics[0].higher_is_better else score < best

    def _commit(self) -> None:
        if not self._processes.leads:
            return
        with self._stages.stage("checkpoint"):
            state = encode_state(self._learner.network, self._optimiser)
            position = self._position.model_copy(update={"stage_seconds": self._stages.seconds()})
            self._position = self._checkpoints.commit(position, state)

    def _move(self, **changes: object) -> None:
        self._position = self._position.model_copy(update=changes)
