"""Lists of jobs, checks and experiments over gRPC: specifications, filters, tokens and ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vfmalign.core.domain.errors import BadOption, NotFound
from vfmalign.v1 import alignment_pb2, experiment_pb2, features_pb2, finetuning_pb2

SLOW = finetuning_pb2.Recipe(preset="demo", epochs=6, steps_per_epoch=10)


@pytest.fixture
async def created(service):
    """One job, one check and one experiment that are not finished, by kind; they are cancelled at the end."""
    job = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="slow", model_id="vfm", task={"name": "segmentation"},
        objective=features_pb2.OBJECTIVE_MASKED_RECONSTRUCTION, recipe=SLOW, seed=5,
    )  # fmt: skip
    experiment = experiment_pb2.ExperimentSpec(
        model_ids=["vfm"], dataset_id="slow", tasks=[{"name": "segmentation"}], seeds=[7], permutations=49, recipe=SLOW
    )
    await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="listed", spec=job))
    name = await service.create("listed", dataset="slow", permutations=99)
    await service.experiments.CreateExperiment(
        experiment_pb2.CreateExperimentRequest(experiment_id="listed", spec=experiment)
    )
    yield {"job": "listed", "check": name, "experiment": "listed"}
    await service.jobs.CancelJob(finetuning_pb2.CancelJobRequest(job_id="listed"))
    await service.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name))
    await service.experiments.CancelExperiment(experiment_pb2.CancelExperimentRequest(experiment_id="listed"))


def get_calls(service):
    """By kind: List and Get as functions of their fields."""

    def bind(stub, module, noun):
        plural = f"{noun}s"

        async def list_(**fields):
            response = await getattr(stub, f"List{plural}")(getattr(module, f"List{plural}Request")(**fields))
            return getattr(response, plural.lower()), response.next_page_token

        async def get(name, method="Get"):
            request = getattr(module, f"{method}{noun}Request")(**{f"{noun.lower()}_id": name})
            return getattr(await getattr(stub, f"{method}{noun}")(request), noun.lower())

        return list_, get

    return {
        "job": bind(service.jobs, finetuning_pb2, "Job"),
        "check": bind(service.checks, alignment_pb2, "Check"),
        "experiment": bind(service.experiments, experiment_pb2, "Experiment"),
    }


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
async def test_lists_hold_what_was_requested_and_filter_by_model_dataset_and_time(service, created):
    for kind, (list_, get) in get_calls(service).items():
        name, field = created[kind], f"{kind}_id"
        listed = {getattr(one, field): one for one in (await list_())[0]}
        whole = await get(name)
        assert listed[name].spec == whole.spec, kind
        assert listed[name].created_by == whole.created_by == "#anonymous", "authentication is off"
        assert len(listed[name].dataset_digest) == 64 or kind == "check", "a check pins it when it starts"
        created_at = whole.create_time.ToDatetime(UTC)
        for filters, is_listed in (
            ({"dataset_id": "slow"}, True),
            ({"dataset_id": "demo"}, False),
            ({"model_id": "vfm"}, True),
            ({"model_id": "vf_"}, False),
            ({"created_after": created_at}, True),
            ({"created_before": created_at}, False),
            ({"created_before": created_at + timedelta(seconds=1), "dataset_id": "slow"}, True),
            ({"created_after": datetime.now(UTC) + timedelta(hours=1)}, False),
        ):
            found = [getattr(one, field) for one in (await list_(**filters))[0]]
            assert (name in found) is is_listed, (kind, filters)
        with pytest.raises(BadOption) as caught:
            await list_(dataset_id="No Id")
        assert caught.value.field == "dataset_id"
    calls = get_calls(service)
    (job,) = [one for one in (await calls["job"][0]())[0] if one.job_id == "listed"]
    assert job.spec.objective == features_pb2.OBJECTIVE_MASKED_RECONSTRUCTION
    assert (await calls["check"][0](dataset_id="slow"))[0][-1].spec.permutations == 99
    assert (await calls["experiment"][0]())[0][0].spec.permutations == 49


async def test_a_token_of_another_list_or_of_other_filters_is_refused(service):
    for name in ("first", "second"):
        request = finetuning_pb2.JobSpec(
            kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="slow", model_id="vfm", task={"name": "segmentation"},
            recipe=SLOW,
        )  # fmt: skip
        await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id=name, spec=request))
    calls = get_calls(service)
    jobs, token = await calls["job"][0](page_size=1)
    assert [job.job_id for job in jobs] == ["second"]
    assert [job.job_id for job in (await calls["job"][0](page_size=1, page_token=token))[0]] == ["first"]
    for kind in ("check", "experiment"):
        with pytest.raises(BadOption, match="page_token: the token belongs to another method than List"):
            await calls[kind][0](page_token=token)
    with pytest.raises(BadOption, match="page_token: the token belongs to ListJobs with other filters"):
        await calls["job"][0](page_token=token, model_id="vfm")
    with pytest.raises(BadOption, match="page_token: it is not a page token"):
        await calls["job"][0](page_token="second")
    for name in ("first", "second"):
        await service.jobs.CancelJob(finetuning_pb2.CancelJobRequest(job_id=name))


async def test_ids_are_checked_alike_by_every_call(service):
    for kind, (_, get) in get_calls(service).items():
        for method in ("Get", "Cancel", "Retry"):
            for bad in ("", "No Id", "../x", "a" * 129):
                with pytest.raises(BadOption) as caught:
                    await get(bad, method)
                assert caught.value.field == f"{kind}_id"
            with pytest.raises(NotFound):
                await get("a" * 128, method)
