"""Foreign checkpoints: what is accepted, the messages for what is rejected, and that no code is executed."""

import argparse
import io
import os
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.models.architectures.profound_vit import MaeDecoder
from vfmalign.models.architectures.provicnet import SliceEncoder
from vfmalign.models.architectures.transformer import TransformerSize
from vfmalign.models.architectures.upstream import DECODER, SEGMENTATION_DECODER
from vfmalign.models.formats.checkpoint import import_checkpoint
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import build_encoder, random_state, to_safetensors


def to_pth(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def to_sparse_kernel(weight_OIDHW: torch.Tensor) -> torch.Tensor:
    """MinkowskiEngine's (k³, in, out), element by element: offset number (x·k + y)·k + z."""
    wide, narrow, k = weight_OIDHW.shape[:3]
    kernel = torch.empty(k**3, narrow, wide)
    for z in range(k):
        for y in range(k):
            for x in range(k):
                kernel[(x * k + y) * k + z] = weight_OIDHW[:, :, z, y, x].t()
    return kernel


def to_pretraining(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as sparse FCMAE pretraining stores them, with the decoder's keys."""
    sparse_convolutions = {f"downsample_layers.{i}.1" for i in (1, 2, 3)}
    sparse = {"mask_token": torch.zeros(1, 4, 1, 1, 1), "proj.weight": torch.zeros(4, 4, 1, 1, 1)}
    sparse |= {"decoder.0.dwconv.weight": torch.zeros(4, 1, 7, 7, 7), "pred.weight": torch.zeros(4, 4, 1, 1, 1)}
    for name, tensor in state.items():
        stem, kind = name.rsplit(".", 1)
        if stem == "norm":
            continue
        if stem.startswith("downsample_layers.0"):
            sparse[f"encoder.{name}"] = tensor
        elif stem.endswith("dwconv") or stem in sparse_convolutions:
            if kind == "bias":
                sparse[f"encoder.{name}"] = tensor[None].contiguous()
            else:
                kernel = to_sparse_kernel(tensor)
                depthwise, pointwise = stem.endswith("dwconv"), len(kernel) == 1
                kernel = kernel[:, 0] if depthwise else kernel[0] if pointwise else kernel
                sparse[f"encoder.{stem}.kernel"] = kernel.contiguous()
        elif stem.endswith("grn"):
            sparse[f"encoder.{name}"] = tensor.reshape(1, -1)
        else:
            sparse[f"encoder.{stem}.{'linear' if 'pwconv' in stem else 'ln'}.{kind}"] = tensor
    return sparse


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_dense_pth_and_safetensors_are_imported(own_state, own_architecture):
    for data in (to_pth(own_state), save(own_state), to_pth({"model": own_state, "epoch": 3})):
        imported = import_checkpoint([data], own_architecture)
        assert imported.source_format == "dense"
        assert same(imported.state, own_state)
    assert list(imported.dropped.values()) == [["epoch"]]


def test_old_torch_files_are_imported(own_state, own_architecture):
    data = to_pth(own_state, _use_new_zipfile_serialization=False)
    assert same(import_checkpoint([data], own_architecture).state, own_state)


def test_half_precision_is_widened_on_import(own_state, own_architecture):
    halves = {name: tensor.half() for name, tensor in own_state.items()}
    imported = import_checkpoint([to_pth(halves)], own_architecture)
    assert same(imported.state, {name: tensor.float() for name, tensor in halves.items()})


def test_fine_tuned_checkpoint_drops_head_optimiser_and_arguments(own_state, own_architecture):
    model = {f"encoder.{name}": tensor for name, tensor in own_state.items()}
    model |= {"head.0.weight": torch.zeros(4, 16), "head.1.num_batches_tracked": torch.tensor(3)}
    checkpoint = {
        "model": model,
        "optimizer": {"state": {0: {"step": 1}}, "param_groups": []},
        "epoch": 7,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=1e-4, data="somewhere"),
    }
    imported = import_checkpoint([to_pth(checkpoint)], own_architecture)
    assert imported.source_format == "fine-tuned"
    assert same(imported.state, own_state)
    assert list(imported.dropped.values()) == [
        ["optimizer", "epoch", "scaler", "args"], ["head.0.weight", "head.1.num_batches_tracked"],
    ]  # fmt: skip
    assert imported.report() == (
        "fine-tuned checkpoint: tensors: 68 loaded, 2 dropped, 0 initialised; "
        "dropped optimizer, epoch, scaler, args (entries besides the weights, which an encoder does not need); "
        "dropped head.0.weight, head.1.num_batches_tracked (a task's head; every check trains its own)"
    )


@pytest.mark.parametrize(
    ("network", "architecture", "parts"),
    [
        ("UperNet", "profound_conv_micro", ("decode_head.conv.weight", "auxiliary_head.0.bias", "hidden_norm.2.bias")),
        ("UNETR", "profound_vit_micro", ("decoder.up.weight", "norm1.weight", "norm2.bias", "norm3.weight")),
    ],
)
def test_segmentation_checkpoint_keeps_the_encoder(network, architecture, parts):
    encoder = random_state(ARCHITECTURES[architecture], seed=5)
    model = {f"encoder.{name}": tensor for name, tensor in encoder.items()} | {name: torch.ones(2) for name in parts}
    checkpoint = {"model": model, "optimizer": {}, "epoch": 90, "scaler": {}, "args": argparse.Namespace(task="lesion")}
    imported = import_checkpoint([to_pth(checkpoint)], ARCHITECTURES[architecture])
    assert imported.source_format == network
    assert same(imported.state, encoder)
    assert imported.dropped[SEGMENTATION_DECODER] == list(parts)
    assert "(a segmentation decoder; every check trains its own)" in imported.report()


def test_unknown_part_beside_an_encoder_is_reported(own_state, own_architecture):
    model = {f"encoder.{name}": tensor for name, tensor in own_state.items()} | {"neck.weight": torch.ones(2)}
    with pytest.raises(BadCheckpoint, match=r"unexpected neck\.weight"):
        import_checkpoint([to_pth({"model": model})], own_architecture)


def test_pretraining_checkpoint_becomes_dense(own_state, own_architecture):
    sparse = to_pretraining(own_state)
    for data in (to_pth({"model": sparse, "optimizer": {}}), save(sparse)):
        imported = import_checkpoint([data], own_architecture)
        initial = {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
        assert same(dict(sorted(imported.state.items())), dict(sorted((own_state | initial).items())))
        assert imported.source_format == "pretraining"
        assert list(imported.initialised.values()) == [["norm.weight", "norm.bias"]]
        decoder = {"mask_token", "pred.weight", "proj.weight", "decoder.0.dwconv.weight"}
        assert set(imported.dropped[DECODER]) == decoder
        assert "initialised norm.weight, norm.bias (the pretraining has no final norm; " in imported.report()


def test_pretraining_golden_becomes_the_dense_golden(upstream_pretraining, upstream_state, upstream_architecture):
    imported = import_checkpoint([to_pth({"model": upstream_pretraining})], upstream_architecture)
    for name, tensor in imported.state.items():
        if not name.startswith("norm."):
            assert torch.equal(tensor, upstream_state[name]), name
    assert list(imported.initialised.values()) == [["norm.weight", "norm.bias"]]


def test_pretraining_golden_reproduces_upstreams_maps(upstream_pretraining, upstream_golden, upstream_architecture):
    state = import_checkpoint([save(upstream_pretraining)], upstream_architecture).state
    with torch.inference_mode():
        maps = build_encoder(upstream_architecture, state).feature_maps(upstream_golden["input_NCDHW"])
    for i in range(4):  # the maps do not pass through the final norm, which this format lacks
        expected = upstream_golden[f"map{i}_NCDHW"]
        assert (maps[f"stages.{i}"] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_sparse_kernel_of_impossible_shape_is_named(own_state, own_architecture):
    sparse = to_pretraining(own_state)
    sparse["encoder.stages.0.0.dwconv.kernel"] = torch.zeros(100, 4)
    with pytest.raises(
        BadCheckpoint, match=r"encoder.stages.0.0.dwconv.kernel of shape \[100, 4\] is not a convolution"
    ):
        import_checkpoint([save(sparse)], own_architecture)


def test_weights_of_another_size_are_refused(own_state, upstream_architecture):
    with pytest.raises(BadCheckpoint, match=r"wrong shape: downsample_layers\.0\.0\.weight is"):
        import_checkpoint([to_pth(own_state)], upstream_architecture)


# --- hostile files ----------------------------------------------------------------------------------------------------


class Payload:
    """Unpickling this would run a command that leaves a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["torch", "legacy torch", "bare pickle", "inside a namespace"])
def test_a_malicious_pickle_is_refused_and_never_executed(own_state, own_architecture, tmp_path, form):
    marker = tmp_path / "executed"
    payload = Payload(str(marker))
    data = {
        "torch": lambda: to_pth({"model": own_state, "args": payload}),
        "legacy torch": lambda: to_pth({"model": own_state, "x": payload}, _use_new_zipfile_serialization=False),
        "bare pickle": lambda: pickle.dumps(payload),
        "inside a namespace": lambda: to_pth({"model": own_state, "args": argparse.Namespace(x=payload)}),
    }[form]()
    pickle.loads(pickle.dumps(payload))  # the payload does work where a file is unpickled …
    assert marker.exists()
    marker.unlink()
    with pytest.raises(BadCheckpoint, match="never unpickled") as caught:
        import_checkpoint([data], own_architecture, subject="upload")
    assert not marker.exists()  # … but no import runs it
    assert str(tmp_path) not in str(caught.value)


def test_a_tensor_larger_than_its_storage_is_refused(own_state, own_architecture):
    own_state["norm.bias"] = torch.zeros(1).expand(2**40)
    with pytest.raises(BadCheckpoint, match=r"'norm\.bias' is not a plain dense tensor"):
        import_checkpoint([to_pth(own_state)], own_architecture)


def test_a_state_dict_under_another_name_is_refused_and_told_how_to_save_it(own_state, own_architecture):
    with pytest.raises(BadCheckpoint) as caught:
        import_checkpoint([to_pth({"weights": own_state, "epoch": 3})], own_architecture)
    assert "save the tensors alone: torch.save(checkpoint['weights'], FILE)" in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {}}, {"a": 1}, torch.zeros(3), {"model": {"a": [1]}}])
def test_files_without_a_state_dict_are_refused(own_architecture, content):
    with pytest.raises(BadCheckpoint, match=r"contains no state dict|not a plain dense tensor"):
        import_checkpoint([to_pth(content)], own_architecture)


@pytest.mark.parametrize("data", [b"", bytes(range(256)), b"\xff" * 64])
def test_damaged_files_are_refused(own_architecture, data):
    with pytest.raises(BadCheckpoint, match="the file is damaged"):
        import_checkpoint([data], own_architecture)


# --- the transformers -------------------------------------------------------------------------------------------------


def test_a_masked_autoencoder_gives_its_encoder():
    architecture = ARCHITECTURES["profound_vit_micro"]
    encoder = architecture.build()
    decoder = MaeDecoder(encoder, TransformerSize(48, 1, 4))
    both = encoder.state_dict() | decoder.state_dict()
    imported = import_checkpoint([to_pth({"model": both, "epoch": 9})], architecture)
    assert same(imported.state, encoder.state_dict())
    assert imported.source_format == "masked autoencoder"
    assert imported.dropped[DECODER] == list(decoder.state_dict())
    assert same(import_checkpoint([save(encoder.state_dict())], architecture).state, encoder.state_dict())


def test_the_position_embedding_is_the_checkpoints():
    architecture = ARCHITECTURES["profound_vit_micro"]
    state = random_state(architecture, 1)
    state["pos_embed"] = state["pos_embed"].flip(1).contiguous()
    assert torch.equal(import_checkpoint([save(state)], architecture).state["pos_embed"], state["pos_embed"])
    del state["pos_embed"]
    with pytest.raises(BadCheckpoint, match="missing pos_embed"):
        import_checkpoint([save(state)], architecture)


def small_provicnet(dim: int = 96, heads: int = 4) -> dict[str, torch.Tensor]:
    heads_of_upstream = {
        "head.segmentation_conv.1.weight": torch.ones(128, dim, 3, 3),
        "CL_Head.last_layer.weight_v": torch.ones(16, 4),
    }
    return SliceEncoder(TransformerSize(dim, 4, heads), patch=8).state_dict() | heads_of_upstream


def test_provicnet_gives_its_encoder():
    published = small_provicnet()
    imported = import_checkpoint([to_pth(published)], ARCHITECTURES["provicnet_micro"])
    assert imported.state.keys() == random_state(ARCHITECTURES["provicnet_micro"], 0).keys()
    assert all(torch.equal(tensor, published[name]) for name, tensor in imported.state.items())
    (left,) = imported.dropped.values()
    assert set(left) == published.keys() - imported.state.keys()
    assert "the segmentation and contrastive heads" in imported.report()


def test_a_fusion_joins_one_file_per_sequence():
    architecture = ARCHITECTURES["provicnet_fusion_micro"]
    published = [small_provicnet(48, 2) for _ in range(3)]
    imported = import_checkpoint([to_pth(state) for state in published], architecture)
    for stream, state in zip(("t2w", "dwi", "adc"), published, strict=True):
        name = "backbone.cls_token"
        assert torch.equal(imported.state[f"streams.{stream}.{name}"], state[name])
    assert same(import_checkpoint([to_safetensors(imported.state)], architecture).state, imported.state)
    with pytest.raises(BadCheckpoint, match=r"read from 1 or 3 files, not 2; give its files in this order: t2w, dwi"):
        import_checkpoint([to_pth(state) for state in published[:2]], architecture)


def test_unknown_tensors_of_a_known_network_are_refused():
    state = small_provicnet() | {"modal.weight": torch.zeros(96, 4)}
    with pytest.raises(BadCheckpoint, match=r"unexpected modal\.weight"):
        import_checkpoint([to_pth(state)], ARCHITECTURES["provicnet_micro"])


@pytest.mark.parametrize("content", [{"weight": torch.ones(2)}, {"weight": os.system}], ids=["tensors", "code"])
def test_warnings_of_torch_reach_nobody(content, own_architecture) -> None:
    data = to_pth(content, pickle_protocol=4, _use_new_zipfile_serialization=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(BadCheckpoint):
            import_checkpoint([data], own_architecture)
    assert caught == []


def test_one_file_is_singular(own_architecture) -> None:
    with pytest.raises(BadCheckpoint, match="is read from 1 file, not 2"):
        import_checkpoint([b"", b""], own_architecture)
