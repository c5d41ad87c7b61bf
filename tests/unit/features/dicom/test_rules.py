"""Rules for DICOM that a dataset or the card of a model keeps."""

from __future__ import annotations

import json

import pytest
from tests.fuzz.memory_store import MemoryStore

from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.declarations import MAX_RULES_LENGTH, DatasetDeclaration, get_declaration
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.storage.datasets import from_datalist, to_datalist
from vfmalign.core.storage.keys import dataset_key
from vfmalign.features.dicom.rules import check_card_rules, load_rules
from vfmalign.features.imports.datasets import parse_datalist
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration, read_declaration
from vfmalign.imaging.dicom.rules import encode_selections, get_selections, parse_selections

PROSTATE = get_declaration("prostate_mpmri")
INPUT = Preprocessing(modalities=("t2w", "adc"), spacing_mm=(3, 1, 1), shape_dhw=(8, 16, 16))
EVERYTHING = {
    "name": "ct",
    "modalities": ["ct"],
    "labels": [{"name": "liver", "values": {"1": "liver", "2": "tumour"}}],
    "units": {"ct": "HU"},
    "selections": [
        {
            "name": "ct",
            "conditions": {
                "Modality": "CT",
                "KVP": 120,
                "slices": {"min": 20, "max": 900.5},
                "ConvolutionKernel": {"in": ["B30f", "STANDARD"]},
                "all": [{"any": [{"SeriesDescription": {"regex": "(?i)ven"}}, {"orientation": "transverse"}]}],
                "not": {"ContrastBolusAgent": {"absent": True}, "ImageType": {"contains": "DERIVED"}},
            },
            "prefer": [{"smallest": "SliceThickness"}, {"conditions": {"ImageType": "ORIGINAL"}}],
        },
        {
            "name": "liver",
            "conditions": {"Modality": "SEG"},
            "segments": {"1": {"label": "liver"}, "2": {"code": ["SCT:108369006"]}},
        },
    ],
}


def test_stored_rules_are_the_rules_that_were_written() -> None:
    for declaration in (PROSTATE, get_declaration("brain_t1w")):
        selections = get_selections(declaration)
        assert parse_selections(encode_selections(selections), declaration) == selections
    written = parse_declaration(json.dumps(EVERYTHING).encode())
    assert parse_declaration(written.to_text().encode()) == written
    assert written.to_text() == parse_declaration(written.to_text().encode()).to_text()


def test_a_dataset_without_rules_has_the_bytes_and_the_digest_that_it_had() -> None:
    plain = DatasetManifest(id="d")
    assert "selections" not in to_datalist(plain)
    assert plain.digest() == "f49df38ce6e21503e32c7cd2631041e140a36b0efc6c5f03163a98a9f9f50065"
    text = encode_selections(get_selections(PROSTATE))
    with_rules = DatasetManifest(id="d", selections=text)
    assert with_rules.digest() != plain.digest()
    assert from_datalist(to_datalist(with_rules), "d") == with_rules


@pytest.mark.parametrize(
    ("selections", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100, "not JSON"),
        ("{}", "selections"),
        ('[{"name": "t2w", "conditions": {"Modality": {"regex": "("}}}]', "regular expression"),
        ('[{"name": "t1w", "conditions": {"Modality": "MR"}}]', "not the name of a declared modality"),
        ("[]", "has no selection for"),
    ],
)
def test_a_dataset_with_wrong_rules_is_not_published(selections: str, message: str) -> None:
    data = canonical_json(to_datalist(DatasetManifest(id="d", selections=selections)))
    with pytest.raises(BadDataset, match=message) as caught:
        parse_datalist(data, "d")
    assert (caught.value.subject, bool(caught.value.remedy)) == ("dataset d", True)


def test_rules_that_are_too_long_are_neither_stored_nor_read() -> None:
    groups = [{"SeriesDescription": {"regex": f"{number}{'a' * 240}"}} for number in range(250)]
    names = [f"m{number}" for number in range(5)]
    selections = [{"name": name, "conditions": {"any": groups}} for name in names]
    rules = parse_declaration(json.dumps({"name": "long", "modalities": names, "selections": selections}).encode())
    for encode in (rules.to_text, lambda: encode_selections(rules.selections)):
        with pytest.raises(BadOption, match=f"at most {MAX_RULES_LENGTH:,} are stored"):
            encode()
    with pytest.raises(ValueError, match="at most 262144 characters"):
        DatasetManifest(id="d", selections="x" * (MAX_RULES_LENGTH + 1))


def test_a_unit_that_does_not_fit_is_refused_before_a_study_is_fetched() -> None:
    selections = encode_selections(parse_declaration(json.dumps(EVERYTHING).encode()).selections)
    for units, normalisation, message in (
        ({}, {"normalisation": "window", "window": (-160, 240)}, "ct is not stated to be in HU"),
        ({"ct": "HU"}, {}, "ct is in HU"),
    ):
        declaration = DatasetDeclaration.model_validate(
            {name: EVERYTHING[name] for name in ("name", "modalities", "labels")} | {"units": units}
        )
        content = to_datalist(DatasetManifest(id="d", declaration=declaration, selections=selections))
        store = MemoryStore({dataset_key("d"): canonical_json(content)})
        card = ModelCard.model_construct(
            id="m", preprocessing=INPUT.model_copy(update={"modalities": ("ct",), "reference": "ct"} | normalisation)
        )
        with pytest.raises(BadOption, match=message) as caught:
            load_rules(store, "d", card)
        assert caught.value.field == "study.dicom.rules_dataset_id"


def test_a_card_keeps_rules_about_every_input_in_its_unit() -> None:
    check_card_rules(read_declaration("prostate_mpmri").to_text(), INPUT)
    ct = json.dumps(EVERYTHING)
    window = {"normalisation": "window", "window": (-160, 240)}
    check_card_rules(ct, INPUT.model_copy(update={"modalities": ("ct",), "reference": "ct"} | window))
    refused = {
        "does not declare t2w, adc": (ct, INPUT),
        "has no selections": (json.dumps({"name": "x", "modalities": ["t2w", "adc"]}), INPUT),
        "ct is in HU": (ct, INPUT.model_copy(update={"modalities": ("ct",), "reference": "ct"})),
        "not JSON": ("{", INPUT),
    }
    for message, (text, preprocessing) in refused.items():
        with pytest.raises(BadOption, match=message) as caught:
            check_card_rules(text, preprocessing)
        assert caught.value.field.startswith("declaration")
        assert caught.value.remedy
