"""The training loop: steps, validations and checkpoints. The loop can be interrupted at any point and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from vfmalign.core.domain.errors import BadOption, Cancelled, Exhausted, Unavailable
from vfmalign.core.domain.jobs import JobProgress, TrainingSpec
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.models.running_statistics import freeze_statistics
from vfmalign.training.checkpoint import (
    CheckpointStore,
    TrainerState,
    decode_weights,
    encode_state,
    encode_weights,
    restore_state,
)
from vfmalign.training.data import PreparedCase, draw_batch, generator
from vfmalign.training.learner import Learner
from vfmalign.training.optim import build_optimiser, learning_rate_at, set_learning_rate
from vfmalign.training.process_group import SINGLE_PROCESS, ProcessGroup

TRAINING_STAGES = ("train", "validate", "checkpoint")
_log = logs.get(__name__)


class Trainer:
    """Trains one learner to the end of its recipe, starting where the last attempt stopped.

    Args:
        spec: the job.
        learner: the network and its objective.
        train, val: cases of the two splits.
        checkpoints: storage of the state.
        publish: called with each point of the learning curve, possibly more than once per point.
        stop: checked before every step and between validation cases.
        stages: accumulates the wall time of each stage.
        device: device of the learner.
        process_group: the processes that train together. Only the main process validates and writes.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        learner: Learner,
        train: Sequence[PreparedCase],
        val: Sequence[PreparedCase],
        *,
        checkpoints: CheckpointStore,
        publish: Callable[[JobProgress], None],
        stop: ShutdownRequest,
        stages: Stages,
        device: torch.device,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self._spec, self._learner, self._train, self._val = spec, learner, train, val
        self._checkpoints, self._publish, self._stop = checkpoints, publish, stop
        self._stages, self._device = stages, device
        self._group = process_group
        self._forward = process_group.distribute(learner.network, spec.recipe.batch_size)
        self._optimiser = build_optimiser(learner.network, spec.recipe)
        self._state = TrainerState(spec_digest=spec.digest())

    def fit(self) -> TrainerState:
        """Trains the network. At the end, the main process's network has the weights of the best validation.

        Returns:
            The final state with the whole curve and the best epoch.

        Raises:
            Cancelled: at least one process was asked to stop. The state is stored.
            BadOption: the loss is no longer finite.
            Exhausted: the device has too little memory.
            Unavailable: the processes would not start from the same step.
        """
        self._resume()
        recipe = self._spec.recipe
        try:
            while True:
                # The next validation is for epoch len(curve); it is due once the steps before it are done.
                if self._state.step == len(self._state.curve) * recipe.steps_per_epoch:
                    self._validate()
                elif self._state.step == recipe.steps:
                    break
                else:
                    self._group.check_cancelled(self._stop.check)
                    self._step()
        except Cancelled:
            self._commit()
            self._group.barrier()  # once one process has ended, the launcher stops the others, wherever they are
            raise
        except torch.OutOfMemoryError as error:
            raise Exhausted(
                "the device has too little memory for this batch",
                subject=f"job {self._spec.job_id}",
                remedy="use a smaller recipe.batch_size or recipe.patch_shape_dhw, or a larger device",
            ) from error
        if self._group.is_main_process:
            best = self._state.best
            assert best is not None  # noqa: S101  the validation at step 0 sets it
            decode_weights(self._checkpoints.get(best), self._learner.network)
        return self._state

    def _resume(self) -> None:
        """Restores the last checkpoint, if there is one."""
        checkpoint = self._checkpoints.load_latest()
        ref = checkpoint[0].state if checkpoint else None
        # While an earlier attempt still writes, the processes could read different commits and train from different
        # weights without noticing. Compared are 60 bits of the digest, which fit an int64.
        if not self._group.all_equal(int(ref.sha256[:15], 16) if ref else 0):
            raise Unavailable(
                "the processes read different checkpoints: another attempt still writes",
                subject=f"job {self._spec.job_id}",
                remedy="start the job again",
            )
        if checkpoint is None:
            return
        self._state, tensors = checkpoint
        restore_state(tensors, self._learner.network, self._optimiser)
        self._stages.add(self._state.stage_seconds)
        # A kill between a commit and its progress file leaves the file out: all points are published again.
        for point in self._state.curve if self._group.is_main_process else ():
            self._publish(point)
        _log.info("resumed", job=self._spec.job_id, step=self._state.step)

    def _step(self) -> None:
        recipe, seed, step = self._spec.recipe, self._spec.seed, self._state.step
        with self._stages.stage("train"):
            batch = draw_batch(
                self._train,
                step=step,
                batch_size=recipe.batch_size,
                patch_shape_dhw=recipe.patch_shape_dhw,
                seed=seed,
                device=self._device,
            )
            self._learner.network.train()
            if self._spec.frozen and self._learner.encoder is not None:
                self._learner.encoder.eval()
            freeze_statistics(self._learner.network)
            set_learning_rate(self._optimiser, learning_rate_at(step, recipe))
            self._optimiser.zero_grad(set_to_none=True)
            loss = self._learner.loss(batch, generator(seed, "loss", step), self._forward)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._learner.network.parameters(), recipe.gradient_clip)
            value = loss.item()
            if not math.isfinite(value):
                raise BadOption(
                    f"the training diverged: the loss of step {step} is {value}",
                    field="recipe.learning_rate",
                    remedy="use a lower learning rate or a longer warm-up",
                )
            self._optimiser.step()
        self._update(step=step + 1, loss_sum=self._state.loss_sum + value)

    def _validate(self) -> None:
        recipe, epoch = self._spec.recipe, len(self._state.curve)
        with self._stages.stage("validate"):
            score = self._group.run_on_main(lambda check: self._learner.validate(self._val, check), self._stop.check)
        if not math.isfinite(score):
            raise BadOption(
                f"the training diverged: the validation score after epoch {epoch} is {score}",
                field="recipe.learning_rate",
                remedy="use a lower learning rate or a longer warm-up",
            )
        best = self._is_best(score)
        point = JobProgress(
            epoch=epoch,
            epochs=recipe.epochs,
            step=self._state.step,
            steps=recipe.steps,
            train_loss=self._state.loss_sum / recipe.steps_per_epoch if epoch else None,
            validation_score=score,
            elapsed_seconds=0.0,
        )
        self._update(best_epoch=epoch if best else self._state.best_epoch)
        if self._group.is_main_process:
            self._record_validation(point, best=best)
        else:
            self._update(curve=(*self._state.curve, point), loss_sum=0.0)

    def _record_validation(self, point: JobProgress, *, best: bool) -> None:
        """Writes the outcome of the validation that was just done.

        The order is: best weights, commit, progress, and last the deletion of the weights that the commit no longer
        names.
        """
        replaced: StoredObject | None = None
        if best:
            with self._stages.stage("checkpoint"):
                ref = self._checkpoints.put(encode_weights(self._learner.network))
            replaced = self._state.best if self._state.best != ref else None
            self._update(best=ref)
        seconds = self._stages.seconds()
        elapsed_seconds = sum(seconds.get(stage, 0.0) for stage in TRAINING_STAGES)
        point = point.model_copy(update={"elapsed_seconds": elapsed_seconds})
        self._update(curve=(*self._state.curve, point), loss_sum=0.0)
        self._commit()
        self._publish(point)
        if replaced is not None:
            self._checkpoints.delete(replaced)
        _log.info(
            "epoch",
            job=self._spec.job_id,
            epoch=point.epoch,
            train_loss=point.train_loss,
            validation_score=point.validation_score,
        )

    def _is_best(self, score: float) -> bool:
        """Whether a score is better than in every earlier epoch, so that the earliest of equal epochs is selected.

        The score before training does not count: a fine-tuned network is one that has been trained. On few validation
        cases an untrained head can be the best by chance, and the shift of its encoder would be 0.
        """
        if len(self._state.curve) <= 1:
            return True
        best = self._state.curve[self._state.best_epoch].validation_score
        return score > best if self._learner.metrics[0].higher_is_better else score < best

    def _commit(self) -> None:
        if not self._group.is_main_process:
            return
        with self._stages.stage("checkpoint"):
            tensors = encode_state(self._learner.network, self._optimiser)
            state = self._state.model_copy(update={"stage_seconds": self._stages.seconds()})
            self._state = self._checkpoints.commit(state, tensors)

    def _update(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=changes)
