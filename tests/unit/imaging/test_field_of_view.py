"""Shares of structures in a model's field of view, and label maps beyond it."""

import numpy as np
import pytest
import torch
from tests.cut_organs import CASES, INPUT, SHAPE_XYZ
from tests.prostate import PROSTATE

from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.domain.field_of_view import CaseInside, count_cases, format_share, list_cut, report_cut
from vfmalign.core.domain.metrics import list_structures
from vfmalign.imaging import field_of_view
from vfmalign.imaging.field_of_view import measure_field_of_view
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import Volume

STRUCTURES = list_structures(PROSTATE.labels)


def measure(volumes, preprocessing=INPUT, structures=STRUCTURES):
    return measure_field_of_view(volumes, preprocessing, structures, "case c-1")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.gland:.0%}-{case.lesion}")
def test_the_share_inside_is_that_of_the_voxels(case):
    assert measure(case.volumes).inside == pytest.approx(case.inside)


@pytest.mark.parametrize("case", CASES[:7], ids=lambda case: f"{case.gland:.0%}-{case.lesion}")
def test_whole_label_maps_hold_every_voxel_and_the_crop_in_its_window(case):
    view = measure(case.volumes)
    prepared = prepare_study(case.volumes, INPUT, labels=PROSTATE.labels, allow_cut=True)
    if case.inside == {"gland": 1.0, "lesion": 1.0}:
        assert view.whole is None
        return
    for name, label_DHW in prepared.labels.items():
        assert torch.equal(view.whole.labels[name][view.whole.window], label_DHW)
        assert int((view.whole.labels[name] > 0).sum()) == case.mask(name).sum()


@pytest.mark.parametrize("spacing_mm", [(2.0, 0.7, 0.7), (0.5, 1.2, 1.2)])
def test_the_share_is_that_of_the_volume_at_any_spacing(spacing_mm):
    shape = tuple(round(size / step) for size, step in zip((16, 32, 32), spacing_mm, strict=True))
    view = measure(CASES[4].volumes, INPUT.model_copy(update={"spacing_mm": spacing_mm, "shape_dhw": shape}))
    assert view.inside["gland"] == pytest.approx(0.6, abs=0.05)


def test_what_lies_beyond_the_image_is_outside_even_where_the_input_is_padded():
    """A label map that reaches further than the reference; the model's input is larger than both."""
    gland = np.zeros((68, 40, 16), np.float32)
    gland[38:58, 12:20, 4:10] = 1  # the image ends at 48
    volumes = CASES[0].volumes | {"gland": Volume(gland, np.eye(4))}
    view = measure(volumes, INPUT.model_copy(update={"shape_dhw": (16, 64, 64)}))
    assert view.inside == {"gland": 0.5, "lesion": 1.0}
    assert int((view.whole.labels["gland"] > 0).sum()) == 20 * 8 * 6


def test_a_case_without_a_lesion_has_no_share_of_it_and_one_without_a_map_neither():
    empty = Volume(np.zeros(SHAPE_XYZ, np.float32), np.eye(4))
    assert list(measure(CASES[0].volumes | {"lesions": empty}).inside) == ["gland"]
    view = measure(CASES[3].volumes | {"lesions": empty})
    assert view.inside == {"gland": 0.7}
    assert not view.whole.labels["lesions"].any(), "the map is there, and empty"
    without = {kind: volume for kind, volume in CASES[0].volumes.items() if kind != "lesions"}
    assert list(measure(without).inside) == ["gland"]


def test_structures_that_the_task_does_not_use_cut_nothing():
    (gland,) = (structure for structure in STRUCTURES if structure.name == "gland")
    view = measure(CASES[14].volumes, structures=[gland])  # its lesion lies outside
    assert view.inside == {"gland": 1.0}
    assert view.whole is None


def test_structures_of_more_voxels_than_a_volume_may_have_are_refused(monkeypatch):
    monkeypatch.setattr(field_of_view, "MAX_GRID_VOXELS", 16 * 32 * 32 + 1)
    with pytest.raises(BadVolume, match="case c-1: its structures span 38 x 32 x 16 voxels at the model's spacing"):
        measure(CASES[6].volumes)


def test_a_study_with_half_of_its_gland_outside_is_refused_unless_allowed():
    volumes = CASES[6].volumes
    with pytest.raises(BadVolume, match="the centre crop contains 40% of the gland"):
        prepare_study(volumes, INPUT, labels=PROSTATE.labels)
    prepared = prepare_study(volumes, INPUT, labels=PROSTATE.labels, allow_cut=True)
    assert torch.equal(prepared.input_CDHW, prepare_study(volumes, INPUT).input_CDHW)


def test_a_gland_outside_of_the_image_cannot_normalise_it():
    by_gland = INPUT.model_copy(update={"normalisation": "zscore_gland"})
    moved = np.eye(4)
    moved[2, 3] = 7.0  # the image covers 9 of the map's 16 slices, and none of its gland
    array = np.zeros(SHAPE_XYZ, np.float32)
    array[16:24, 12:20, 10:16] = 1
    volumes = CASES[0].volumes | {"gland": Volume(array, moved)}
    for allow_cut in (False, True):
        with pytest.raises(BadVolume, match="the gland mask is empty on the reference's grid"):
            prepare_study(volumes, by_gland, allow_cut=allow_cut)


def test_cut_cases_are_named_with_their_smallest_share():
    cases = [CaseInside(case=f"c-{case.number:02d}", split="test", inside=case.inside) for case in CASES]
    cut = list_cut(cases)
    assert [one.inside for one in cut] == sorted(one.inside for one in cut)
    assert count_cases(cut) == sum(min(case.inside.values()) < 0.98 for case in CASES) == 28
    assert count_cases(list_cut(cases, 0.9)) == sum(min(case.inside.values()) < 0.9 for case in CASES)
    assert report_cut(cases, 0.9, "m").startswith(
        "less than 90 % of a structure lies in the field of view of m in 27 of 30 cases: c-02 (lesion 0 %); c-05 ("
    )
    assert report_cut(cases, 0.9, "m").endswith("; and 22 more cases")
    assert report_cut(cases[:1], 0.98, "m") == ""


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.9999, "99 %"), (0.98, "98 %"), (0.29, "29 %"), (0.0, "0 %")]
)
def test_a_cut_structure_never_reads_as_whole(share, text):
    assert format_share(share) == text
