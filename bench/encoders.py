"""Compare full-size public encoders with MONAI: `python -m bench.encoders [FAMILY …]`.

Each network has random weights in the form in which its authors publish it, and is imported. The command prints the
greatest difference of any feature of any layer in float32 and float64, relative to the SD of the layer, and the seconds
of the import. It fails if a difference exceeds 1e-4 or 1e-6. It needs 4 GB of memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks import nets
from torch import Tensor, nn

from vfmalign.models.formats.families import FAMILIES
from vfmalign.models.importer import InputDescription, import_model
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import build_encoder

SIDE = 64
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-6}
RESNET = {"spatial_dims": 3, "n_input_channels": 1, "feed_forward": False, "conv1_t_stride": 2}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "swin_unetr": (lambda: nets.SwinUNETR(in_channels=1, out_channels=14, feature_size=48), "swinViT."),
    "resnet": (lambda: nets.resnet50(**RESNET, bias_downsample=False), ""),
    "segresnet": (lambda: nets.SegResNet(init_filters=16, in_channels=1), ""),
    "segresnet_ds": (lambda: nets.SegResNetDS(init_filters=32, blocks_down=(1, 2, 2, 4, 4)), "encoder."),
    "vit": (lambda: nets.ViTAutoEnc(1, (SIDE,) * 3, (16,) * 3), ""),
}
"""Maps each family to its published network, and to the prefix of the encoder in this network."""


def main() -> int:
    """Compares the named families, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench.encoders", description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="FAMILY")
    failed = False
    for name in parser.parse_args().names:
        tensors, seconds, differences = compare(name)
        failed |= any(difference > TOLERANCES[dtype] for dtype, difference in differences.items())
        shown = ", ".join(f"{str(dtype).removeprefix('torch.')} {value:.1e}" for dtype, value in differences.items())
        print(f"{name:14} {tensors}; import {seconds:.1f} s; greatest difference: {shown}", flush=True)
    return int(failed)


def compare(name: str) -> tuple[object, float, dict[torch.dtype, float]]:
    """Imports a network of random weights and compares the features of all its layers with those of MONAI."""
    make, prefix = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pth")
        torch.save({"state_dict": {f"module.{n}": t for n, t in network.state_dict().items()}}, path)
        start = time.perf_counter()
        imported = import_model([path], "", [], InputDescription(shape_dhw=(SIDE,) * 3), name)
        seconds = time.perf_counter() - start
        architecture = get_architecture(imported.architecture)
        encoder = build_encoder(architecture, imported.state)
    outputs: dict[str, Tensor] = {}
    for layer in architecture.layers:
        network.get_submodule(prefix + layer.name).register_forward_hook(
            lambda module, arguments, output, key=layer.name: outputs.__setitem__(key, output)
        )
    is_turned = FAMILIES[name].axes == "RAS"
    differences = {}
    for dtype in TOLERANCES:
        input_NCDHW = torch.randn(1, 1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.inference_mode():
            network.to(dtype)(input_NCDHW.permute(0, 1, 4, 3, 2).flip(2, 3) if is_turned else input_NCDHW)
            maps = encoder.to(dtype).feature_maps(input_NCDHW)
        greatest = 0.0
        for key, output in outputs.items():
            is_tokens = output.ndim == 3
            found = output.transpose(1, 2).reshape(1, -1, *(SIDE // 16,) * 3) if is_tokens else output
            expected = found.flip(2, 3).permute(0, 1, 4, 3, 2) if is_turned else found
            greatest = max(greatest, float((maps[key] - expected).abs().max() / expected.std()))
        differences[dtype] = greatest
    return imported.tensors, seconds, differences


if __name__ == "__main__":
    raise SystemExit(main())
