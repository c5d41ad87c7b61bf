"""Trainings of a check: three networks with each of its seeds, and the names of their jobs, encoders and stages.

The first training of a network has the check's `seed`, further ones the seeds that follow it. Only the names of further
trainings have a suffix, such as `check-pretrained-s2`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.core.domain.jobs import Network
from vfmalign.finetuning.jobs.request import NETWORKS


@dataclass(frozen=True)
class Training:
    """One network, trained with one of the check's seeds.

    Attributes:
        network: what is trained.
        number: position of the seed, from 1.
    """

    network: Network
    number: int = 1

    @property
    def stage(self) -> str:
        """Name of the stage that waits for its job."""
        return name_stage(f"job_{self.network}", self.number)

    def job_id(self, check_id: str) -> str:
        """Returns the id of its job."""
        return self._add_suffix(f"{check_id}-{self.network}")

    def encoder_id(self, check_id: str) -> str:
        """Returns the id under which its job publishes the encoder; empty for the specialised network."""
        if self.network == "specialised":
            return ""
        return self._add_suffix(
            f"{check_id}-encoder" if self.network == "pretrained" else f"{check_id}-scratch-encoder"
        )

    def seed(self, spec: CheckSpec) -> int:
        """Returns the seed of its random numbers."""
        return spec.seed + self.number - 1

    def describe(self, spec: CheckSpec) -> str:
        """Returns its name in sentences, with the seed where the check has several."""
        return f"the {self.network} network" + (f" (seed {self.seed(spec)})" if spec.seeds > 1 else "")

    def _add_suffix(self, name: str) -> str:
        return name if self.number == 1 else f"{name}-s{self.number}"


MAIN = Training("pretrained")
"""The pretrained network with the first seed, which alone is probed."""


def list_trainings(seeds: int) -> tuple[Training, ...]:
    """Returns all trainings in the order in which their jobs queue: by seed, then by network."""
    return tuple(Training(network, number) for number in range(1, seeds + 1) for network in NETWORKS)


def name_stage(name: str, number: int) -> str:
    """Returns the name of a stage that runs once for each seed."""
    return name if number == 1 else f"{name}_s{number}"
