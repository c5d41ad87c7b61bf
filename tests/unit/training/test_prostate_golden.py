"""The tasks of prostate mpMRI have the losses and scores that they had when the tasks knew no other organ.

`golden/prostate_tasks.json` was written by the version before tasks took parameters, with seeded outputs on seven small
phantoms. Batches, losses, scores and figures were equal bit for bit on one machine; the tolerance is for others.
"""

import json
from pathlib import Path

import pytest
import torch
from tests.prostate import SPECS
from tests.unit.imaging.conftest import MemoryStore

from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.phantoms.dataset import synthesise_dataset
from vfmalign.imaging.phantoms.rendering import PhantomSpec, SliceStack
from vfmalign.training.data import draw_batch, load_cases
from vfmalign.training.tasks import get_task

GOLDEN = json.loads((Path(__file__).parent / "golden" / "prostate_tasks.json").read_bytes())
INPUT = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 2.0, 2.0), shape_dhw=(16, 32, 32))
SMALL = PhantomSpec(
    t2w=SliceStack((60, 60, 18), (1.2, 1.2, 3.0)),
    dwi=SliceStack((40, 40, 18), (2.0, 2.0, 3.0)),
    adc=SliceStack((40, 40, 18), (2.0, 2.0, 3.0)),
    lesion_free_share=0.3,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stored():
    store = MemoryStore()
    return store, synthesise_dataset(store, "tiny", 31, {"train": 4, "test": 3}, spec=SMALL)


def approx(values):
    return {name: value if value is None else pytest.approx(value, rel=1e-5) for name, value in values.items()}


@pytest.mark.parametrize("name", list(GOLDEN))
def test_losses_scores_and_baselines_are_those_of_the_version_without_parameters(stored, name):
    store, dataset = stored
    task, expected = get_task(SPECS[name]), GOLDEN[name]
    loaded = load_cases(
        store, (*dataset.train, *dataset.test), task=task.spec, preprocessing=INPUT, workers=1, check=lambda: None
    )
    cases = task.prepare(loaded)
    train, test = cases[:4], cases[4:]
    assert [case.positive for case in cases] == expected["positive"]
    patch = None if task.outputs else (8, 16, 16)
    channels = task.classes or sum(modality in task.restores for modality in cases[0].modalities)
    draw = torch.Generator().manual_seed(5)
    losses = []
    for step in range(4):
        batch = draw_batch(train, step=step, batch_size=3, patch_shape_dhw=patch, seed=7, device=CPU)
        shape = (3, 1) if patch is None else (3, channels, *patch)
        losses.append(float(task.loss(torch.randn(shape, generator=draw), batch)))
    assert losses == pytest.approx(expected["losses"], rel=1e-5)
    baseline = task.naive_baseline(train)
    for case, scores, baseline_scores in zip(test, expected["scores"], expected["baseline"], strict=True):
        output = torch.randn((1,) if patch is None else (channels, 16, 32, 32), generator=draw)
        assert task.score(output, case) == approx(scores)
        assert task.score(baseline(case), case) == approx(baseline_scores)
