"""`vfmalign dicom show`: what it shows, what it hides, and its errors."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from tests.dicom_files import (
    Examination,
    make_affine,
    make_array,
    make_segmentation,
    make_series,
    save,
    write_series,
)
from tests.unit.cli.conftest import Invoke

from vfmalign.imaging.datasets.layouts.derivation import read_declaration

ADC = {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}


def write_study(folder: Path, **changes: Any) -> Examination:
    """Writes a prostate's series, whose descriptions name the patient."""
    examination = Examination(**changes)
    common: dict[str, Any] = {"examination": examination}
    write_series(folder / "3", affine=make_affine("sagittal"), number=3, description="t2_tse_sag", **common)
    t2w = make_series(number=4, description="t2_tse_tra Zauberberg", **common)
    save(t2w, folder / "4")
    write_series(folder / "6", number=6, description="ep2d_diff", b_values=(50, 800), **common)
    write_series(folder / "7", number=7, description="ep2d_diff_ADC", attributes=ADC, **common)
    masks = {"Walpurga's prostate": make_array() > 2000}
    save(make_segmentation(t2w, masks), folder / "100", prefix="SEG")
    (folder / "readme.txt").write_text("no DICOM")
    return examination


def test_a_study_is_shown_with_what_each_rule_takes(tmp_path: Path, invoke: Invoke) -> None:
    write_study(tmp_path / "export")
    code, out, err = invoke("dicom", "show", str(tmp_path / "export"), "--show-text")
    assert code == 0, err
    assert "Study 1: 4 series, 5 volumes" in out
    assert [line.split()[-1] for line in out.splitlines()[3:7]] == ["t2_tse_sag", "t2w", "dwi", "adc"]
    assert out.splitlines()[5].split()[:6] == ["6", "×2", "transverse", "5", "50,", "800"]
    assert "3: orientation is sagittal, not transverse" in out
    assert "6 (b_value 50): b_value is 50, below 500" in out
    assert "left out: 1 file (not DICOM)" in err
    assert "100: no segment is gland" in out


@pytest.mark.parametrize(("columns", "hidden"), [(80, "EchoTime"), (160, "")])
def test_a_narrow_screen_leaves_out_attributes_and_names_them(
    tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, columns: int, hidden: str
) -> None:
    examination = write_study(tmp_path / "export")
    write_series(
        tmp_path / "export/9", number=9, description="a description of 26 letters", affine=make_affine("coronal"),
        examination=examination, attributes={"EchoTime": "12"},
    )  # fmt: skip
    monkeypatch.setattr("vfmalign.cli.views.output.PIPE_WIDTH", columns)
    code, out, _ = invoke("dicom", "show", str(tmp_path / "export"), "--show-text")
    assert code == 0
    header, first = out.splitlines()[2:4]
    assert header.split()[:5] == ["series", "orientation", "slices", "b_value", "diffusion"]
    assert "…" not in header + first
    assert ("Time" in header) is not bool(hidden)
    assert f"hidden columns (use a wider screen or --json): {hidden}" in out or not hidden


def test_a_rule_for_what_a_study_does_not_hold_says_so(tmp_path: Path, invoke: Invoke) -> None:
    write_series(tmp_path / "export")
    code, out, _ = invoke("dicom", "show", str(tmp_path / "export"))
    assert code == 0
    assert "gland  nothing  the study holds no segmentation" in out


