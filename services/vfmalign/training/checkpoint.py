"""Checkpoints of a running job: all that is needed to go on as if nothing had happened.

Knows networks, optimisers, random states and object storage; knows nothing of tasks or of the loop. Tensors are
safetensors (nothing is ever pickled) under `jobs/<id>/checkpoint/<sha256>.safetensors`; `latest.json`, written after
them in one put, is the commit. Two processes of one job can overlap: each commit names tensors by their digest, and a
commit whose tensors are gone counts as none, for starting again gives the same result, only later.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from vfmalign.core.domain.artifacts import JobProgress, Record, Sha256, VolumeRef, job_key
from vfmalign.core.domain.errors import DigestMismatch, NotFound
from vfmalign.core.runtime import logs
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.models.weights import to_safetensors

SINGLE_PUT_BYTES = 1 << 30
"""Larger checkpoints go up in parts: S3 takes at most 5 GiB in one put, and the largest encoder's state is 8."""
_MODEL, _OPTIMISER, _RNG = "model.", "optimiser.", "rng."
_log = logs.get(__name__)


class Position(Record):
    """Where a job stands; committed as `checkpoint/latest.json`.

    Attributes:
        spec_digest: of the job's spec: the checkpoint of another spec is never taken up.
        step: optimiser steps done.
        loss_sum: sum of the training losses of the epoch under way.
        curve: the validations done so far.
        best_epoch: of the best validation so far.
        best: the network's weights at that epoch.
        state: network, optimiser and random states after `step`.
        stage_seconds: wall time per stage so far, over all attempts.
    """

    spec_digest: Sha256
    step: int = 0
    loss_sum: float = 0.0
    curve: tuple[JobProgress, ...] = ()
    best_epoch: int = 0
    best: VolumeRef | None = None
    state: VolumeRef | None = None
    stage_seconds: dict[str, float] = Field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one job."""

    def __init__(self, store: ObjectStore, job: str, spec_digest: str) -> None:
        self._store = store
        self._job = job
        self._spec_digest = spec_digest
        self._own: VolumeRef | None = None

    def latest(self) -> tuple[Position, bytes] | None:
        """The last commit of this spec and its tensors, None where there is none that can be used."""
        try:
            position = Position.model_validate(self._store.get_json(job_key(self._job, "checkpoint/latest.json")))
            if position.spec_digest != self._spec_digest or position.state is None:
                _log.warning("checkpoint_of_another_spec", job=self._job)
                return None
            data = self._store.get(position.state.key, sha256=position.state.sha256)
            if position.best is not None and not self._store.exists(position.best.key):
                raise NotFound("the best weights are gone", subject=self._store.uri(position.best.key))
        except NotFound:
            return None
        except (DigestMismatch, ValidationError) as error:
            _log.warning("checkpoint_unusable", job=self._job, error=type(error).__name__)
            return None
        self._own = position.state
        return position, data

    def commit(self, position: Position, state: bytes) -> Position:
        """Stores the tensors, then the position that names them, then drops the tensors it replaces."""
        position = position.model_copy(update={"state": self.put(state)})
        self._store.put(
            job_key(self._job, "checkpoint/latest.json"), position.to_json(), content_type="application/json"
        )
        if self._own is not None and self._own != position.state:
            self._store.delete(self._own.key)
        self._own = position.state
        return position

    def put(self, data: bytes) -> VolumeRef:
        """Stores tensors under their digest."""
        digest = hashlib.sha256(data).hexdigest()
        key = job_key(self._job, f"checkpoint/{digest}.safetensors")
        if len(data) <= SINGLE_PUT_BYTES:
            return self._store.put(key, data)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint"
            path.write_bytes(data)
            return self._store.upload(key, path)

    def get(self, ref: VolumeRef) -> bytes:
        """Reads tensors back, verified."""
        return self._store.get(ref.key, sha256=ref.sha256)

    def drop(self, ref: VolumeRef) -> None:
        """Removes tensors that no commit names any more."""
        self._store.delete(ref.key)


def encode_weights(network: nn.Module) -> bytes:
    """The network's weights as safetensors."""
    return to_safetensors(network.state_dict())


def decode_weights(data: bytes, network: nn.Module) -> None:
    """Loads what `encode_weights` wrote."""
    network.load_state_dict(parse_safetensors(data))


def encode_state(network: nn.Module, optimiser: torch.optim.Optimizer) -> bytes:
    """Network, optimiser and torch's random states as safetensors."""
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for field, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{_OPTIMISER}{name}:{field}"] = value
    tensors[f"{_RNG}cpu"] = torch.get_rng_state()
    if _is_on_cuda(network):
        tensors[f"{_RNG}cuda"] = torch.cuda.get_rng_state()
    return to_safetensors(tensors)


def restore_state(data: bytes, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Brings everything back to where `encode_state` was called."""
    tensors = parse_safetensors(data)
    network.load_state_dict(_strip(tensors, _MODEL))
    parameters = dict(network.named_parameters())
    optimiser.state.clear()
    for key, value in _strip(tensors, _OPTIMISER).items():
        name, field = key.rsplit(":", 1)
        parameter = parameters[name]
        state: dict[str, Any] = optimiser.state[parameter]
        state[field] = _like(parameter, value)
    torch.set_rng_state(tensors[f"{_RNG}cpu"])
    if _is_on_cuda(network) and f"{_RNG}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{_RNG}cuda"])


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    # Moments must lie in memory as the parameter does: in another layout the update takes another path through the
    # kernel and may round differently, and a resumed run would no longer be bit-identical.
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value).detach()


def _is_on_cuda(network: nn.Module) -> bool:
    # Not `torch.cuda.is_available`: asking for a random state would start CUDA in a job that runs on the CPU.
    return any(parameter.is_cuda for parameter in network.parameters())


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
