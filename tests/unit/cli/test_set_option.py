"""`--set` takes fields of records by their names, and `--help` lists them with meaning, values and default."""

from __future__ import annotations

import re

import pytest
from tests.unit.cli.conftest import Invoke

from vfmalign.cli import exits
from vfmalign.cli.commands.api import drift, mmd, models, monitors
from vfmalign.cli.set_option import Keys, parse_settings
from vfmalign.core.domain.errors import BadOption

COMMANDS = {
    ("mmd",): mmd.KEYS,
    ("drift",): (drift.KEYS,),
    ("monitors", "create"): (monitors.KEYS,),
    ("models", "import"): (models.INPUT,),
}
PARSED = {
    "kernel.family=linear": "linear", "test.aggregated=true": True, "measures=cka, energy": ("cka", "energy"),
    "precision=exact": "exact", "frequencies=512": 512, "window_rows=0": 0, "patient_window_days=9": 9,
    "run_length=0": 0, "title=a=b, c": "a=b, c", "descriptive_layers=a.1,b": ("a.1", "b"),
    "input.shape_dhw=8, 16,16": (8, 16, 16), "input.spacing_mm=1,0.5,0.5": (1.0, 0.5, 0.5),
    "input.window=-160,240": (-160.0, 240.0), "input.reference=t2w": "t2w",
}  # fmt: skip


def find_keys(key: str) -> Keys:
    """The first group of keys that has one."""
    return next(
        group for groups in COMMANDS.values() for group in groups for field in group.schemas if group.name(field) == key
    )


@pytest.mark.parametrize(("command", "groups"), COMMANDS.items(), ids=map(" ".join, COMMANDS))
def test_help_lists_every_key_with_its_meaning_and_values(
    invoke: Invoke, command: tuple[str, ...], groups: tuple[Keys, ...]
) -> None:
    code, out, _ = invoke(*command, "--help")
    assert code == exits.OK
    entries = dict(re.findall(r"^  ([a-z_]+(?:\.\w+)?)\n((?:    .+\n?)+)", out[out.index("Keys of --set.") :], re.M))
    fields = {group.name(field): (group, field) for group in groups for field in group.schemas}
    assert list(entries) == list(fields)
    for key, text in entries.items():
        group, field = fields[key]
        description = group.record.model_fields[field].description or ""
        values = f"Value: {group.describe_values(field)}."
        assert " ".join(text.split()).startswith(" ".join(f"{description} {values}".split()))
        assert description


@pytest.mark.parametrize(("text", "value"), PARSED.items())
def test_a_value_has_the_type_of_its_field(text: str, value: object) -> None:
    keys = find_keys(text.partition("=")[0])
    (parsed,) = parse_settings([text], keys)[keys.prefix].values()
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("kernel.family=cosine", "'cosine' is not a value of kernel.family", "polynomial or linear"),
        ("test.aggregated=maybe", "'maybe' is not a value of test.aggregated", "choose true or false"),
        ("measures=cka,logme", "'logme' is not a value of measures", "cka, frechet or energy, separated by commas"),
        ("frequencies=-1", "'-1' is not a value of frequencies", "a whole number from 0 to 1,048,576"),
        ("input.shape_dhw=8,16", "'8,16' is not a value of input.shape_dhw", "3 whole numbers from 1 to 4,096"),
        ("input.spacing_mm=1,1,nan", "'nan' is not a value of input.spacing_mm", "3 numbers from 0.05 to 50"),
        ("input.window=1,2,3", "'1,2,3' is not a value of input.window", "2 numbers from -100000 to 100000"),
        ("input.modalities=T1", "'T1' is not a value of input.modalities", "up to 16 ids, separated by commas"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_key_and_the_choices(text: str, cause: str, remedy: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_settings([text], find_keys(text.partition("=")[0]))
    assert caught.value.field == "--set"
    assert caught.value.message == cause
    assert remedy in caught.value.remedy