def test_the_json_document_is_complete(tmp_path: Path, invoke: Invoke) -> None:
    write_study(tmp_path / "export")
    code, out, _ = invoke("dicom", "show", str(tmp_path / "export"), "--json")
    assert code == 0
    document = json.loads(out)
    assert document["declaration"] == "prostate_mpmri"
    assert document["notes"] == ["left out: 1 file (not DICOM)"]
    assert document["unusable"] == []
    assert {"EchoTime", "orientation"} <= set(document["attributes"])
    (study,) = document["studies"]
    assert study["problems"] == []
    assert [series["series"] for series in study["series"]] == ["series 3", "series 4", "series 6", "series 7"]
    volumes = {volume["volume"]: volume for volume in study["volumes"]}
    assert volumes["series 4"]["taken_as"] == ["t2w"]
    assert volumes["series 4"]["attributes"]["EchoTime"] == 101.0
    assert volumes["series 4"]["attributes"]["ImageType"] == ["ORIGINAL", "PRIMARY", "M", "ND"]
    assert volumes["series 6 (b_value 50)"]["not_taken"]["dwi"] == "b_value is 50, below 500"
    assert study["segmentations"][0]["segments"] == [
        {"number": 1, "label": "…", "codes": ["SCT:85756007"]}
    ]  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_nothing_that_identifies_is_shown_unless_asked_for(
    tmp_path: Path, invoke: Invoke, options: tuple[str, ...]
) -> None:
    examination = write_study(tmp_path / "Zauberberg")
    code, out, err = invoke("dicom", "show", str(tmp_path / "Zauberberg"), *options)
    assert code == 0
    assert not [mark for mark in examination.marks if mark.lower() in (out + err).lower()]
    code, out, err = invoke("dicom", "show", str(tmp_path / "Zauberberg"), "--show-names", *options)
    assert code == 0
    assert "t2_tse_tra" not in out
    code, out, err = invoke("dicom", "show", str(tmp_path / "Zauberberg"), "--show-names", "--show-text", *options)
    assert code == 0
    assert "t2_tse_tra Zauberberg" in out
    assert examination.study_uid in out
    assert f"{examination.patient_id}^^^{examination.issuer}" in out


def test_show_text_hides_no_number_and_no_date(tmp_path: Path, invoke: Invoke) -> None:
    write_series(tmp_path / "d", number=20240229, description="t2 Walpurga 20240229", attributes={"EchoTime": "4711"})
    for options, description, label in (
        ((), "…", "unnumbered series"),
        (("--show-text",), "t2 Walpurga 20240229", "series 20240229"),
    ):
        code, out, _ = invoke("dicom", "show", str(tmp_path / "d"), "--json", *options)
        assert code == 0
        (volume,) = json.loads(out)["studies"][0]["volumes"]
        assert (volume["volume"], volume["attributes"]["SeriesDescription"]) == (label, description)
        assert volume["attributes"]["EchoTime"] == (4711.0 if options else "…")


def test_show_text_leaves_the_terminal_as_it_is(tmp_path: Path, invoke: Invoke) -> None:
    write_series(tmp_path / "d", number=4, description="t2 \x1b[31m\u202e")
    code, out, _ = invoke("dicom", "show", str(tmp_path / "d"), "--show-text")
    assert code == 0
    assert "t2" in out
    assert not {"\x1b", "\u202e"} & set(out)


def test_rules_of_one_s_own_choose(tmp_path: Path, invoke: Invoke) -> None:
    write_study(tmp_path / "export")
    rule = {
        "name": "t2w",
        "conditions": {"SeriesDescription": {"regex": "^t2"}},
        "prefer": [{"smallest": "SeriesNumber"}],
    }
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"name": "mine", "modalities": ["t2w"], "selections": [rule]}))
    code, out, err = invoke("dicom", "show", str(tmp_path / "export"), "--declaration", str(mine), "--json")
    assert code == 0, err
    volumes = {volume["volume"]: volume for volume in json.loads(out)["studies"][0]["volumes"]}
    assert volumes["series 3"]["taken_as"] == ["t2w"]
    assert volumes["series 4"]["not_taken"]["t2w"] == "another is preferred: SeriesNumber is 4, not the smallest"


