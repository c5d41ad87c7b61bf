"""Pages of jobs, on both databases."""

import pytest

from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import TrainingRecipe, TrainingSpec
from vfmalign.database.pagination import PageRequest
from vfmalign.database.tables import now
from vfmalign.finetuning import lifecycle as repository_module
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.v1 import alignment_pb2, finetuning_pb2


@pytest.fixture
def jobs(database):
    return JobRepository(database)


def add(jobs, name, model_id="m"):
    recipe = TrainingRecipe(epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=0.1)
    spec = TrainingSpec(
        job_id=name, kind="finetune", dataset_id="demo", dataset_digest="0" * 64, architecture="profound_conv_micro",
        task="segmentation", seed=0, recipe=recipe,
    )  # fmt: skip
    jobs.create(JobSpec(kind="finetune", dataset_id="demo", model_id=model_id, task="segmentation"), spec)


def names(page):
    return [job.id for job in page.items]


def test_pages_are_newest_first_complete_and_stable_while_jobs_are_added(jobs):
    for i in range(7):
        add(jobs, f"j{i}")
    first = jobs.list(PageRequest(size=3))
    add(jobs, "late")
    second = jobs.list(PageRequest(size=3, token=first.next_token))
    third = jobs.list(PageRequest(size=3, token=second.next_token))
    assert names(first) + names(second) + names(third) == [f"j{i}" for i in reversed(range(7))]
    assert third.next_token == ""


def test_pages_hold_jobs_created_in_the_same_microsecond(jobs, monkeypatch):
    moment = now()
    monkeypatch.setattr(repository_module, "now", lambda: moment)
    for i in range(5):
        add(jobs, f"j{i}")
    seen, token = [], ""
    for _ in range(5):
        page = jobs.list(PageRequest(size=2, token=token))
        seen += names(page)
        token = page.next_token
        if not token:
            break
    assert seen == ["j4", "j3", "j2", "j1", "j0"]


def test_exactly_full_last_page_has_no_token(jobs):
    for i in range(4):
        add(jobs, f"j{i}")
    first = jobs.list(PageRequest(size=2))
    assert jobs.list(PageRequest(size=2, token=first.next_token)).next_token == ""


@pytest.mark.parametrize("size", [-1, 1001])
def test_page_size_out_of_range(jobs, size):
    with pytest.raises(BadOption, match="page_size"):
        jobs.list(PageRequest(size=size))


@pytest.mark.parametrize("token", ["x", "!!!", "bm9wZQ==", "WzEsMiwzXQ==", "e30=", "ü"])
def test_foreign_page_token(jobs, token):
    with pytest.raises(BadOption, match="page_token"):
        jobs.list(PageRequest(token=token))


@pytest.mark.parametrize(
    ("created_at", "row_id"),
    [
        ("0001-01-01T00:00:00+14:00", "a"),
        ("9999-12-31T23:59:59-14:00", "a"),
        ("2026-01-01T00:00:00", "a"),
        ("2026-01-01T00:00:00+00:00", "a\0"),
        ("2026-01-01T00:00:00+00:00", "../a"),
    ],
)
def test_invented_position(jobs, created_at, row_id):
    """Neither database accepts a time beyond the calendar, nor PostgreSQL a NUL."""
    with pytest.raises(BadOption, match="page_token"):
        jobs.list(PageRequest(token=PageRequest().tokens.write(created_at, row_id)))


def parse(**fields):
    return PageRequest.parse(finetuning_pb2.ListJobsRequest(**fields))


def test_a_token_belongs_to_its_method_and_filters(jobs):
    for i in range(3):
        add(jobs, f"j{i}")
    token = jobs.list(parse(page_size=1)).next_token
    assert names(jobs.list(parse(page_size=2, page_token=token))) == ["j1", "j0"]
    for filters in ({"states": [1]}, {"model_id": "m"}, {"dataset_id": "demo"}, {"created_after": now()}):
        with pytest.raises(BadOption, match="page_token: the token belongs to ListJobs with other filters"):
            jobs.list(parse(page_token=token, **filters))
    of_checks = PageRequest.parse(alignment_pb2.ListChecksRequest(page_token=token))
    with pytest.raises(BadOption, match="page_token: the token belongs to another method than ListChecks"):
        jobs.list(of_checks)


def test_filters_select_the_model_the_dataset_and_the_time_on_every_page(jobs):
    for i in range(4):
        add(jobs, f"j{i}", model_id="m_1" if i % 2 else "mx1")
    times = [jobs.get(f"j{i}").created_at for i in range(4)]
    first = jobs.list(parse(page_size=1, model_id="m_1"))
    second = jobs.list(parse(page_size=1, model_id="m_1", page_token=first.next_token))
    assert (names(first), names(second), second.next_token) == (["j3"], ["j1"], "")
    assert names(jobs.list(parse(model_id="m"))) == names(jobs.list(parse(dataset_id="other"))) == []
    assert names(jobs.list(parse(dataset_id="demo", model_id="mx1"))) == ["j2", "j0"]
    assert names(jobs.list(parse(created_after=times[1], created_before=times[3]))) == ["j2", "j1"]
