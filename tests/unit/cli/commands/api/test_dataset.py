"""`vfmalign dataset import --dry-run`: the result and every problem, without a stack and without a trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from tests.unit.imaging.datasets.brain_files import (
    BRAIN,
    Files,
    lay_out_bids,
    lay_out_csv,
    lay_out_decathlon,
    lay_out_folders,
    list_rows,
    make_case,
    put,
    to_nifti,
    write_table,
)

from vfmalign.cli import exits
from vfmalign.cli.target import Target
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.errors import BadDataset

CASES = [Files(f"surname{n}", case.image, case.label) for n, case in enumerate(map(make_case, range(4)))]


def lay_out_bids_of_other_suffixes(root: Path, cases: Sequence[Files]) -> Path:
    lay_out_bids(root, cases)
    for image in root.glob("sub-*/anat/*_T1w.nii.gz"):
        image.rename(image.with_name(image.name.replace("T1w", "CT")))
    return root


def list_files(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_shows_the_dataset_and_leaves_nothing(invoke, tmp_path: Path) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    columns = [{"split": "train", "class:atrophy": "1", "number:age_years": "61.5", "stratum:scanner": "A"}] * 4
    write_table(path / "cases.csv", [a | b for a, b in zip(list_rows(CASES), columns, strict=True)])
    before = list_files(tmp_path)
    code, out, err = invoke("dataset", "import", "d", "--id", "brain", "--dry-run", "--json")
    assert code == exits.OK, err
    assert "dry run: nothing was written" in err
    assert list_files(tmp_path) == before
    document = json.loads(out)
    assert document["layout"] == "csv"
    assert document["problems"] == []
    assert document["dataset"] == "brain"
    assert document["splits"]["train"] == {"cases": 4, "patients": 4}
    assert document["classes"] == {"atrophy": {"positive": 4, "negative": 0, "test_positive": 0, "test_negative": 0}}
    assert document["strata"] == {"scanner": {"A": 4}}
    assert document["numbers"]["age_years"]["cases"] == 4
    declaration = DatasetDeclaration.model_validate(document["declaration"])
    assert declaration.labels[0].values == {1: "value_1", 2: "value_2"}
    # The printed declaration can be edited and given back.
    put(tmp_path / "brain.json", document["declaration"])
    code, out, _ = invoke("dataset", "import", "d", "--declaration", "brain.json", "--dry-run")
    assert code == exits.OK
    assert "hippocampus (1 value_1, 2 value_2)" in out
    assert "surname" not in out + err


def test_without_a_usable_case_nobody_is_called_the_only_patient(invoke, tmp_path: Path) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    write_table(path / "cases.csv", [row | {"number:age": "old"} for row in list_rows(CASES)])
    code, _, err = invoke("dataset", "import", "d", "--dry-run")
    assert code == exits.BAD_INPUT
    assert "not a finite number" in err
    assert "only one patient" not in err


def test_folders_that_may_be_sites_are_counted_as_patients_with_a_note(invoke, tmp_path: Path) -> None:
    cases = [Files(f"site{n % 3}/surname{n}", case.image, case.label) for n, case in enumerate(CASES)]
    lay_out_folders(tmp_path / "d", cases)
    put(tmp_path / "brain.json", BRAIN.model_dump(mode="json"))
    (tmp_path / "patients.csv").write_text("folder,patient\n" + "".join(f"{case.name},{case.name}\n" for case in cases))
    options = ("d", "--declaration", "brain.json", "--dry-run")
    code, _, err = invoke("dataset", "import", *options)
    assert code == exits.OK, err
    assert "4 cases are of 3 patients" in err
    assert "--patients FILE" in err
    code, _, err = invoke("dataset", "import", *options, "--patients", "patients.csv")
    assert code == exits.OK, err
    assert "cases are of" not in err


def test_a_dry_run_lists_every_problem_and_ends_with_the_code_of_bad_input(invoke, tmp_path: Path) -> None:
    path = lay_out_decathlon(tmp_path / "surname", CASES)
    for number in (0, 2):
        (path / "imagesTr" / f"surname{number}.nii.gz").unlink()
    for extra in ((), ("--json",)):
        code, out, err = invoke("dataset", "import", "surname", "--dry-run", *extra)
        assert code == exits.BAD_INPUT
        for place in ("item 1 of training", "item 3 of training"):
            assert f"\n  {place}, c-" in err
        assert "surname" not in out + err
        assert "train" in out
    document = json.loads(out)
    assert len(document["problems"]) == 2
    assert document["error"]["reason"] == "BAD_DATASET"
    assert not (tmp_path / ".vfmalign").exists()


def test_an_import_lists_its_problems_as_a_dry_run_does(invoke, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VFMALIGN_FEATURES_ADDRESS", "localhost:1")  # nothing is asked before every case is usable
    monkeypatch.setenv("VFMALIGN_TOKEN", "token")
    path = lay_out_folders(tmp_path / "surname", CASES)
    put(tmp_path / "brain.json", BRAIN.model_dump(mode="json"))
    (path / "surname2" / "t1w.nii.gz").unlink()
    arguments = ("dataset", "import", "surname", "--id", "brain", "--declaration", "brain.json")
    code, _, err = invoke(*arguments)
    assert code == exits.BAD_INPUT
    assert "error: dataset brain: it cannot be imported:\n  case 3 of 4, c-" in err
    mapping = tmp_path / ".vfmalign" / "private" / "mapping.csv"
    assert str(mapping.relative_to(tmp_path)) in " ".join(err.split())
    assert "only you can read it, and it is never uploaded; `vfmalign backup` includes it" in " ".join(err.split())
    _, _, err = invoke(*arguments, "--mapping", "elsewhere.csv")
    assert "elsewhere.csv maps ids to folders" in " ".join(err.split())
    assert "backup" not in err
    document, dry = (json.loads(invoke(*arguments, "--json", *extra)[1]) for extra in ((), ("--dry-run",)))
    assert document["problems"] == dry["problems"]
    assert document["error"] == dry["error"]
    (row,) = [row for row in mapping.read_text().splitlines() if ",surname2," in row]
    assert row.split(",")[1] in document["problems"][0]


def test_a_dry_run_uses_the_secret_of_the_machine_where_there_is_one(invoke, tmp_path: Path) -> None:
    lay_out_decathlon(tmp_path / "d", CASES)
    arguments = ("dataset", "import", "d", "--id", "a", "--dry-run", "--json")
    drawn = {json.loads(invoke(*arguments)[1])["digest"] for _ in range(2)}
    assert len(drawn) == 2
    salt = tmp_path / ".vfmalign" / "private" / "salt"
    salt.parent.mkdir(parents=True)
    salt.write_bytes(bytes(32))
    stable = {json.loads(invoke(*arguments)[1])["digest"] for _ in range(2)}
    assert len(stable) == 1
    assert not stable & drawn


def test_what_the_cases_lack_is_noted(invoke, tmp_path: Path) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    rows = [row | {"split": "train"} for row in list_rows(CASES)]
    rows[2]["label:hippocampus"] = ""
    write_table(path / "cases.csv", rows)
    code, out, err = invoke("dataset", "import", "d", "--dry-run", "--json")
    assert code == exits.OK
    notes = json.loads(out)["notes"]
    notes[0], _, label = notes[0].partition(", but not ")
    assert label.startswith("line 4, c-")
    assert notes == [
        "hippocampus: 3 of 4 cases have it",
        "no case is in val or test: a check needs cases in train, val, test",
    ]
    for note in notes:
        assert note in err
    assert "; a task on hippocampus refuses this dataset: `--only-with hippocampus` leaves these cases out" in label
    code, out, err = invoke("dataset", "import", "d", "--only-with", "hippocampus", "--dry-run", "--json")
    assert code == exits.OK
    assert json.loads(out)["notes"][0].startswith("left out: 1 case without hippocampus (line 4, c-")


def test_names_of_folders_are_printed_on_request_alone(invoke, tmp_path: Path) -> None:
    path = lay_out_folders(tmp_path / "d", CASES)
    put(tmp_path / "brain.json", BRAIN.model_dump(mode="json"))
    (path / "surname2" / "t1w.nii.gz").unlink()
    arguments = ("dataset", "import", "d", "--declaration", "brain.json", "--dry-run")
    _, out, err = invoke(*arguments)
    assert "surname" not in out + err
    assert "--show-names adds the folder" in err
    _, _, err = invoke(*arguments, "--show-names")
    assert "case 3 of 4 (surname2), c-" in err
    assert "--show-names" not in err


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (
            ["validation=0.1"],
            "--share: 'validation=0.1' is not a split and its number → use one of the splits pretrain, train, val",
        ),
        (["train=0.5", "test=0.4"], "--share: the shares sum to 0.9, not to 1"),
    ],
)
def test_wrong_shares_name_their_option(invoke, tmp_path: Path, shares: list[str], message: str) -> None:
    lay_out_decathlon(tmp_path / "d", CASES)
    options = [text for share in shares for text in ("--share", share)]
    code, _, err = invoke("dataset", "import", "d", "--dry-run", *options)
    assert code == exits.BAD_INPUT
    assert message in " ".join(err.split())


def test_cases_of_a_split_replace_its_default(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def record(_: str, seed: int, counts: object, *, graded: bool) -> NoReturn:
        asked.extend((seed, counts, graded))
        raise BadDataset("is not generated here")

    monkeypatch.setattr("vfmalign.imaging.phantoms.dataset.PhantomDataset", record)
    monkeypatch.setattr(Target, "find", lambda _: None)
    words = ("--seed", "3", "--cases", "train=2", "--cases", "val=0", "--graded")
    assert invoke("dataset", "phantoms", *words)[0] == exits.BAD_INPUT
    assert asked == [3, {"pretrain": 24, "train": 2, "val": 0, "test": 20}, True]


@pytest.mark.parametrize("wrong", ["train", "train=0.5", "validation=3"])
def test_a_wrong_number_of_cases_names_its_option(invoke, wrong: str) -> None:
    code, _, err = invoke("dataset", "phantoms", "--cases", wrong)
    assert code == exits.BAD_INPUT
    assert f"--cases: '{wrong}' is not a split and its number\n  → use one of the splits pretrain, train" in err


def test_a_wrong_path_is_not_repeated_because_it_may_hold_a_patients_name(invoke, tmp_path: Path) -> None:
    code, _, err = invoke("dataset", "import", "../brians", "--dry-run")
    assert code == exits.BAD_INPUT
    assert "error: DIR: the folder to import does not exist" in err


def test_a_stray_value_is_named_beside_the_draft(invoke, tmp_path: Path) -> None:
    cases = [Files(f"surname{n}", case.image, case.label) for n, case in enumerate(map(make_case, range(10)))]
    stray = np.zeros((16, 18, 14), np.uint8)
    stray[4:8, 4:8, 4:8], stray[0, 0, 0] = 1, 7
    cases[3] = Files("surname3", cases[3].image, to_nifti(stray))
    lay_out_folders(tmp_path / "d", cases)
    _, out, err = invoke("dataset", "import", "d", "--dry-run", "--json")
    note = "hippocampus: value 7 occurs in 1 of 10 files: a mistake?"
    assert json.loads(out)["notes"] == [note]
    assert note in err


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("nothing.json", "no file and no built-in declaration has this name"),
        ("broken.json", "declaration: the file is not JSON"),
        ("splits.csv", "declaration: the file is not JSON"),
        ("wrong.json", "declaration.modalities"),
    ],
)
def test_a_wrong_declaration_names_its_field(invoke, tmp_path: Path, declaration: str, message: str) -> None:
    lay_out_folders(tmp_path / "d", CASES)
    put(tmp_path / "broken.json", "{")
    put(tmp_path / "splits.csv", "folder,split\n")
    put(tmp_path / "wrong.json", BRAIN.model_dump(mode="json") | {"modalities": []})
    code, _, err = invoke("dataset", "import", "d", "--declaration", declaration, "--dry-run")
    assert code == exits.BAD_INPUT
    assert message in err


def test_prostate_mpmri_is_a_declaration_by_name_and_the_words_of_folders_by_default(invoke, tmp_path: Path) -> None:
    lay_out_folders(tmp_path / "d", CASES)
    code, _, err = invoke("dataset", "import", "d", "--dry-run")
    assert code == exits.BAD_INPUT
    assert "no file name contains" in err
    assert "the cases have files of hippocampus (4), t1w (4)" in " ".join(err.split())
    assert "--declaration" in err
    code, _, again = invoke("dataset", "import", "d", "--declaration", "prostate_mpmri", "--dry-run")
    assert code == exits.BAD_INPUT
    assert again == err.replace("without --declaration, folders are read as prostate MRI: ", "") != err
    put(tmp_path / "brain.json", BRAIN.model_dump(mode="json"))
    assert invoke("dataset", "import", "d", "--declaration", "brain.json", "--dry-run")[0] == exits.OK


@pytest.mark.parametrize("lay_out", [lay_out_folders, lay_out_bids_of_other_suffixes])
def test_data_that_nothing_describes_get_a_draft_with_which_they_are_imported(invoke, tmp_path: Path, lay_out) -> None:
    lay_out(tmp_path / "d", CASES)
    code, out, err = invoke("dataset", "import", "d", "--dry-run", "--json")
    assert code == exits.BAD_INPUT
    document = json.loads(out)
    assert document["error"]["reason"] == "BAD_DATASET"
    assert set(document["names"].values()) == {4}
    code, text, err = invoke("dataset", "import", "d", "--dry-run")
    assert code == exits.BAD_INPUT
    assert json.loads(text) == document["declaration"]
    assert "surname" not in out + text + err
    (tmp_path / "draft.json").write_text(text)
    code, out, err = invoke("dataset", "import", "d", "--declaration", "draft.json", "--dry-run", "--json")
    assert code == exits.OK, err
    assert json.loads(out)["declaration"]["labels"][0]["values"] == {"1": "value_1", "2": "value_2"}
    notes = json.loads(out)["notes"]
    assert not any("label map" in note for note in notes), "every case has the label map"


def test_a_problem_of_many_cases_is_one_line_and_json_lists_each(invoke, tmp_path: Path) -> None:
    lay_out_folders(tmp_path / "d", [Files(f"p{n}", CASES[0].image, CASES[0].label) for n in range(7)])
    one_value = BRAIN.model_dump(mode="json")
    one_value["labels"][0]["values"] = {"1": "anterior"}
    put(tmp_path / "brain.json", one_value)
    code, out, err = invoke("dataset", "import", "d", "--declaration", "brain.json", "--dry-run", "--json")
    assert code == exits.BAD_INPUT
    assert len([p for p in json.loads(out)["problems"] if "values 2 are not declared" in p]) == 7
    (line,) = [line for line in err.splitlines() if "values 2 are not declared" in line]
    assert line.startswith("  7 cases (case 1 of 7, c-")
    assert line.count("c-") == 5
    assert "; and 2 more): hippocampus: the values 2 are not declared; declare them" in line


def test_the_help_has_examples(invoke) -> None:
    code, out, _ = invoke("dataset", "import", "--help")
    assert code == exits.OK
    assert "vfmalign dataset import Task04_Hippocampus/ --dry-run" in out
    assert "folders, decathlon, nnunet, bids, csv or dicom" in " ".join(out.split())


@pytest.mark.parametrize("option", [("--allow-cut-organs",), ("--map", "t1w=input")])
def test_options_about_a_model_need_one(invoke, tmp_path: Path, option: tuple[str, ...]) -> None:
    code, _, err = invoke("dataset", "import", str(tmp_path), "--dry-run", *option)
    assert code == exits.BAD_INPUT
    assert f"{option[0]}: it needs a model → remove this option, or add --model" in " ".join(err.split())


def test_an_import_says_which_verdicts_its_test_patients_allow(invoke, tmp_path: Path) -> None:
    cases = [Files(f"surname{n}", case.image, case.label) for n, case in enumerate(map(make_case, range(24)))]
    lay_out_decathlon(tmp_path / "d", cases)
    code, out, err = invoke("dataset", "import", "d", "--dry-run", "--json")
    assert code == exits.OK, err
    document = json.loads(out)
    patients = document["splits"]["test"]["patients"]
    assert 0 < patients < 8, "the default shares of 24 patients"
    limit = f"with {patients} test patients, a check ends as `insufficient_data`: a verdict needs 8"
    assert limit in " ".join(err.split())
    assert sum(note.startswith(limit) for note in document["notes"]) == 1
