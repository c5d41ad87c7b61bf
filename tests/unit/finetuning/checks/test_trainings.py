"""Names of a check's trainings: those of the first seed have no suffix."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.core.domain.errors import BadOption
from vfmalign.finetuning.checks.trainings import Training, list_trainings
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
