"""What the repositories of jobs, checks and experiments share."""

import re

import pytest

from vfmalign.cli.__main__ import run
from vfmalign.core.domain.errors import NotFound
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.schema import open_database
from vfmalign.v1 import alignment_pb2, experiment_pb2, finetuning_pb2


@pytest.mark.parametrize(
    ("repository", "module"),
    [(JobRepository, finetuning_pb2), (CheckRepository, alignment_pb2), (ExperimentRepository, experiment_pb2)],
)
def test_an_unknown_id_names_a_command_and_a_call_that_list_the_known_ones(repository, module, tmp_path, capfd):
    database = open_database(f"sqlite:///{tmp_path / 'finetuning.db'}")
    database.migrate()
    with pytest.raises(NotFound) as caught:
        repository(database).get("absent")
    database.close()
    command, call = re.fullmatch(
        r"run `vfmalign (.*)`, or call (\w+), to see the known ids", caught.value.remedy
    ).groups()
    assert run([*command.split(), "--help"]) == 0
    assert "Usage: vfmalign " + command in capfd.readouterr().out
    assert hasattr(module, f"{call}Request")
