"""Names of a check's trainings: those of the first seed have no suffix."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.core.domain.errors import BadOption
from vfmalign.finetuning.checks.reporting import all_stages
from vfmalign.finetuning.checks.trainings import Training, list_trainings, parse_stage
from vfmalign.finetuning.jobs.request import check_job_id


def spec(**fields):
    return CheckSpec(model_id="vfm", dataset_id="demo", task="segmentation", **fields)


def test_jobs_queue_by_seed_and_then_by_network():
    assert [training.job_id("c") for training in list_trainings(2)] == [
        "c-pretrained", "c-scratch", "c-specialised", "c-pretrained-s2", "c-scratch-s2", "c-specialised-s2",
    ]  # fmt: skip


def test_encoders_of_further_seeds_have_names_of_their_own():
    names = [training.encoder_id("c") for training in list_trainings(3)]
    assert names == [
        "c-encoder", "c-scratch-encoder", "", "c-encoder-s2", "c-scratch-encoder-s2", "", "c-encoder-s3",
        "c-scratch-encoder-s3", "",
    ]  # fmt: skip


def test_the_longest_names_are_valid_ids_of_jobs():
    assert max(len(training.job_id("c" * 80)) for training in list_trainings(10)) <= 100


@pytest.mark.parametrize("training", list_trainings(10))
def test_no_client_may_choose_the_id_of_a_checks_job(training):
    with pytest.raises(BadOption, match="belong to the jobs of checks") as caught:
        check_job_id(training.job_id("ada.check-1"))
    assert caught.value.field == "job_id"


@pytest.mark.parametrize("job_id", ["pretrained", "pretrain-micro", "scratch-2", "c-pretrained-s", "c-scratchy"])
def test_clients_may_choose_other_ids(job_id):
    check_job_id(job_id)


def test_seeds_follow_the_first():
    assert [Training("scratch", number).seed(spec(seed=7, seeds=3)) for number in (1, 2, 3)] == [7, 8, 9]


def test_sentences_name_the_seed_where_there_are_several():
    assert Training("scratch").describe(spec(seed=7)) == "the scratch network"
    assert Training("scratch", 2).describe(spec(seed=7, seeds=2)) == "the scratch network (seed 8)"


@pytest.mark.parametrize("number", [1, 2, 10])
@pytest.mark.parametrize("network", ["pretrained", "scratch", "specialised"])
def test_a_stage_names_its_network_and_seed(network, number):
    assert parse_stage(Training(network, number).stage) == (f"job_{network}", number)


def test_a_check_with_one_seed_has_the_same_stages_as_ever():
    assert [stage.name for stage in all_stages(None, 1)] == [
        "validate", "features_reference", "features_before", "features_random", "job_pretrained", "job_scratch",
        "job_specialised", "features_after", "mmd", "measures", "probes", "report",
    ]  # fmt: skip


def test_every_seed_adds_jobs_features_after_and_mmd_and_the_report_needs_them_all():
    first, second = all_stages(None, 1), all_stages(None, 2)
    added = [stage.name for stage in second if stage.name not in {stage.name for stage in first}]
    assert added == ["job_pretrained_s2", "job_scratch_s2", "job_specialised_s2", "features_after_s2", "mmd_s2"]
    assert {"mmd", "mmd_s2", "job_scratch_s2", "job_specialised_s2"} <= set(second[-1].needs)
    stages = {stage.name: stage for stage in second}
    assert stages["features_after_s2"].needs == ("job_pretrained_s2",)
    assert stages["mmd_s2"].artifact == "mmd_s2.json"
