"""Checkpoints of a running job. A resumed job continues as if nothing had interrupted it.

Tensors are stored as safetensors, never pickled, under `jobs/<id>/checkpoint/<sha256>.safetensors`. A commit consists
of a single put of `latest.json`, after the tensors were stored. Two processes of the same job may overlap, for example
while a pod is replaced. Each commit therefore refers to its tensors by digest. If the other process has deleted the
tensors of a commit, this commit counts as absent. The job then starts from the beginning. The job has the same result,
only later.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import JobProgress
from vfmalign.core.domain.record import Record, Sha256
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime import logs
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.models.weights import to_safetensors

SINGLE_PUT_BYTES = 1 << 30
"""Larger checkpoints are uploaded in parts: S3 limits a put to 5 GiB, and the state of the largest encoder has 8."""
_MODEL, _OPTIMISER, _RNG = "model.", "optimiser.", "rng."
_log = logs.get(__name__)


class TrainerState(Record):
    """State of a job, committed as `checkpoint/latest.json`.

    Attributes:
        spec_digest: digest of the job's spec. A checkpoint of another spec is never used.
        step: number of completed optimiser steps.
        loss_sum: sum of the training losses in the current epoch.
        curve: the validations completed so far.
        best_epoch: epoch of the best validation so far.
        best: weights of the network at `best_epoch`.
        state: states of network, optimiser and random generators after `step`.
        stage_seconds: wall time of each stage so far, summed over all attempts.
    """

    spec_digest: Sha256
    step: int = 0
    loss_sum: float = 0.0
    curve: tuple[JobProgress, ...] = ()
    best_epoch: int = 0
    best: StoredObject | None = None
    state: StoredObject | None = None
    stage_seconds: dict[str, float] = Field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one job in object storage."""

    def __init__(self, store: ObjectStore, job: str, spec_digest: str) -> None:
        self._store = store
        self._job = job
        self._spec_digest = spec_digest
        self._committed: StoredObject | None = None

    def load_latest(self) -> tuple[TrainerState, bytes] | None:
        """Loads the last commit of this spec and its tensors. Returns None if there is no usable commit."""
        try:
            state = TrainerState.model_validate(self._store.get_json(job_key(self._job, "checkpoint/latest.json")))
            if state.spec_digest != self._spec_digest or state.state is None:
                _log.warning("checkpoint_of_another_spec", job=self._job)
                return None
            data = self._store.get(state.state.key, sha256=state.state.sha256)
            if state.best is not None:
                self._store.get(state.best.key, sha256=state.best.sha256)
        except NotFound:
            return None
        except (PreconditionFailed, ValidationError) as error:
            _log.warning("checkpoint_unusable", job=self._job, error=type(error).__name__)
            return None
        self._committed = state.state
        return state, data

    def commit(self, state: TrainerState, tensors: bytes) -> TrainerState:
        """Stores the tensors, then the state that refers to them. Finally, deletes the tensors of the previous commit.

        Because of this order, `latest.json` always refers to existing tensors, even if the process is killed.
        """
        state = state.model_copy(update={"state": self.put(tensors)})
        self._store.put(job_key(self._job, "checkpoint/latest.json"), state.to_json(), content_type="application/json")
        if self._committed is not None and self._committed != state.state:
            self._store.delete(self._committed.key)
        self._committed = state.state
        return state

    def put(self, data: bytes) -> StoredObject:
        """Stores tensors under their digest."""
        digest = hashlib.sha256(data).hexdigest()
        key = job_key(self._job, f"checkpoint/{digest}.safetensors")
        if len(data) <= SINGLE_PUT_BYTES:
            return self._store.put(key, data)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint"
            path.write_bytes(data)
            return self._store.upload(key, path)

    def get(self, ref: StoredObject) -> bytes:
        """Reads tensors and verifies them by their digest."""
        return self._store.get(ref.key, sha256=ref.sha256)

    def delete(self, ref: StoredObject) -> None:
        """Deletes tensors to which no commit refers."""
        self._store.delete(ref.key)


def encode_weights(network: nn.Module) -> bytes:
    """Encodes a network's weights as safetensors."""
    return to_safetensors(network.state_dict())


def decode_weights(data: bytes, network: nn.Module) -> None:
    """Loads weights that `encode_weights` wrote."""
    network.load_state_dict(parse_safetensors(data))


def encode_state(network: nn.Module, optimiser: torch.optim.Optimizer) -> bytes:
    """Encodes as safetensors: the network, the optimiser and torch's random states."""
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for field, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{_OPTIMISER}{name}:{field}"] = value
    tensors[f"{_RNG}cpu"] = torch.get_rng_state()
    if _is_on_cuda(network):
        tensors[f"{_RNG}cuda"] = torch.cuda.get_rng_state()
    return to_safetensors(tensors)


def restore_state(data: bytes, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Restores everything that `encode_state` encoded."""
    tensors = parse_safetensors(data)
    network.load_state_dict(_strip(tensors, _MODEL))
    parameters = dict(network.named_parameters())
    optimiser.state.clear()
    for key, value in _strip(tensors, _OPTIMISER).items():
        name, field = key.rsplit(":", 1)
        parameter = parameters[name]
        state: dict[str, Tensor] = optimiser.state[parameter]
        state[field] = _match_layout(parameter, value)
    torch.set_rng_state(tensors[f"{_RNG}cpu"])
    if _is_on_cuda(network) and f"{_RNG}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{_RNG}cuda"])


def _match_layout(parameter: Tensor, value: Tensor) -> Tensor:
    # Moments need the memory layout of their parameter. In another layout the update runs through another code path of
    # the kernel and may round differently, so that a resumed run would no longer be bit-identical.
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value).detach()


def _is_on_cuda(network: nn.Module) -> bool:
    # Not `torch.cuda.is_available`: reading a CUDA random state would initialise CUDA in a job that runs on the CPU.
    return any(parameter.is_cuda for parameter in network.parameters())


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
