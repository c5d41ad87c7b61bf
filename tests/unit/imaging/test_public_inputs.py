"""Inputs of public encoders: after the encoder has turned its axes, they equal those of MONAI's transforms."""

import numpy as np
import pytest
import torch
from monai import transforms
from monai.data import MetaTensor
from tests.unit.imaging.test_window import make_ct

from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import Volume
from vfmalign.models.formats.families import FAMILIES
from vfmalign.models.formats.hooked_encoder import HookedEncoder


def feed(volume: Volume, family: str, shape_DHW: tuple[int, int, int]) -> torch.Tensor:
    """The input of the family's network, on the volume's own grid."""
    entry = FAMILIES[family]
    preprocessing = entry.input.model_copy(update={"shape_dhw": shape_DHW, "spacing_mm": None})
    (modality,) = preprocessing.modalities
    input_CDHW = prepare_study({modality: volume}, preprocessing).input_CDHW
    seen: list[torch.Tensor] = []
    network = torch.nn.Sequential(torch.nn.Identity())
    encoder = HookedEncoder(network, ["0"], shape_DHW, 1, axes=entry.axes)
    network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    maps = encoder.feature_maps(input_CDHW[None])
    assert torch.equal(maps["0"][0], input_CDHW)  # maps keep the axes of the encoder's input
    return seen[0][0]


def transform(volume: Volume, family: str, shape_DHW: tuple[int, int, int]) -> torch.Tensor:
    """The same by MONAI's transforms, in the order of MONAI's pretraining scripts."""
    entry = FAMILIES[family]
    order = shape_DHW[::-1] if entry.axes == "RAS" else shape_DHW
    image = MetaTensor(torch.from_numpy(np.array(volume.array_XYZ, np.float32))[None], affine=volume.affine)
    image = transforms.Orientation(axcodes=entry.axes, labels=None)(image)
    if entry.input.window is not None:
        low, high = entry.input.window
        image = transforms.ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(image)
    else:
        image = transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(image)
    return transforms.ResizeWithPadOrCrop(order)(image).as_tensor()


@pytest.mark.parametrize("family", ["swin_unetr", "segresnet_ds", "vit"])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_a_ct_volume(family, signs):
    ct = make_ct(shape_XYZ=(24, 20, 10))
    ct = Volume(ct.array_XYZ, np.diag([*np.multiply(signs, (0.8, 0.8, 2.5)), 1.0]))
    shape = (14, 16, 20)  # padded along D, cropped along H and W
    torch.testing.assert_close(feed(ct, family, shape), transform(ct, family, shape), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["resnet", "segresnet"])
def test_an_mr_volume(family, picai):
    t2w = picai["t2w"]
    sides = [side - 6 for side in t2w.array_XYZ.shape[::-1]]  # even, so that both crops have the same centre
    shape = (sides[0] + 12, sides[1], sides[2])
    expected = transform(t2w, family, shape)
    torch.testing.assert_close(feed(t2w, family, shape), expected, rtol=0, atol=1e-4 * float(expected.std()))