def test_without_rules_the_attributes_are_shown(tmp_path: Path, invoke: Invoke) -> None:
    write_study(tmp_path / "export")
    code, out, err = invoke("dicom", "show", str(tmp_path / "export"), "--declaration", "hippocampus", "--show-text")
    assert code == 0
    assert "t2_tse_sag" in out
    assert "why not the others" not in out
    assert 'hippocampus has no selection for t1w; add to its file, for example, "selections"' in err


def test_rules_are_printed_as_a_file_to_start_from(tmp_path: Path, invoke: Invoke) -> None:
    for name in ("prostate_mpmri", "brain_t1w"):
        code, out, err = invoke("dicom", "rules", name)
        assert code == 0, err
        mine = tmp_path / f"{name}.json"
        mine.write_text(out)
        assert read_declaration(str(mine)) == read_declaration(name)
    code, _, err = invoke("dicom", "rules", "hippocampus")
    assert code == 2
    assert "has no selection for t1w" in " ".join(err.split())
    code, _, err = invoke("dicom", "rules", "nothing")
    assert code == 2


def test_problems_are_shown_with_their_studies(tmp_path: Path, invoke: Invoke) -> None:
    write_study(tmp_path / "export/1")
    write_study(tmp_path / "export/2", study_uid="1.2.826.0.1.99", patient_id="other")
    again = Examination(study_uid="1.2.826.0.1.99", patient_id="other")
    write_series(tmp_path / "export/2/9", number=9, description="t2_tse_tra", examination=again)
    code, out, err = invoke("dicom", "show", str(tmp_path / "export"))
    assert code == 0
    assert "problem: 2 volumes meet the selection of t2w equally well: series 4: " in " ".join(out.split())
    assert "1 of 2 studies with problems: 2" in err


def test_a_series_in_another_frame_of_reference_is_shown(tmp_path: Path, invoke: Invoke) -> None:
    examination = write_study(tmp_path / "export")
    for path in (tmp_path / "export/7").iterdir():
        dataset = dcmread(path)
        dataset.FrameOfReferenceUID = "1.2.826.0.1.77"
        dataset.save_as(path)
    code, out, err = invoke("dicom", "show", str(tmp_path / "export"))
    assert code == 0
    assert "not known to lie in one frame of reference (t2w, dwi; adc)" in " ".join(out.split())
    assert "1 of 1 studies with problems: 1" in err
    assert not [mark for mark in (*examination.marks, "1.2.826.0.1.77") if mark.lower() in (out + err).lower()]


def test_volumes_that_cannot_be_used_say_why(tmp_path: Path, invoke: Invoke) -> None:
    write_series(tmp_path / "export", heights=(0, 1, 2, 4, 5), number=4)
    code, out, _ = invoke("dicom", "show", str(tmp_path / "export"))
    assert code == 0
    assert "series 4: 1 slice missing between others that lie 3 mm apart" in out


def test_a_zip_is_read(tmp_path: Path, invoke: Invoke) -> None:
    write_study(tmp_path / "export")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for path in sorted((tmp_path / "export").rglob("*.*")):
            file.write(path, path.relative_to(tmp_path))
    code, out, _ = invoke("dicom", "show", str(tmp_path / "export.zip"))
    assert code == 0
    assert "Study 1: 4 series, 5 volumes" in out


def make_nothing(path: Path) -> None:
    path.mkdir()


def make_broken_zip(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04")


def make_unreadable(path: Path) -> None:
    (path / "below").mkdir(parents=True)
    (path / "below").chmod(0)


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (make_nothing, 2, "SOURCE: no DICOM image was found"),
        (make_broken_zip, 2, "SOURCE: the file is not a zip, or is truncated"),
        (lambda path: path.write_bytes(bytes(128) + b"DICM"), 2, "give a folder or a DICOMDIR"),
        (lambda path: None, 2, "SOURCE: there is no such folder or file"),
        pytest.param(
            make_unreadable,
            2,
            "SOURCE: the folder or file, or its content, cannot be read (Permission denied)",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything"),
        ),
    ],
)
def test_a_wrong_source_is_an_error_that_does_not_name_it(
    tmp_path: Path, invoke: Invoke, make: Callable[[Path], None], code: int, message: str
) -> None:
    make(tmp_path / "Zauberberg")
    result, out, err = invoke("dicom", "show", str(tmp_path / "Zauberberg"))
    assert result == code
    assert message in err
    assert "Zauberberg" not in out + err


