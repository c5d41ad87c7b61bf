"""Files from which a dataset is imported: a CSV table, or the `dataset.json` of a folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.fuzz.harness import Target

from vfmalign.imaging.datasets.discovery import ImportOptions, discover
from vfmalign.imaging.datasets.preparation import prepare
from vfmalign.imaging.datasets.splits import DEFAULT_SHARES

_OPTIONS = ImportOptions(shares=DEFAULT_SHARES)


def run(data: bytes) -> None:
    """Reads the input as the description of a folder without volumes, and lists its problems."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("dataset.json" if data[:1] == b"{" else "cases.csv")
        path.write_bytes(data)
        discovered = discover(path.parent, "d", b"salt", _OPTIONS)
        prepare(discovered, "d", _OPTIONS, lambda stage, done, total: None)


def make_seeds() -> Mapping[str, bytes]:
    """Tables and lists that are valid but for their missing files, and some that are not."""
    decathlon = {
        "name": "Hippocampus",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior"},
        "training": [{"image": "./a.nii.gz", "label": "./b.nii.gz"}],
        "test": ["./c.nii.gz"],
    }
    nnunet = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    header = "case,group,split,image:t1w,label:lesions,class:atrophy,number:age,stratum:scanner\n"
    return {
        "decathlon": json.dumps(decathlon).encode(),
        "nnunet": json.dumps(nnunet).encode(),
        "csv": (header + "a,p1,train,a.nii.gz,b.nii.gz,1,61.5,A 3T\nb,p2,test,c.nii.gz,,no,,B\n").encode(),
        "quoted": (header + '"a ""x""\n",p1,train,../a.nii.gz,=b,1,nan,"A, 3T"\n').encode(),
        "twice": b"case,case,image:t1w\na,b,c\n",
        "nul": b"case,image:t1w\na\0,b\n",
        "latin": b"case,image:t1w\n\xe4,b\n",
    }


TARGET = Target(
    run,
    make_seeds,
    words=(
        "case",
        "group",
        "split",
        "image:t1w",
        "label:l",
        "class:c",
        "grade:g",
        "number:n",
        "stratum:s",
        "training",
        "labels",
    ),
    max_bytes=1 << 13,
)
