"""One job from its spec to its result. This module defines the order of the stages.

Every artifact is written at its own address. All attempts write the same content. A conditional put writes
`result.json` last and thereby commits the job. A job can be interrupted at any point and continues when it is run
again.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.field_of_view import REFUSE_BELOW, CaseInside, report_cut
from vfmalign.core.domain.jobs import CaseScore, JobResult, TrainingSpec
from vfmalign.core.domain.training_subsets import draw_subset
from vfmalign.core.formats.documents import pluralise
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.models.running_statistics import list_running
from vfmalign.training import failures
from vfmalign.training.artifacts import (
    copy_weights,
    publish_encoder,
    write_figures,
    write_progress,
)
from vfmalign.training.checkpoint import CheckpointStore, TrainerState
from vfmalign.training.data import PreparedCase, load_cases, shuffle_targets
from vfmalign.training.learner import Learner
from vfmalign.training.networks.factory import build_learner
from vfmalign.training.networks.memory import estimate_step_bytes
from vfmalign.training.networks.statistics import estimate_from_cases
from vfmalign.training.optim import weight_change
from vfmalign.training.plan import JobData, JobPlan, make_plan, select_data
from vfmalign.training.process_group import SINGLE_PROCESS, ProcessGroup, shard_sizes
from vfmalign.training.settings import TrainingOptions
from vfmalign.training.tasks import get_task
from vfmalign.training.trainer import Trainer

SOFTWARE = ("vfmalign", "torch", "monai", "numpy")
_log = logs.get(__name__)

Baseline = Callable[[PreparedCase], dict[str, float | None]]


@dataclass(frozen=True)
class CaseSplits:
    """The cases of a job in memory, by split."""

    train: list[PreparedCase]
    val: list[PreparedCase]
    test: list[PreparedCase]

    def list_inside(self) -> tuple[CaseInside, ...]:
        """Lists, for every case with structures, the share of each structure inside the field of view."""
        splits: tuple[tuple[Split, list[PreparedCase]], ...] = (
            ("train", self.train),
            ("val", self.val),
            ("test", self.test),
        )
        return tuple(
            CaseInside(case=case.case, split=split, inside=dict(case.inside))
            for split, cases in splits
            for case in cases
            if case.inside
        )


@dataclass(frozen=True)
class _Run:
    """State that the stages of one job share."""

    store: ObjectStore
    plan: JobPlan
    data: JobData
    cases: CaseSplits
    learner: Learner
    stages: Stages
    stop: ShutdownRequest


def run_job(
    store: ObjectStore,
    spec: TrainingSpec,
    options: TrainingOptions,
    stop: ShutdownRequest,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Runs a job to its result. A job that already has a result is left unchanged.

    All processes train. Only the main process performs the stages after training.

    Args:
        store: the deployment's object storage.
        spec: the job.
        options: device, threads, workers.
        stop: checked wherever the job can stop.
        process_group: the processes that run the job together.

    Raises:
        VfmalignError: see `failures` for the exit code of each error.
    """
    if process_group.any_rank(store.exists(job_key(spec.job_id, "result.json"))):
        _log.info("job_already_done", job=spec.job_id)
        return
    if process_group.is_main_process:
        failures.clear(store, spec.job_id)
    process_group.barrier()  # otherwise a failure that another process reports in this attempt could be cleared
    device = configure_torch(options, process_group)
    stages = Stages()
    plan = make_plan(store, spec)
    learner = build_learner(store, plan, device)
    with stages.stage("load"):
        data = select_data(plan)
        cases = _load_cases(store, plan, data, options.workers, stop)
        baseline = _fit_baseline(plan, cases.train)
    if learner.encoder is not None and plan.starts_from_random and list_running(learner.encoder):
        with stages.stage("statistics"):  # repeated by every attempt, with the same numbers
            estimate_from_cases(learner.encoder, cases.train, plan.preprocessing.patch_shape_dhw, device, stop.check)
    initial_weights = copy_weights(learner.encoder)
    step_bytes = _estimate_memory(plan, learner, process_group)
    trainer = Trainer(
        spec,
        learner,
        cases.train,
        cases.val,
        checkpoints=CheckpointStore(store, spec.job_id, spec.digest()),
        publish=lambda point: write_progress(store, spec.job_id, point, step_bytes),
        stop=stop,
        stages=stages,
        device=device,
        process_group=process_group,
    )
    state = trainer.fit()
    if not process_group.is_main_process:
        return
    run = _Run(store, plan, data, cases, learner, stages, stop)
    device_text = describe_device(device) + (f" × {process_group.world_size}" if process_group.world_size > 1 else "")
    result = _complete(run, state, baseline, initial_weights, device_text)
    if store.put_if_absent(job_key(spec.job_id, "result.json"), result.to_json()):
        _log.info("job_done", job=spec.job_id, selected_epoch=result.selected_epoch)
    else:
        _log.info("job_done_by_another_process", job=spec.job_id)


