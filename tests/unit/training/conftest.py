"""Small synthetic cases from which a network can learn in a few steps."""

import pytest
import torch

from vfmalign.imaging.input_transforms import StudyContext, half_resolution
from vfmalign.imaging.normalisation import Scale, compute_moments, scale_from_moments
from vfmalign.training.data import PreparedCase

SHAPE = (16, 32, 32)


def make_case(number: int, *, lesion: bool = True, shape=SHAPE) -> PreparedCase:
    """A bright ball (gland) with a darker ball (lesion) in it and smooth noise around, different for each number."""
    draw = torch.Generator().manual_seed(1000 + number)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij")
    centre = 0.3 * (torch.rand(3, generator=draw) - 0.5)
    distance = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)).sqrt()
    gland = distance < 0.7
    spot = centre + 0.25 * (torch.rand(3, generator=draw) - 0.5)
    lesions = (sum((axis - c) ** 2 for axis, c in zip(axes, spot, strict=True)).sqrt() < 0.3) & gland
    if not lesion:
        lesions = torch.zeros_like(gland)
    texture = torch.rand((3, *(size // 4 for size in shape)), generator=draw)
    texture = torch.nn.functional.interpolate(texture[None], size=shape, mode="trilinear")[0]
    contrast = 1.5 * torch.randn((3, 1, 1, 1), generator=draw)  # tells cases apart
    clean = 0.3 * torch.randn((3, *shape), generator=draw) + texture + contrast * gland - 2.0 * lesions
    clean = (clean - clean.mean()) / clean.std()
    return PreparedCase(
        case=f"case-{number:03d}",
        group=f"group-{number:03d}",
        input_CDHW=clean,
        clean_CDHW=clean,
        labels={"gland": gland.to(torch.uint8), "lesions": 3 * lesions.to(torch.uint8)},
        spacing_mm=(3.0, 1.0, 1.0),
        modalities=("t2w", "dwi", "adc"),
        scale=Scale(torch.zeros(3), torch.ones(3), preserves_zeros=True),
        label_max={"gland": 1, "lesions": 3 * lesion},
        focus_DHW=lesions,
    )


@pytest.fixture(scope="session")
def cases() -> list[PreparedCase]:
    return [make_case(number) for number in range(6)]


@pytest.fixture(scope="session")
def blurred_cases(cases) -> list[PreparedCase]:
    from dataclasses import replace

    def blur(case: PreparedCase) -> PreparedCase:
        context = StudyContext(case.modalities, case.spacing_mm, case.clean_CDHW[0].numpy())
        return replace(case, input_CDHW=half_resolution(case.clean_CDHW, context))

    return list(map(blur, cases))


@pytest.fixture(scope="session")
def diffusion_cases() -> list[PreparedCase]:
    """Mono-exponential diffusion of one b-value and of a gain that differs from case to case; ADC is hidden."""
    from dataclasses import replace

    found = []
    for number in range(4):
        draw = torch.Generator().manual_seed(number)
        adc, t2_ms = (a + b * torch.rand(SHAPE, generator=draw) for a, b in ((0.6, 1.5), (50.0, 70.0)))
        t2w = 300.0 * torch.exp(-100.0 / t2_ms) * (number + 1)
        dwi = 90.0 * torch.exp(-70.0 / t2_ms - 1.4 * adc) * (5 - number)
        t2w[:2], dwi[:3], adc[:3] = 0.0, 0.0, 0.0
        signal = torch.stack((t2w, dwi, torch.zeros(SHAPE)))
        scale = scale_from_moments(map(compute_moments, signal))
        scores = scale.apply_(signal.clone())
        clean = torch.stack((*scores[:2], 1000.0 * adc))
        found.append(replace(make_case(number), input_CDHW=scores, clean_CDHW=clean, scale=scale))
    return found


@pytest.fixture(scope="session")
def classified_cases(cases, healthy_case) -> list[PreparedCase]:
    """Six positive cases and a negative one."""
    from dataclasses import replace

    return [*(replace(case, positive=True) for case in cases), replace(healthy_case, positive=False)]


@pytest.fixture(scope="session")
def healthy_case() -> PreparedCase:
    return make_case(99, lesion=False)
