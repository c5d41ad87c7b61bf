"""The rules that come along, on whole examinations of several scanners."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.dicom_files import write_prostate

from vfmalign.core.domain.declarations import get_declaration
from vfmalign.imaging.dicom.rules import get_selections
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.selection import choose
from vfmalign.imaging.dicom.sources import open_source
from vfmalign.imaging.phantoms.rendering import PhantomCase, generate_case


@pytest.fixture(scope="module")
def phantom() -> PhantomCase:
    return generate_case(0, 0)


@pytest.mark.parametrize(
    ("vendor", "enhanced"),
    [("siemens", False), ("siemens-csa", False), ("ge", False), ("philips", False), ("philips", True), ("ge", True)],
)
def test_the_rules_of_prostates_know_the_series_of_each_scanner(
    tmp_path: Path, phantom: PhantomCase, vendor: str, enhanced: bool
) -> None:
    write_prostate(tmp_path, phantom, vendor=vendor, enhanced=enhanced)
    source = open_source(tmp_path)
    (study,) = scan(source).studies
    declaration = get_declaration("prostate_mpmri")
    choice = choose(study, declaration, get_selections(declaration))
    source.close()
    assert not (*study.problems, *choice.problems)
    taken = {
        name: (stack.attributes["SeriesNumber"], stack.attributes.get("b_value"))
        for name, stack in choice.stacks.items()
    }
    assert taken == {"t2w": (4.0, None), "dwi": (6.0, 800.0), "adc": (7.0, None)}
