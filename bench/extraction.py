"""Time ExtractDataset beside bare forward passes: `python -m bench.extraction [ARCHITECTURE …]`.

Each architecture runs in a process of its own, with random weights, on phantoms of a clinical protocol's size in a real
S3 server. Turns alternate between the forward passes of prepared studies and the extraction of as many stored studies,
which no call has read before, into a stored feature set. Stacks are parallel, as those of one examination usually are;
`--turn-deg 1.5` tilts the diffusion stacks against the T2-weighted one, which is slower to resample. Printed are the
seconds per study of both, their ratio, and the time per stage of the extraction. Reading and preparing run beside the
encoder, so that the stages overlap.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import SecretStr

from vfmalign.cli.local import s3_server
from vfmalign.cli.local.environment import get_malloc_settings
from vfmalign.core.domain.datasets import Split
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore

if TYPE_CHECKING:
    from torch import Tensor

    from vfmalign.features.extraction.cache import ModelCache

NAMES = ("profound_conv_tiny", "profound_vit_base", "provicnet_t2w")
TURNS: tuple[Split, ...] = ("train", "val", "test")  # one split per turn, so that no turn reads cached studies
WARM_UP: Split = "pretrain"
DATASET, BUCKET = "clinical", "bench-extraction"


def main() -> int:
    """Measures the named architectures, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m bench.extraction", description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="ARCHITECTURE")
    parser.add_argument("--cases", type=int, default=6, help="studies per turn (6)")
    parser.add_argument(
        "--turn-deg",
        type=float,
        default=0.0,
        help="standard deviation of the diffusion stacks' rotation, in degrees (0)",
    )
    parser.add_argument(
        "--in-process", action="store_true", help="measure the first one in this process and print JSON"
    )
    arguments = parser.parse_args()
    if arguments.in_process:
        print(json.dumps(measure(arguments.names[0], arguments.cases, arguments.turn_deg)))
        return 0
    stacks = f"diffusion stacks turned by {arguments.turn_deg:g}° (SD)" if arguments.turn_deg else "parallel stacks"
    print(f"{arguments.cases} studies per turn, {stacks}, {len(TURNS)} turns after a warm-up; median (min–max)")
    print("| architecture | forward alone, s per study | extraction, s per study | ratio | seconds per stage |")
    print("|---|---|---|---|---|")
    for name in arguments.names:
        options = ["--in-process", "--cases", str(arguments.cases), "--turn-deg", str(arguments.turn_deg)]
        command = [sys.executable, "-m", "bench.extraction", *options, name]
        environment = {**os.environ, **get_malloc_settings("features")}
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if process.returncode:
            print(
                f"{name} failed with {process.returncode}: {process.stderr.strip().splitlines()[-1:]}", file=sys.stderr
            )
            return 1
        print(_row(name, json.loads(process.stdout.splitlines()[-1])), flush=True)
    return 0


def measure(name: str, cases: int, turn_deg: float) -> dict[str, Any]:
    """Measures one architecture in this process: seconds per study of every turn, and the extraction's stages."""
    import torch

    from vfmalign.features.extraction.cache import ModelCache
    from vfmalign.features.extraction.extractor import extract
    from vfmalign.models.cards import publish
    from vfmalign.models.registry import get_architecture
    from vfmalign.models.weights import random_state

    architecture = get_architecture(name)
    model = f"bench-{name}".replace("_", "-")
    with _store() as store:
        _synthesise(store, cases, turn_deg)
        publish(store, model, random_state(architecture, 0), architecture=name, objective="random")
        models = ModelCache(store, torch.device("cpu"), 2**34)
        encoder, card = models.get(model)
        layers = [card.primary_layer]
        forward_s, extraction_s, stages = [], [], Stages()
        for split in (WARM_UP, *TURNS):
            inputs = _prepare(store, split, card.preprocessing)
            start = time.perf_counter()
            for input_CDHW, slices in inputs:
                extract(encoder, input_CDHW[None], layers, "mean", torch.tensor([slices]))
            forward_s.append((time.perf_counter() - start) / len(inputs))
            stages = stages if split != TURNS[0] else Stages()
            extraction_s.append(_extract(store, models, model, split, stages) / len(inputs))
    return {
        "forward_s": forward_s[1:],
        "extraction_s": extraction_s[1:],
        "stages": stages.seconds(),
        "studies": cases * len(TURNS),
    }


