"""One job from spec to result: the order of its stages and nothing else.

Every artifact is written at an address of its own and is the same whoever writes it; `result.json` comes last, by a
conditional put, and is the commit. A job that was interrupted anywhere continues when it is run again.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vfmalign.core.domain.artifacts import (
    CaseScore,
    FigureRef,
    JobProgress,
    JobResult,
    ModelCard,
    ProbeModel,
    TrainingSpec,
    canonical_json,
    job_key,
    probe_id,
)
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.models.cards import load_card, load_encoder, publish
from vfmalign.models.encoder import Encoder
from vfmalign.training import failures
from vfmalign.training.checkpoint import Checkpoints, Position
from vfmalign.training.data import PreparedCase, load_cases
from vfmalign.training.figures import draw_panels
from vfmalign.training.learner import Learner
from vfmalign.training.networks.factory import build_learner
from vfmalign.training.optim import weight_change
from vfmalign.training.plan import JobData, Plan, make_plan, publications, published_by_another, select_data
from vfmalign.training.processes import ALONE, Processes
from vfmalign.training.settings import TrainingOptions
from vfmalign.training.tasks import get_task
from vfmalign.training.trainer import Trainer

N_FIGURES = 3
SOFTWARE = ("vfmalign", "torch", "monai", "numpy")
_log = logs.get(__name__)


@dataclass(frozen=True)
class Prepared:
    """A job's cases in memory."""

    train: list[PreparedCase]
    val: list[PreparedCase]
    test: list[PreparedCase]


def run_job(
    store: ObjectStore,
    spec: TrainingSpec,
    options: TrainingOptions,
    stop: ShutdownRequest,
    processes: Processes = ALONE,
) -> None:
    """Runs a job to its result; a job that has one is left as it is.

    Of several processes all train, and only the first one does what comes then.

    Args:
        store: where everything is read and written.
        spec: the job.
        options: device, threads, workers.
        stop: asked wherever the job can stop.
        processes: those that run the job together.

    Raises:
        VfmalignError: see `failures` for what becomes of each.
    """
    if processes.anywhere(store.exists(job_key(spec.id, "result.json"))):
        _log.info("job_is_done", job=spec.id)
        return
    if processes.leads:
        failures.clear(store, spec.id)
    processes.wait()  # so that no failure of this attempt is cleared
    device = use_device(options, processes)
    stages = Stages()
    plan = make_plan(store, spec)
    learner = build_learner(store, plan, device)
    start = _weights(learner.encoder)

    with stages.stage("load"):
        data = select_data(store, plan)
        cases = _load(store, plan, data, options.workers, stop)
        predict = _naive_baseline(plan, cases.train)
    trainer = Trainer(
        spec,
        learner,
        cases.train,
        cases.val,
        checkpoints=Checkpoints(store, spec.id, spec.digest()),
        publish=lambda point: _write_progress(store, spec.id, point),
        probe=lambda step: _publish(store, plan, data, learner, probe_id(spec.publish_as, step)),
        stop=stop,
        stages=stages,
        device=device,
        processes=processes,
    )
    position = trainer.fit()
    if not processes.leads:
        return

    with stages.stage("test"):
        scores = _score(learner, cases.test, stop)
        naive_baseline = _case_scores(cases.test, (predict(case) for case in cases.test)) if predict else ()
    with stages.stage("figures"):
        figures = _draw(
            store, spec.id, learner=learner, cases=cases.test or cases.val, scores=scores, position=position, stop=stop
        )
    with stages.stage("publish"):
        encoder, encoder_sha256 = _publish(store, plan, data, learner, spec.publish_as)
    finetuned = plan.task is not None and learner.encoder is not None
    result = JobResult(
        job=spec.id,
        metrics=learner.metrics,
        primary_metric=learner.metrics[0].name,
        curve=position.curve,
        selected_epoch=position.best_epoch,
        selected_step=position.best_epoch * spec.recipe.steps_per_epoch,
        test_scores=scores,
        naive_baseline_scores=naive_baseline,
        weight_change=weight_change(start, _weights(learner.encoder)) if finetuned else None,
        encoder=encoder,
        encoder_sha256=encoder_sha256,
        probes=_probes(store, spec, position),
        train_labels={case.case: case.positive for case in cases.train if case.positive is not None},
        parameters=sum(parameter.numel() for parameter in learner.network.parameters()),
        figures=figures,
        device=device_name(device) + (f" × {processes.size}" if processes.size > 1 else ""),
        stage_seconds=stages.seconds(),
        software={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in SOFTWARE},
    )
    if store.put_if_absent(job_key(spec.id, "result.json"), result.to_json()):
        _log.info("job_done", job=spec.id, selected_epoch=result.selected_epoch)
    else:
        _log.info("job_done_by_another_process", job=spec.id)


def use_device(options: TrainingOptions, processes: Processes = ALONE) -> torch.device:
    """Sets torch up so that one seed gives one result, and picks the device.

    Raises:
        BadOption: CUDA is asked for and there is none.
    """
    torch.set_num_threads(options.threads)
    # Warn only: a few CUDA kernels have no deterministic form, and a slower run is better than none.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BadOption(
            "torch sees no CUDA device", field="VFMALIGN_TRAINING__DEVICE", remedy="set it to auto or cpu, or add a GPU"
        )
    if options.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if processes.size == 1 else torch.device("cuda", processes.local_rank)