def _complete(
    run: _Run, state: TrainerState, baseline: Baseline | None, initial_weights: dict[str, Tensor], device: str
) -> JobResult:
    """Tests, draws figures and publishes the encoder, with the weights of the best validation; returns the result."""
    store, spec, learner, cases = run.store, run.plan.spec, run.learner, run.cases
    with run.stages.stage("test"):
        scores = _to_case_scores(cases.test, learner.score(cases.test, run.stop.check))
        baseline_scores = _to_case_scores(cases.test, map(baseline, cases.test)) if baseline else ()
    with run.stages.stage("figures"):
        figures = write_figures(
            store,
            spec.job_id,
            learner=learner,
            cases=cases.test or cases.val,
            scores=scores,
            state=state,
            stop=run.stop,
        )
    with run.stages.stage("publish"):
        card = publish_encoder(store, run.plan, run.data, learner)
    finetuned = run.plan.task is not None and learner.encoder is not None
    return JobResult(
        job_id=spec.job_id,
        metrics=learner.metrics,
        primary_metric=learner.metrics[0].name,
        curve=state.curve,
        selected_epoch=state.best_epoch,
        selected_step=state.best_epoch * spec.recipe.steps_per_epoch,
        test_scores=scores,
        naive_baseline_scores=baseline_scores,
        weight_change=weight_change(initial_weights, copy_weights(learner.encoder)) if finetuned else None,
        encoder=card.id if card else "",
        encoder_sha256=card.checkpoint.sha256 if card else "",
        encoder_card_sha256=card.digest() if card else "",
        train_labels={
            case.case: case.positive if case.truth is None else int(case.truth)
            for case in cases.train
            if case.positive is not None
        },
        train_subset=tuple(case.case for case in cases.train) if spec.train_cases else (),
        inside=cases.list_inside(),
        parameters=sum(parameter.numel() for parameter in learner.network.parameters()),
        figures=figures,
        device=device,
        stage_seconds=run.stages.seconds(),
        processor_seconds=time.process_time(),
        software={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in SOFTWARE},
    )


def _estimate_memory(plan: JobPlan, learner: Learner, process_group: ProcessGroup) -> int | None:
    """Estimates and logs the memory of a fine-tuning's step in one process. Returns None for pretraining."""
    if plan.task is None:
        return None
    recipe = plan.spec.recipe
    samples = max(shard_sizes(recipe.batch_size, process_group.world_size))
    shape_DHW = recipe.patch_shape_dhw or plan.preprocessing.shape_dhw
    size = estimate_step_bytes(learner.network, (samples, len(plan.preprocessing.modalities), *shape_DHW))
    _log.info("step_memory", job=plan.spec.job_id, bytes=size, samples=samples, shape_dhw=shape_DHW)
    return size


def configure_torch(options: TrainingOptions, process_group: ProcessGroup = SINGLE_PROCESS) -> torch.device:
    """Configures torch for reproducible results, and returns the device to train on.

    Raises:
        BadOption: CUDA is required but not available.
    """
    torch.set_num_threads(options.threads)
    # Warn only: a few CUDA kernels have no deterministic form, and the job must run all the same.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # cuDNN's benchmark chooses kernels by their measured time, so that two runs could use different ones.
    torch.backends.cudnn.benchmark = False
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BadOption(
            "torch sees no CUDA device", field="VFMALIGN_TRAINING__DEVICE", remedy="set it to auto or cpu, or add a GPU"
        )
    if options.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if process_group.world_size == 1 else torch.device("cuda", process_group.local_rank)


def describe_device(device: torch.device) -> str:
    """Description of the device for the job's result."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {pluralise(torch.get_num_threads(), 'thread')}"


def _load_cases(store: ObjectStore, plan: JobPlan, data: JobData, workers: int, stop: ShutdownRequest) -> CaseSplits:
    """Loads and prepares the cases of all splits; the task completes them.

    The published card lists all cases of `train` if their classes are needed to draw a subset.
    """
    cases = load_cases(
        store,
        (*data.train, *data.val, *data.test),
        task=plan.task,
        preprocessing=plan.preprocessing,
        workers=workers,
        check=stop.check,
    )
    if plan.task is not None:
        cases = get_task(plan.task).prepare(cases)
    train_end, val_end = len(data.train), len(data.train) + len(data.val)
    train, val, test = cases[:train_end], cases[train_end:val_end], cases[val_end:]
    if plan.draws_after_loading:
        classes = ["positive" if case.positive else "negative" for case in train]
        drawn = draw_subset([case.group for case in train], classes, plan.spec.train_cases, plan.spec.seed)
        train = [train[place] for place in drawn]
    if not plan.spec.allow_cut_organs:
        _refuse_cut_organs(plan, CaseSplits(train, val, test).list_inside())
    if plan.spec.shuffled_labels:
        train, val = (shuffle_targets(split, plan.spec.seed) for split in (train, val))
    return CaseSplits(train, val, test)


def _refuse_cut_organs(plan: JobPlan, cases: Sequence[CaseInside]) -> None:
    """Refuses cases with too little of a structure in the field of view.

    Raises:
        BadDataset: there are such cases; the error names the cases with the smallest shares.
    """
    model = plan.spec.model_id or plan.spec.architecture
    if cut := report_cut(cases, REFUSE_BELOW, model):
        raise BadDataset(
            cut,
            subject=f"dataset {plan.dataset.id}",
            remedy="use a model with a larger field of view, such as this one with a larger input or coarser spacing, "
            "or allow it with `allow_cut_organs` (`--allow-cut-organs`)",
            reason="CUT_ORGANS",
        )


def _fit_baseline(plan: JobPlan, train: Sequence[PreparedCase]) -> Baseline | None:
    """Fits the task's naive baseline, and returns the function that scores a case predicted by it.

    This happens before the training, because data from which the baseline cannot be fitted cannot train a network.
    """
    if plan.task is None:
        return None
    task = get_task(plan.task)
    predict = task.naive_baseline(train)
    return lambda case: task.score(predict(case), case)


def _to_case_scores(cases: Sequence[PreparedCase], values: Iterable[dict[str, float | None]]) -> tuple[CaseScore, ...]:
    return tuple(
        CaseScore(case=case.case, group=case.group, values=case_values, positive=case.positive, truth=case.truth)
        for case, case_values in zip(cases, values, strict=True)
    )