def _extract(store: ObjectStore, models: ModelCache, model: str, split: Split, stages: Stages) -> float:
    """Runs one ExtractDataset as the service does with its default settings, and returns its seconds."""
    from vfmalign.client.messages.features import ExtractDatasetRequest
    from vfmalign.features.extraction.dataset_extraction import extract_dataset
    from vfmalign.features.extraction.parts import ExtractionOptions, Hooks
    from vfmalign.features.settings import FeaturesOptions

    defaults = FeaturesOptions().model_dump(include={"batch_size", "part_cases", "readers"})
    hooks = Hooks(
        compute=lambda function: function(), stages=stages, report=lambda done, total: None, cancelled=lambda: False
    )
    start = time.perf_counter()
    request = ExtractDatasetRequest(model_id=model, dataset_id=DATASET, split=split)
    extraction = extract_dataset(store, models, request, ExtractionOptions(**defaults), hooks)
    seconds = time.perf_counter() - start
    if not extraction.computed_cases:
        raise RuntimeError("the feature set already exists, so that nothing was measured")
    return seconds


def _prepare(store: ObjectStore, split: Split, preprocessing: Any) -> list[tuple[Tensor, tuple[int, int]]]:
    """Returns the network input of each study of a split, and which of its slices are real."""
    from vfmalign.core.storage.datasets import load_dataset
    from vfmalign.imaging.preprocessing import needed_kinds, prepare_study
    from vfmalign.imaging.volumes import load_case

    cases = load_dataset(store, DATASET).split(split)
    kinds = needed_kinds(preprocessing)
    studies = [prepare_study(load_case(store, case, kinds), preprocessing) for case in cases]
    return [(study.input_CDHW, study.slices) for study in studies]


def _synthesise(store: ObjectStore, cases: int, turn_deg: float) -> None:
    """Stores phantoms on the grids of a 3 T protocol: T2W 0.4 × 0.4 × 3 mm, diffusion 1.6 × 1.6 × 3 mm."""
    from vfmalign.imaging.phantoms.dataset import synthesise_dataset
    from vfmalign.imaging.phantoms.rendering import PhantomSpec, SliceStack

    spec = PhantomSpec(
        t2w=SliceStack((448, 448, 26), (0.4, 0.4, 3.0)),
        dwi=SliceStack((112, 112, 26), (1.6, 1.6, 3.0)),
        adc=SliceStack((112, 112, 26), (1.6, 1.6, 3.0)),
        diffusion_turn_deg=turn_deg,
    )
    synthesise_dataset(store, DATASET, 1, {WARM_UP: 1, **dict.fromkeys(TURNS, cases)}, spec=spec)


@contextmanager
def _store() -> Iterator[ObjectStore]:
    """Runs an S3 server and yields a bucket on it."""
    with tempfile.TemporaryDirectory() as folder:
        process, server = s3_server.start(Path(folder))
        try:
            settings = StoreSettings(
                bucket=BUCKET,
                endpoint=server.endpoint,
                access_key=server.access_key,
                secret_key=cast(SecretStr, server.secret_key),
            )
            store = ObjectStore(settings)
            store.ensure_bucket()
            yield store
        finally:
            s3_server.stop(process.pid, grace_s=0)
            process.wait()


def _row(name: str, figures: dict[str, Any]) -> str:
    """Returns the line of one architecture."""
    forward_s, extraction_s = figures["forward_s"], figures["extraction_s"]
    ratios = [extraction / forward for extraction, forward in zip(extraction_s, forward_s, strict=True)]
    per_study = {stage: seconds / figures["studies"] for stage, seconds in figures["stages"].items()}
    profile = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in per_study.items())
    cells = (_with_range(forward_s), _with_range(extraction_s), _with_range(ratios))
    return f"| {name} | {' | '.join(cells)} | {profile} |"


def _with_range(values: list[float]) -> str:
    """Formats the median of some figures with their range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


if __name__ == "__main__":
    sys.exit(main())