def device_name(device: torch.device) -> str:
    """What a result says of where it was computed."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _weights(encoder: Encoder | None) -> dict[str, Tensor]:
    return {} if encoder is None else {name: t.detach().cpu().clone() for name, t in encoder.state_dict().items()}


def _load(store: ObjectStore, plan: Plan, data: JobData, workers: int, stop: ShutdownRequest) -> Prepared:
    everything = load_cases(
        store,
        (*data.train, *data.val, *data.test),
        labels=plan.task.labels if plan.task else (),
        preprocessing=plan.preprocessing,
        input_transform=plan.task.input_transform if plan.task else "identity",
        workers=workers,
        check=stop.check,
    )
    if plan.task is not None and (positives := get_task(plan.task.name).positives) is not None:
        everything = [
            replace(case, positive=positive) for case, positive in zip(everything, positives(everything), strict=True)
        ]
    train_end, val_end = len(data.train), len(data.train) + len(data.val)
    return Prepared(everything[:train_end], everything[train_end:val_end], everything[val_end:])


def _naive_baseline(
    plan: Plan, train: Sequence[PreparedCase]
) -> Callable[[PreparedCase], dict[str, float | None]] | None:
    """Scores of a case predicted without a network; learned first, for what it cannot learn from no network can."""
    if plan.task is None:
        return None
    task = get_task(plan.task.name)
    predict = task.naive_baseline(train)
    return lambda case: task.score(predict(case), case)


def _write_progress(store: ObjectStore, job: str, point: JobProgress) -> None:
    store.put(job_key(job, f"progress/{point.epoch:04d}.json"), point.to_json(), content_type="application/json")


def _score(learner: Learner, cases: Sequence[PreparedCase], stop: ShutdownRequest) -> tuple[CaseScore, ...]:
    return _case_scores(cases, learner.score(cases, stop.check))


def _case_scores(cases: Sequence[PreparedCase], values: Iterable[dict[str, float | None]]) -> tuple[CaseScore, ...]:
    return tuple(
        CaseScore(case=case.case, group=case.group, values=of_case, positive=case.positive)
        for case, of_case in zip(cases, values, strict=True)
    )


def _draw(
    store: ObjectStore,
    job: str,
    *,
    learner: Learner,
    cases: Sequence[PreparedCase],
    scores: Sequence[CaseScore],
    position: Position,
    stop: ShutdownRequest,
) -> tuple[FigureRef, ...]:
    """Slices of the first cases that have a value of the primary metric, and the learning curve as JSON."""
    primary = learner.metrics[0].name
    meaning = primary if learner.metrics[0].of_set == "mean" else "probability"
    values = {score.case: score.values[primary] for score in scores}
    shown = [case for case in cases if values.get(case.case) is not None] or list(cases)
    figures = []
    for case in shown[:N_FIGURES]:
        stop.check()
        if panels := learner.panels(case):
            value = values.get(case.case)
            caption = f"case {case.case}" + ("" if value is None else f": {meaning} {value:.3g}")
            figures.append(_put_figure(store, job, f"{case.case}.png", draw_panels(panels, caption), caption))
    curve = canonical_json(
        {"metric": primary, "curve": [point.model_dump(mode="json", exclude={"elapsed_s"}) for point in position.curve]}
    )
    figures.append(_put_figure(store, job, "curve.json", curve, f"{primary} on the validation cases after every epoch"))
    return tuple(figures)


def _put_figure(store: ObjectStore, job: str, name: str, data: bytes, caption: str) -> FigureRef:
    content_type = "image/png" if name.endswith(".png") else "application/json"
    ref = store.put(job_key(job, f"figures/{name}"), data, content_type=content_type)
    return FigureRef(key=ref.key, sha256=ref.sha256, caption=caption)


def _probes(store: ObjectStore, spec: TrainingSpec, position: Position) -> tuple[ProbeModel, ...]:
    """The encoders published on the way, by this attempt or an earlier one: their cards say which weights count."""
    scores = {point.step: point.val_score for point in position.curve}
    return tuple(
        ProbeModel(step=step, model=card.id, sha256=card.checkpoint.sha256, val_score=scores[step])
        for step in spec.recipe.probe_steps
        for card in [load_card(store, probe_id(spec.publish_as, step))]
    )


def _publish(store: ObjectStore, plan: Plan, data: JobData, learner: Learner, model_id: str) -> tuple[str, str]:
    """Publishes the encoder alone, as it stands, under one of `publications`.

    Returns:
        The id and digest of the model, or two empty strings where there is no encoder.
    """
    if learner.encoder is None:
        return "", ""
    spec, state = plan.spec, _weights(learner.encoder)
    try:
        card = publish(
            store,
            model_id,
            state,
            architecture=spec.architecture,
            objective=spec.objective if plan.task is None else "supervised",
            preprocessing=plan.preprocessing,
            primary_layer=plan.parent.primary_layer if plan.parent else "",
            pretraining=data.seen,
            parent=plan.parent.id if plan.parent else "",
            source=publications(spec)[model_id],
        )
    except Conflict:
        card = _adopt(store, spec, model_id, state)
    return card.id, card.checkpoint.sha256


def _adopt(store: ObjectStore, spec: TrainingSpec, model_id: str, state: dict[str, Tensor]) -> ModelCard:
    """The card that an earlier run of this job left when it was killed before its result, or before its next commit.

    A model id never changes its meaning, and on a GPU the same training may end in other bits: the first ones stay.

    Raises:
        Conflict: the id is another job's.
    """
    encoder, card = load_encoder(store, model_id)
    if card.source != publications(spec)[model_id]:
        raise published_by_another(model_id)
    difference = weight_change(_weights(encoder), state)
    _log.warning("encoder_of_an_earlier_run_kept", job=spec.id, model=card.id, relative_difference=difference)
    return card