def test_a_wrong_option_or_declaration_is_an_error(tmp_path: Path, invoke: Invoke) -> None:
    code, _, err = invoke("dicom", "show", "Zauberberg", "--rules", "x")
    assert code == 2
    assert "Zauberberg" not in err
    rules = tmp_path / "rules.json"
    rules.write_text(
        json.dumps({"name": "a", "modalities": ["t2w"], "selections": [{"name": "t2w", "conditions": {}}]})
    )
    code, _, err = invoke("dicom", "show", str(tmp_path), "--declaration", str(rules))
    assert code == 2
    assert "declaration.selections[0].conditions: no condition" in err


def test_thirty_series_with_a_mosaic_fit_a_screen(
    tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    examination = write_study(tmp_path / "export")
    common: dict[str, Any] = {"array": make_array((40, 34, 2)), "examination": examination}
    for number in range(10, 34):
        options: dict[str, Any] = {"description": f"series of kind {number}", "attributes": {"EchoTime": str(number)}}
        write_series(tmp_path / f"export/{number}", number=number, **common | options)
    mosaic = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "MOSAIC"], "AcquisitionNumber": lambda i: i}
    b_values = (0, *[1000] * 64)
    write_series(
        tmp_path / "export/40", make_array((40, 34, 1, 65)), examination=examination, number=40,
        description="ep2d_diff_mddw_64", b_values=b_values, directionality="DIRECTIONAL", attributes=mosaic,
    )  # fmt: skip
    dynamic = {"TemporalPositionIdentifier": lambda index: index // 2}
    many = {"b_values": [None] * 40, "array": make_array((40, 34, 2, 40))}
    write_series(tmp_path / "export/41", number=41, description="dynamic", attributes=dynamic, **common | many)
    monkeypatch.setattr("vfmalign.cli.views.output.PIPE_WIDTH", 120)
    code, out, err = invoke("dicom", "show", str(tmp_path / "export"))
    assert code == 0
    assert "30 series, 134 volumes" in out
    lines = [*out.splitlines(), *err.splitlines()]
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120
    assert [line.split()[1] for line in lines if line.startswith(("40 ", "41 "))] == ["×65", "×40"]
    assert "series 40: Siemens mosaic: not supported" in out
    assert "7, 10–33, 41: no b_value" in " ".join(out.split())
    assert "40 (64 volumes): diffusion is direction, which is excluded" in " ".join(out.split())


def test_many_studies_are_cut_to_a_screenful(tmp_path: Path, invoke: Invoke) -> None:
    for number in range(22):
        write_series(tmp_path / f"export/{number}", make_array((40, 34, 2)), examination=Examination())
    code, out, err = invoke("dicom", "show", str(tmp_path / "export"))
    assert code == 0
    assert out.count("Study ") == 20
    assert "20 of 22 studies are shown; use --json to show all" in err


def test_prostatex_fits_a_screen(shared_folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    prostatex = shared_folder / "data/prostatex-dicom/ProstateX-0000.zip"
    if not prostatex.exists():
        pytest.skip("the examination ../shared/data/prostatex-dicom is not on this machine")
    monkeypatch.setattr("vfmalign.cli.views.output.PIPE_WIDTH", 120)
    code, out, _ = invoke("dicom", "show", str(prostatex))
    assert code == 0
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 120
    taken = {line.split()[0]: line.split()[1] for line in lines if line.startswith(("t2w ", "dwi ", "adc "))}
    assert taken == {"t2w": "4", "dwi": "8", "adc": "7"}
