"""Artifacts that a job writes to object storage: progress, encoders and figures.

Every artifact has its own address. The content of an artifact does not depend on the attempt that writes it. An
interrupted job can therefore be run again.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vfmalign.core.domain.errors import Conflict
from vfmalign.core.domain.jobs import CaseScore, JobProgress, TrainingSpec
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.domain.stored_objects import StoredFigure
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.provenance import Provenance, read_provenance
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.trainings import check_source, get_source
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.encoder import Encoder
from vfmalign.training.checkpoint import TrainerState
from vfmalign.training.data import PreparedCase
from vfmalign.training.figures import draw_panels
from vfmalign.training.learner import Learner
from vfmalign.training.optim import weight_change
from vfmalign.training.plan import JobData, JobPlan

N_FIGURES = 3
_log = logs.get(__name__)


def write_progress(store: ObjectStore, job: str, point: JobProgress, step_bytes: int | None = None) -> None:
    """Writes one point of the learning curve. The point before training also states the memory of a step."""
    if point.epoch == 0:
        point = point.model_copy(update={"step_bytes": step_bytes})
    store.put(job_key(job, f"progress/{point.epoch:04d}.json"), point.to_json(), content_type="application/json")


def copy_weights(encoder: Encoder | None) -> dict[str, Tensor]:
    """Copies an encoder's weights to the CPU. The result is empty if the encoder is None."""
    return {} if encoder is None else {name: t.detach().cpu().clone() for name, t in encoder.state_dict().items()}


def publish_encoder(store: ObjectStore, plan: JobPlan, data: JobData, learner: Learner) -> ModelCard | None:
    """Publishes the encoder with its current weights, but without its head.

    Returns:
        The card of the model; None if there is no encoder.
    """
    if learner.encoder is None:
        return None
    spec, weights = plan.spec, copy_weights(learner.encoder)
    created_by = read_provenance(store, job_key(spec.job_id, ""), spec.digest()).created_by
    try:
        card = publish(
            store,
            spec.publish_as,
            weights,
            architecture=spec.architecture,
            objective=spec.objective if plan.task is None else "supervised",
            preprocessing=plan.model_input,
            primary_layer=plan.parent.primary_layer if plan.parent else "",
            pretraining=data.pretraining,
            parent=plan.parent.id if plan.parent else "",
            source=get_source(spec),
            licence=plan.parent.licence if plan.parent else "",
            replace_damaged=True,
            provenance=Provenance.of(created_by, spec.model_sha256 if plan.parent else ""),
        )
    except Conflict:
        card = _adopt_encoder(store, spec, weights)
    return card


def _adopt_encoder(store: ObjectStore, spec: TrainingSpec, weights: dict[str, Tensor]) -> ModelCard:
    """Returns the card that an earlier attempt of this job published before it was killed.

    A published model is never replaced, unless it was lost or damaged. On a GPU the same training may end with slightly
    different weights; the first ones are kept.

    Raises:
        Conflict: the id belongs to another job.
    """
    encoder, card = load_encoder(store, spec.publish_as)
    check_source(card, spec)
    difference = weight_change(copy_weights(encoder), weights)
    _log.warning("earlier_encoder_adopted", job=spec.job_id, model=card.id, relative_difference=difference)
    return card


def write_figures(
    store: ObjectStore,
    job: str,
    *,
    learner: Learner,
    cases: Sequence[PreparedCase],
    scores: Sequence[CaseScore],
    state: TrainerState,
    stop: ShutdownRequest,
) -> tuple[StoredFigure, ...]:
    """Draws slices of the first cases for which the primary metric has a value. Writes the learning curve as JSON."""
    primary = learner.metrics[0].name
    title = learner.metrics[0].title
    value_name = "probability" if learner.metrics[0].two_classes else title
    values = {score.case: score.values[primary] for score in scores}
    candidates = [case for case in cases if values.get(case.case) is not None] or list(cases)
    figures = []
    for case in candidates[:N_FIGURES]:
        stop.check()
        if panels := learner.panels(case):
            value = values.get(case.case)
            caption = f"case {case.case}" + ("" if value is None else f": {value_name} {value:.3g}")
            figures.append(_put_figure(store, job, f"{case.case}.png", draw_panels(panels, caption), caption))
    # Without times, which differ between attempts: the figure must be the same whichever attempt writes it.
    curve = canonical_json(
        {
            "metric": primary,
            "curve": [point.model_dump(mode="json", exclude={"elapsed_seconds"}) for point in state.curve],
        }
    )
    figures.append(_put_figure(store, job, "curve.json", curve, f"{title} on the validation cases after every epoch"))
    return tuple(figures)


def _put_figure(store: ObjectStore, job: str, name: str, data: bytes, caption: str) -> StoredFigure:
    content_type = "image/png" if name.endswith(".png") else "application/json"
    ref = store.put(job_key(job, f"figures/{name}"), data, content_type=content_type)
    return StoredFigure(**ref.model_dump(), caption=caption)
