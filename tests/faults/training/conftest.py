"""A small dataset and model, and jobs on them, as in the other tests of training."""

from tests.integration.training.conftest import (
    _torch_as_before,
    dataset,
    finish,
    long_spec,
    make_spec,
    model,
    start,
    undisturbed,
)

__all__ = ["_torch_as_before", "dataset", "finish", "long_spec", "make_spec", "model", "start", "undisturbed"]
