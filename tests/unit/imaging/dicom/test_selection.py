"""The choice of a study's volumes: what is taken, what ties, and what problems say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.imaging.dicom.made_studies import (
    ADC,
    DWI,
    SAGITTAL,
    T2W,
    Attributes,
    choose_built_in,
    list_taken,
    make_series,
    make_stack,
    make_study,
)

from vfmalign.core.domain.declarations import DatasetDeclaration, get_declaration
from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.dicom.candidates import summarise_reasons
from vfmalign.imaging.dicom.examinations import Segment, Segmentation, Series, Study
from vfmalign.imaging.dicom.refusals import DEFECTIVE
from vfmalign.imaging.dicom.rules import Selections, check_selections, get_selections
from vfmalign.imaging.dicom.selection import Choice, choose

ANY_MR: Mapping[str, Any] = {"name": "t2w", "conditions": {"Modality": "MR"}}
ANY_TRANSVERSE: Mapping[str, Any] = {"name": "t2w", "conditions": {"orientation": "transverse"}}


def make_segmentation(number: int, *labels: str, references: tuple[str, ...] = ()) -> Segmentation:
    segments = tuple(Segment(place, label, ()) for place, label in enumerate(labels, start=1))
    header: Attributes = {"Modality": "SEG", "SeriesDescription": f"drawn {number}"}
    return Segmentation(f"series {number}", "secret.dcm", header, references, segments)


def choose_by(
    study: Study,
    *selections: Mapping[str, Any],
    labels: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> Choice:
    declaration = DatasetDeclaration.model_validate({"name": "d", "modalities": ["t2w"], "labels": labels})
    rules = Selections.model_validate({"selections": selections}).selections
    check_selections(declaration, rules)
    return choose(study, declaration, rules, **options)


def test_each_modality_takes_its_volume() -> None:
    low = DWI | {"b_value": 50.0}
    t2w, dwi, adc = make_series(4, T2W), make_series(6, low, DWI), make_series(7, ADC)
    choice = choose_built_in("prostate_mpmri", make_series(3, SAGITTAL), t2w, dwi, adc)
    assert choice.stacks == {"t2w": t2w.stacks[0], "dwi": dwi.stacks[1], "adc": adc.stacks[0]}
    assert list_taken(choice) == {
        "t2w": ["series 4"],
        "dwi": ["series 6 (b_value 800)"],
        "adc": ["series 7"],
        "gland": [],
    }
    assert not choice.problems
    assert not choice.lacks
    assert choice.reasons["dwi"]["series 6 (b_value 50)"] == "b_value is 50, below 500"
    assert summarise_reasons(choice.reasons["adc"]) == [
        "orientation is sagittal, not transverse: series 3",
        "no diffusion and SeriesDescription does not match: series 4",
        "diffusion is trace, not adc and SeriesDescription does not match: series 6 (b_value 50), "
        "series 6 (b_value 800)",
    ]


def test_without_a_match_the_problem_says_why_nothing_fits() -> None:
    choice = choose_built_in("prostate_mpmri", make_series(3, SAGITTAL), make_series(6, DWI), make_series(7, ADC))
    assert choice.problems == (
        "nothing meets the selection of t2w: orientation is sagittal, not transverse: series 3; "
        "diffusion is trace, but must be absent: series 6; diffusion is adc, but must be absent: series 7; "
        "`vfmalign dicom show` lists the content of the study; correct the selection",
    )
    assert choice.lacks == ("t2w",)
    assert "t2w" not in choice.stacks


def test_a_study_without_images_lacks_all() -> None:
    choice = choose_built_in("prostate_mpmri")
    assert choice.lacks == ("t2w", "dwi", "adc")
    assert "the study holds no image" in choice.problems[0]


def test_two_equal_volumes_are_a_problem_that_tells_them_apart() -> None:
    wide = T2W | {"EchoTime": 90.0, "SeriesDescription": "t2_tse_tra_pelvis", "Rows": 512.0}
    choice = choose_by(make_study(make_series(4, T2W), make_series(9, wide)), ANY_MR)
    assert choice.problems == (
        "2 volumes meet the selection of t2w equally well: "
        "series 4: SeriesDescription …, EchoTime 104, no Rows; "
        "series 9: SeriesDescription …, EchoTime 90, Rows 512; "
        "add a condition or a preference that distinguishes them, or choose one with --choose",
    )
    assert not choice.stacks
    assert not choice.lacks  # it is there, so that `--only-with` does not leave the case out
    assert choice.reasons["t2w"] == dict.fromkeys(("series 4", "series 9"), "as good as 1 more")


def test_a_repeated_series_says_that_nothing_tells_it_apart() -> None:
    choice = choose_by(make_study(make_series(4, T2W), make_series(5, T2W)), ANY_MR)
    assert "series 4; series 5; no attribute differs, so perhaps a series is stored twice" in choice.problems[0]


def make_repeated(*times: float) -> Study:
    return make_study(*(replace(make_series(4 + n, T2W), acquired_s=time) for n, time in enumerate(times)))


def test_a_series_that_was_acquired_again_is_told_by_its_time() -> None:
    study = make_repeated(43_260.0, 43_800.0)
    (problem,) = choose_by(study, ANY_MR).problems
    assert "series 4; series 5, acquired 9 min later; no attribute differs: the series is repeated, and" in problem
    assert "43" not in problem  # a time of day may identify
    for prefer, taken in (("largest", "series 5"), ("smallest", "series 4")):
        choice = choose_by(study, ANY_MR | {"prefer": [{prefer: "AcquisitionTime"}]})
        assert list_taken(choice) == {"t2w": [taken]}
        assert f"AcquisitionTime is not the {prefer}" in " ".join(choice.reasons["t2w"].values())


def test_a_time_of_day_is_no_condition() -> None:
    with pytest.raises(ValidationError, match="not an attribute of rules"):
        choose_by(make_repeated(1.0), ANY_MR | {"conditions": {"AcquisitionTime": {"min": 0}}})


def test_the_user_chooses_a_series() -> None:
    study = make_study(make_series(4, T2W), make_series(10, T2W), make_series(5, BROKEN))
    for series in ("4", "10"):
        choice = choose_by(study, ANY_MR, chosen={"t2w": series})
        assert (list_taken(choice), choice.problems) == ({"t2w": [f"series {series}"]}, ())
    assert MISSING in choose_by(study, ANY_MR, chosen={"t2w": "5"}).problems[0]
    sagittal = choose_by(make_study(make_series(3, SAGITTAL)), ANY_TRANSVERSE, chosen={"t2w": "3"})
    assert "orientation is sagittal, not transverse: series 3" in sagittal.problems[0]
    with pytest.raises(BadOption, match="--choose: a study has no series 1 that t2w could take"):
        choose_by(study, ANY_MR, chosen={"t2w": "1"})


def test_a_list_of_candidates_is_bounded() -> None:
    study = make_study(*(make_series(n, T2W | {"EchoTime": float(n)}) for n in range(1, 200)))
    problem = choose_by(study, ANY_MR).problems[0]
    assert "199 volumes" in problem
    assert "and 194 more" in problem
    assert len(problem) < 500


def test_a_list_of_reasons_is_bounded() -> None:
    study = make_study(*(make_series(n, SAGITTAL) for n in range(1, 200)))
    problem = choose_by(study, ANY_MR | {"conditions": {"orientation": "transverse"}}).problems[0]
    assert "not transverse: series 1, series 2, series 3, series 4, series 5, and 194 more; " in problem


def test_volumes_of_one_series_that_nothing_divides_have_names_of_their_own() -> None:
    sizes = [make_stack(T2W | {"Rows": rows}) for rows in (64.0, 128.0)]
    choice = choose_by(make_study(make_series(4, *sizes)), ANY_MR)
    assert list(choice.reasons["t2w"]) == ["series 4", "series 4, volume 2"]


@pytest.mark.parametrize(
    ("prefer", "taken"),
    [
        ([{"largest": "EchoTime"}], "series 3"),
        ([{"smallest": "EchoTime"}], "series 1"),
        ([{"largest": "b_value"}, {"smallest": "EchoTime"}], "series 1"),  # nothing has a b-value
        ([{"conditions": {"ImageType": "ORIGINAL"}}, {"largest": "EchoTime"}], "series 2"),
        ([{"conditions": {"Modality": "CT"}}, {"largest": "EchoTime"}], "series 3"),  # none is preferred
        ([{"largest": "InversionTime"}], "series 2"),  # a value is preferred to none
        ([{"largest": "EchoNumbers"}], "series 3"),  # of several values the largest counts
    ],
)
def test_preferences_decide_in_order(prefer: Sequence[Mapping[str, Any]], taken: str) -> None:
    first = T2W | {"EchoTime": 80.0, "EchoNumbers": 1.0}
    second = T2W | {"EchoTime": 90.0, "InversionTime": 2500.0, "EchoNumbers": 1.0}
    derived = T2W | {"EchoTime": 100.0, "ImageType": ("DERIVED", "PRIMARY"), "EchoNumbers": (1.0, 2.0)}
    study = make_study(make_series(1, first), make_series(2, second), make_series(3, derived))
    choice = choose_by(study, ANY_MR | {"prefer": prefer})
    assert list_taken(choice) == {"t2w": [taken]}
    others = [reason for reason in choice.reasons["t2w"].values() if reason]
    assert all(reason.startswith("another is preferred: ") for reason in others)


MISSING = "2 slices missing between others that lie 3 mm apart"
BROKEN = make_stack(T2W | {"EchoTime": 80.0}, "1.2.5", problem=MISSING)


@pytest.mark.parametrize("prefer", [[], [{"smallest": "EchoTime"}]])
def test_a_volume_with_a_problem_never_changes_what_is_taken(prefer: Sequence[Mapping[str, Any]]) -> None:
    rule = ANY_MR | {"prefer": prefer}
    study = make_study(make_series(4, T2W), make_series(5, BROKEN))
    choice = choose_by(study, rule)
    assert choice.problems == (
        "a series that the selection of t2w prefers, or takes equally well, cannot be used: series 5: "
        f"{MISSING}; export it again, select another, or import the case without it with --accept-defective",
    )
    assert list_taken(choice) == {"t2w": []}
    assert not choice.lacks
    assert choice.reasons["t2w"]["series 5"] == MISSING
    accepted = choose_by(study, rule, allowed=(DEFECTIVE,))
    assert list_taken(accepted) == {"t2w": ["series 4"]}
    assert (accepted.problems, accepted.allowed) == ((), (DEFECTIVE,))
    assert accepted.notes == (f"t2w takes series 4, because others cannot be used: series 5: {MISSING}",)
    assert accepted.reasons["t2w"]["series 5"] == MISSING


def test_a_volume_with_a_problem_that_is_not_preferred_does_not_matter() -> None:
    study = make_study(make_series(4, T2W), make_series(5, BROKEN))
    choice = choose_by(study, ANY_MR | {"prefer": [{"largest": "EchoTime"}]}, allowed=(DEFECTIVE,))
    assert list_taken(choice) == {"t2w": ["series 4"]}
    assert (choice.problems, choice.notes, choice.allowed) == ((), (), ())
    assert choice.reasons["t2w"]["series 5"] == MISSING


def test_accepted_defects_do_not_decide_between_others() -> None:
    study = make_study(make_series(3, T2W), make_series(4, T2W), make_series(5, BROKEN))
    choice = choose_by(study, ANY_MR | {"prefer": [{"smallest": "EchoTime"}]}, allowed=(DEFECTIVE,))
    assert "2 volumes meet the selection of t2w equally well" in choice.problems[0]
    assert list_taken(choice) == {"t2w": []}


def test_a_problem_of_the_only_match_is_told() -> None:
    broken = make_stack(T2W, "1.2.5", problem="2 slices missing between others that lie 3 mm apart")
    choice = choose_by(make_study(make_series(5, broken), make_series(6, {"Modality": "CT"})), ANY_MR)
    assert choice.problems == (
        "the volumes that meet the selection of t2w cannot be used: series 5: 2 slices missing between others that lie "
        "3 mm apart; export the series again, or select another",
    )
    assert not choice.lacks
    refused = make_series(5, T2W, problem="its pixels contain annotation")
    assert "its pixels contain annotation" in choose_by(make_study(refused), ANY_MR).problems[0]


def test_problems_and_reasons_hide_private_words() -> None:
    named = T2W | {"SeriesDescription": "t2 Zauberberg 19240712"}
    other = T2W | {"SeriesDescription": "t2 WALPURGA"}
    study = make_study(make_series(4, named), make_series(5, other), words=("zauberberg", "walpurga"))
    rules = [ANY_MR, ANY_MR | {"conditions": {"SeriesDescription": "x"}}]
    for choice in (choose_by(study, rule) for rule in rules):
        text = " ".join((*choice.problems, *choice.reasons["t2w"].values())).lower()
        assert not [word for word in ("zauberberg", "walpurga", "19240712", "secret", "1.2.4") if word in text]
    assert choose_by(study, ANY_MR | {"conditions": {"SeriesDescription": {"contains": "zauber"}}}).stacks


GLAND: Mapping[str, Any] = {"name": "gland", "values": {"1": "gland"}}
LESIONS: Mapping[str, Any] = {
    "name": "lesions",
    "values": {"1": "lesion", "2": "lesion"},
    "may_be_empty": True,
}
ZONES: Mapping[str, Any] = {"name": "zones", "values": {"1": "peripheral", "2": "transition"}}


def select_label(name: str, **segments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "name": name,
        "conditions": {"Modality": "SEG"},
        "segments": {key.removeprefix("v"): rule for key, rule in segments.items()},
    }


def choose_label(label: Mapping[str, Any], rule: Mapping[str, Any], *segmentations: Segmentation) -> Choice:
    t2w, sagittal = make_series(4, T2W), make_series(3, SAGITTAL)
    transverse = ANY_MR | {"conditions": {"orientation": "transverse"}}
    return choose_by(make_study(sagittal, t2w, segmentations=segmentations), transverse, rule, labels=[label])


def test_a_label_map_takes_the_segments_of_its_values() -> None:
    drawn = make_segmentation(100, "Prostate", "Lesion 1", "Lesion 2", references=("1.2.4",))
    choice = choose_label(GLAND, select_label("gland", v1={"label": "prostate"}), drawn)
    assert choice.label_maps["gland"].segmentation is drawn
    assert choice.label_maps["gland"].values == {1: 1}
    assert choice.label_maps["gland"].reference is choice.stacks["t2w"]
    # Several segments of one value are united, and a grade that nobody has may be absent.
    rule = select_label("lesions", v1={"label": {"contains": "lesion"}}, v2={"label": "cancer"})
    assert choose_label(LESIONS, rule, drawn).label_maps["lesions"].values == {2: 1, 3: 1}


def test_a_label_map_lies_on_the_image_that_it_was_drawn_on() -> None:
    rule = select_label("gland", v1={"number": 1})
    drawn = make_segmentation(100, "Prostate", references=("1.2.3",))
    assert choose_label(GLAND, rule, drawn).label_maps["gland"].reference.attributes["orientation"] == "sagittal"
    unknown = replace(drawn, references=("1.2.999",))
    choice = choose_label(GLAND, rule, unknown)
    assert choice.label_maps["gland"].reference is choice.stacks["t2w"]


def make_placed(number: int, attributes: Attributes, uid: str) -> Series:
    """A series of one volume in a frame of reference."""
    return make_series(number, make_stack(attributes, f"1.2.{number}", frame_of_reference_uid=uid))


@pytest.mark.parametrize(
    ("uids", "groups"),
    [
        (("1.9", "1.9", "1.9"), ""),
        (("1.9", "1.8", "1.8"), "t2w; dwi, adc"),
        (("1.9", "1.8", "1.7"), "t2w; dwi; adc"),
        (("1.9", "1.9", ""), "t2w, dwi; adc: none stated"),
        (("", "", ""), "t2w, dwi, adc: none stated"),
    ],
)
def test_modalities_in_several_frames_of_reference_are_a_problem(uids: tuple[str, ...], groups: str) -> None:
    series = [make_placed(4, T2W, uids[0]), make_placed(6, DWI, uids[1]), make_placed(7, ADC, uids[2])]
    choice = choose_built_in("prostate_mpmri", *series)
    problem = (
        f"its volumes are not known to lie in one frame of reference ({groups}), so that their relative "
        "positions are unknown; register the series and export them again, or allow it with --allow frames_of_reference"
    )
    assert choice.problems == ((problem,) if groups else ())
    assert not choice.allowed
    study, allowed = make_study(*series), ("frames_of_reference",)
    declaration = get_declaration("prostate_mpmri")
    lifted = choose(study, declaration, get_selections(declaration), allowed)
    assert lifted.problems == ()
    assert lifted.allowed == (allowed if groups else ())
    assert lifted.stacks == choice.stacks


def test_one_volume_alone_needs_no_frame_of_reference() -> None:
    assert not choose_by(make_study(make_placed(4, T2W, "")), ANY_MR).problems


def test_a_label_map_lies_in_the_frame_of_reference_of_its_image() -> None:
    rule, drawn = select_label("gland", v1={"number": 1}), make_segmentation(100, "Prostate", references=("1.2.3",))
    transverse = ANY_MR | {"conditions": {"orientation": "transverse"}}
    for uid, groups in (("1.9", ""), ("1.8", "(t2w; gland)")):
        study = make_study(make_placed(3, SAGITTAL, uid), make_placed(4, T2W, "1.9"), segmentations=[drawn])
        choice = choose_by(study, transverse, rule, labels=[GLAND])
        assert len(choice.problems) == bool(groups)
        assert groups in "".join(choice.problems)


def test_a_study_may_lack_a_label_map() -> None:
    rule = select_label("zones", v1={"label": "pz"}, v2={"label": "tz"})
    choice = choose_label(ZONES, rule, make_segmentation(100, "Prostate"), make_segmentation(101, "PZ"))
    assert not choice.label_maps
    assert not choice.problems
    assert choice.reasons["zones"] == {
        "series 100": "no segment is peripheral or transition",
        "series 101": "no segment is transition",
    }


def test_two_equal_segmentations_are_a_problem() -> None:
    drawn = [make_segmentation(number, "Prostate") for number in (100, 101)]
    choice = choose_label(GLAND, select_label("gland", v1={"label": "Prostate"}), *drawn)
    assert choice.problems == (
        "2 volumes meet the selection of gland equally well: series 100: SeriesDescription …; "
        "series 101: SeriesDescription …; add a condition or a preference that distinguishes them, or choose one "
        "with --choose",
    )
    assert not choice.label_maps


def test_a_segment_of_two_values_is_a_problem() -> None:
    rule = select_label("zones", v1={"label": {"contains": "z"}}, v2={"label": "tz"})
    choice = choose_label(ZONES, rule, make_segmentation(100, "PZ", "TZ"))
    assert "series 100: its segment 2 matches the values 1 and 2" in choice.problems[0]


def test_a_coded_concept_that_holds_a_name_is_hidden() -> None:
    study = make_study(segmentations=[make_segmentation(100, "Zauberberg")], words=("zauberberg",))
    (candidate,) = choose_by(study, ANY_MR).segmentations
    assert candidate.screen_code("99local:Zauberberg1") == "…"
    assert candidate.screen_code("SCT:41216001") == "SCT:41216001"
    assert candidate.screen_code("99local:\x1b[31m") == "…"
    assert replace(candidate, private_words=frozenset({"ng"})).screen_code("99local:Ng An") == "…"
