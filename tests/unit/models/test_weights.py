"""Weights as safetensors: what is accepted, and the messages for what is rejected."""

import pytest
import torch

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.models.weights import build_encoder, load_state, random_state, to_safetensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_own_format_round_trips(own_state, own_architecture):
    assert same(load_state(to_safetensors(own_state), own_architecture), own_state)


def test_equal_weights_give_equal_bytes(own_state, own_architecture):
    shuffled = dict(reversed(own_state.items()))
    from_module = build_encoder(own_architecture, own_state).state_dict()
    assert to_safetensors(own_state) == to_safetensors(shuffled) == to_safetensors(from_module)


def test_missing_unexpected_and_misshapen_are_all_listed(own_state, own_architecture):
    state = dict(own_state)
    del state["norm.bias"]
    state["head.weight"] = torch.zeros(2)
    state["norm.weight"] = torch.zeros(5)
    with pytest.raises(BadCheckpoint) as caught:
        load_state(to_safetensors(state), own_architecture, subject="some-model")
    text = str(caught.value)
    assert text.startswith("some-model: the weights do not fit small: ")
    assert "missing norm.bias" in text
    assert "unexpected head.weight" in text
    assert "norm.weight is [5] instead of [16]" in text


def test_long_lists_are_cut(own_state, own_architecture):
    state = {name: tensor for name, tensor in own_state.items() if "stages" not in name}
    with pytest.raises(BadCheckpoint, match=r"missing stages.0.0.dwconv.weight, .* and 45 more"):
        load_state(to_safetensors(state), own_architecture)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(own_state, own_architecture, value):
    own_state["norm.bias"][3] = value
    with pytest.raises(BadCheckpoint, match=r"NaN or infinity in norm\.bias"):
        load_state(to_safetensors(own_state), own_architecture)


def test_other_dtypes_are_refused_in_our_own_format(own_state, own_architecture):
    own_state["norm.bias"] = own_state["norm.bias"].half()
    with pytest.raises(BadCheckpoint, match=r"wrong dtype: norm\.bias is torch\.float16 instead of torch\.float32"):
        load_state(to_safetensors(own_state), own_architecture)


@pytest.mark.parametrize("damage", ["empty", "noise", "truncated", "huge header"])
def test_damaged_files_are_refused(own_state, own_architecture, damage):
    data = to_safetensors(own_state)
    damaged = {
        "empty": b"",
        "noise": bytes(range(256)),
        "truncated": data[: len(data) // 2],
        "huge header": b"\xff" * 8 + data[8:],
    }[damage]
    with pytest.raises(BadCheckpoint, match="cannot be read as safetensors"):
        load_state(damaged, own_architecture)


def test_random_state_fits(own_architecture):
    assert same(
        load_state(to_safetensors(random_state(own_architecture, 1)), own_architecture),
        random_state(own_architecture, 1),
    )
