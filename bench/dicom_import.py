"""Import of DICOM beside NIfTI: time as a ratio, where it goes, and peak memory by number of studies.

The studies are prostate phantoms, written by `tests.dicom_files` and, with the same images and label map, as NIfTI.
Measured is all that an import does before the transfer: it finds the cases, decodes, checks and encodes every volume,
and computes its digest. Every import runs in a process of its own, in turns.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.dicom_files import write_prostate

from bench import tables
from bench.measure import MeasurementSettings, median_range
from bench.tables import Section, Table
from bench.worker import peak_bytes
from vfmalign.core.domain.declarations import get_declaration
from vfmalign.imaging.phantoms.rendering import PhantomCase, generate_case
from vfmalign.imaging.volumes import encode

STUDIES = 12
MANY_STUDIES = (100, 400)
_KINDS = ("t2w", "dwi", "adc", "gland")
_STAGES = {
    "scan headers": ("scanning.py", "scan"),
    "decode pixels": ("pixels.py", "read_stack"),
    "decode NIfTI": ("volumes.py", "decode"),
    "encode": ("volumes.py", "encode"),
}


def run(settings: MeasurementSettings) -> Section:
    """Measures imports of a few studies in turns, and of many in one turn."""
    section = Section("dicom", "Import of DICOM beside NIfTI, prostate phantoms")
    with tempfile.TemporaryDirectory() as folder:
        sources = {layout: Path(folder, layout) for layout in ("dicom", "folders")}
        phantom = generate_case(0, 0)
        write_studies(sources, phantom, range(STUDIES))
        turns = [{layout: _measure(layout, sources[layout]) for layout in sources} for _ in range(settings.repeats + 1)]
        _add_times(section, turns[1:])
        profiles = {layout: _measure(layout, sources[layout], "--profile")["stages"] for layout in sources}
        _add_stages(section, profiles)
        section.tables.append(_measure_memory(sources, phantom))
    return section


def write_studies(sources: Mapping[str, Path], phantom: PhantomCase, numbers: range) -> None:
    """Writes the phantom as studies of as many patients, in each layout."""
    for number in numbers:
        name = f"study-{number:04}"
        for volume in phantom.volumes.values():
            volume.array_XYZ.ravel()[number] = 1  # an import refuses two patients with the same volume
        if "dicom" in sources:
            write_prostate(sources["dicom"] / name, phantom, patient_id=name)
        if "folders" in sources:
            (sources["folders"] / name).mkdir(parents=True)
            for kind in _KINDS:
                (sources["folders"] / name / f"{kind}.nii.gz").write_bytes(encode(phantom.volumes[kind]))


def _measure(layout: str, folder: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.dicom_import", layout, str(folder), *options]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"the import of {layout} failed: {process.stderr.strip().splitlines()[-1:]}")
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def _add_times(section: Section, turns: list[dict[str, dict[str, Any]]]) -> None:
    ratios = [turn["dicom"]["seconds"] / turn["folders"]["seconds"] for turn in turns]
    rows = [
        (name, tables.with_range(median_range([turn[layout]["seconds"] / STUDIES for turn in turns])), files)
        for name, layout, files in (
            ("NIfTI", "folders", f"{len(_KINDS)}"),
            ("DICOM", "dicom", f"{turns[0]['dicom']['files'] // STUDIES}"),
        )
    ]
    section.tables.append(Table("Time", ("files", "seconds per study (min–max)", "files per study"), rows))
    section.sentences.append(f"DICOM takes {tables.times(median_range(ratios))} as long as NIfTI.")
    section.records += [{"case": "dicom", "turn": number, **turn} for number, turn in enumerate(turns)]


def _add_stages(section: Section, profiles: Mapping[str, Mapping[str, float]]) -> None:
    rows = [(stage, *(f"{profiles[layout].get(stage, 0):.1f}" for layout in ("folders", "dicom"))) for stage in _STAGES]
    section.tables.append(Table("Where the time goes, s with the profiler on", ("stage", "NIfTI", "DICOM"), rows))
    section.records.append({"case": "dicom", "profiles": profiles})


def _measure_memory(sources: Mapping[str, Path], phantom: PhantomCase) -> Table:
    rows = []
    written = STUDIES
    for studies in MANY_STUDIES:
        write_studies({"dicom": sources["dicom"]}, phantom, range(written, studies))
        written = studies
        figures = _measure("dicom", sources["dicom"])
        rows.append(
            (f"{studies}", f"{figures['files']:,}", f"{figures['peak_mib']:.0f}", f"{figures['before_mib']:.0f}")
        )
    return Table("Peak memory of an import of DICOM", ("studies", "files", "peak MiB", "before MiB"), rows)


def main() -> int:
    """Measures one import in this process and prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.dicom_import")
    parser.add_argument("layout")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.layout, arguments.folder, profile=arguments.profile)))
    return 0


def measure(layout: str, folder: Path, *, profile: bool) -> dict[str, Any]:
    """Imports a folder, without the transfer; returns seconds, peak memory in MiB and seconds by stage."""
    from vfmalign.imaging.datasets.discovery import ImportOptions
    from vfmalign.imaging.datasets.importer import prepare_import
    from vfmalign.imaging.dicom import pixels, scanning

    del pixels, scanning  # imported before the measurement
    options = ImportOptions(layout=layout, declaration=get_declaration("prostate_mpmri"))
    before_mib = peak_bytes() / 2**20
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as private:
        start = time.perf_counter()
        if profile:
            profiler.enable()
        prepare_import(folder, "bench", options, mapping_path=Path(private, "mapping.csv"), salt=bytes(32))
        profiler.disable()
        seconds = time.perf_counter() - start
    peak_mib = peak_bytes() / 2**20  # before the files are counted, which keeps a path of each
    return {
        "seconds": seconds,
        "files": sum(path.is_file() for path in folder.rglob("*")),
        "peak_mib": peak_mib,
        "before_mib": before_mib,
        "stages": _sum_stages(profiler) if profile else {},
    }


def _sum_stages(profiler: cProfile.Profile) -> dict[str, float]:
    """Cumulative seconds of the functions in `_STAGES`."""
    stats: Any = pstats.Stats(profiler)
    found = {(Path(file).name, function): entry[3] for (file, _, function), entry in stats.stats.items()}
    return {stage: found[place] for stage, place in _STAGES.items() if place in found}


if __name__ == "__main__":
    sys.exit(main())
