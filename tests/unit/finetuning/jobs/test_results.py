"""Results of jobs and the encoders that they name: every loss is named, and a job whose result is lost runs again."""

import pytest

from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import DataLoss
from vfmalign.core.domain.jobs import JobResult, MetricSpec, TrainingRecipe, TrainingSpec
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.storage.keys import job_key, model_card_key
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.results import check_encoder, read_result, reopen_if_lost

WEIGHTS = b"weights"
RESULT, CARD, CHECKPOINT = job_key("a", "result.json"), model_card_key("a-encoder"), "a-encoder/w"


def change_digit(store, key):
    """Leaves valid JSON with another number."""
    data = store.get(key)
    place = data.rindex(b"1")
    store.put(key, data[:place] + b"2" + data[place + 1 :])


def change_last_byte(store, key):
    store.put(key, store.get(key)[:-1] + b"?")


def delete(store, key):
    store.delete(key)


@pytest.fixture
def jobs(database, store):
    """One job that succeeded, with its result and its encoder."""
    jobs = JobRepository(database)
    recipe = TrainingRecipe(epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=0.1)
    spec = TrainingSpec(
        job_id="a", kind="finetune", dataset_id="d", dataset_digest="0" * 64, architecture="profound_conv_micro",
        task="segmentation", seed=0, recipe=recipe, publish_as="a-encoder",
    )  # fmt: skip
    jobs.create(JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation"), spec)
    jobs.begin("a")
    checkpoint = store.put(CHECKPOINT, WEIGHTS)
    card = ModelCard.model_validate(
        {
            "id": "a-encoder", "architecture": "profound_conv_micro", "objective": "supervised",
            "checkpoint": checkpoint.model_dump(), "layers": [{"name": "stages.1", "channels": 4}],
            "preprocessing": {"modalities": ("t2w", "dwi", "adc"), "spacing_mm": None, "shape_dhw": (16, 64, 64)},
            "primary_layer": "stages.1",
            "source": "job a",
        }
    )  # fmt: skip
    store.write(CARD, card)
    metric = MetricSpec(name="lesion_dice", unit="", higher_is_better=True, floor=0.05)
    result = JobResult(
        job_id="a", metrics=(metric,), primary_metric="lesion_dice", curve=(), selected_epoch=1, selected_step=1,
        test_scores=(), weight_change=0.1, encoder="a-encoder", encoder_sha256=checkpoint.sha256,
        encoder_card_sha256=card.digest(), parameters=1, device="cpu", stage_seconds={"fit": 1.0},
        processor_seconds=1.0, software={},
    )  # fmt: skip
    ref = store.write(RESULT, result)
    jobs.succeed("a", StoredFile(key=ref.key, sha256=ref.sha256, size_bytes=1))
    return jobs


def test_what_is_intact_is_read_and_left_alone(jobs, store):
    check_encoder(store, read_result(store, jobs.get("a")), read=True)
    reopen_if_lost(jobs, store, "a")
    assert jobs.get("a").state == "succeeded"
    assert store.exists(RESULT)


@pytest.mark.parametrize(
    ("key", "damage", "kind", "owner"),
    [
        (RESULT, delete, "job_result", "a"),
        (RESULT, change_digit, "job_result", "a"),
        (CARD, delete, "model", "a-encoder"),
        (CARD, change_digit, "model", "a-encoder"),
        (CHECKPOINT, delete, "model", "a-encoder"),
        (CHECKPOINT, change_last_byte, "model", "a-encoder"),
    ],
)
def test_what_is_lost_is_named_and_its_job_queued_again(jobs, store, key, damage, kind, owner):
    damage(store, key)
    with pytest.raises(DataLoss, match="vfmalign jobs retry a") as caught:
        check_encoder(store, read_result(store, jobs.get("a")), read=True)
    assert (caught.value.kind, caught.value.owner, caught.value.subject) == (kind, owner, store.uri(key))
    reopen_if_lost(jobs, store, "a")
    job = jobs.get("a")
    assert (job.state, job.result, job.finished_at, job.progress.reason) == ("queued", None, None, "ARTIFACT_LOST")
    assert job.progress.detail.startswith(store.uri(key))
    assert not store.exists(RESULT), "the supervisor would take the job for done"
