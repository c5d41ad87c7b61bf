"""ExtractDataset beside the encoder's bare forward passes, at full size: `python -m bench.extraction [ARCHITECTURE …]`.

Each architecture runs in a process of its own, with random weights, on phantoms of a clinical protocol's size in a real
S3 server. Turns alternate: the forward passes of prepared studies alone, and the extraction of as many stored studies
into a stored feature set, which no call has read before. Stacks are parallel, as one examination's usually are planned;
`--turn-deg 1.5` tilts the diffusion stacks against the T2-weighted one, which costs more to resample. Printed are the
seconds of one study either way, their ratio, and where the extraction's time went; reading and preparing run beside
the encoder, so the shares overlap.
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
from vfmalign.cli.local.environment import malloc_settings
from vfmalign.core.domain.artifacts import Split
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from torch import Tensor

    from vfmalign.features.cache import ModelCache

NAMES = ("profound_conv_tiny", "profound_vit_base", "provicnet_t2w")
TURNS: tuple[Split, ...] = ("train", "val", "test")  # each turn's cases are a split of their own
WARM_UP: Split = "pretrain"
DATASET, BUCKET = "clinical", "bench-extraction"


def main() -> int:
    """Measures every architecture that is named, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m bench.extraction", description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="ARCHITECTURE")
    parser.add_argument("--cases", type=int, default=6, help="studies of one turn (6)")
    parser.add_argument("--turn-deg", type=float, default=0.0, help="SD of the diffusion stacks' turn, in degrees (0)")
    parser.add_argument("--here", action="store_true", help="measure the first one in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.names[0], arguments.cases, arguments.turn_deg)))
        return 0
    stacks = f"diffusion stacks turned by {arguments.turn_deg:g}° (SD)" if arguments.turn_deg else "parallel stacks"
    print(f"{arguments.cases} studies a turn, {stacks}, {len(TURNS)} turns after a warm-up; median (min–max)")
    print("| architecture | forward alone, s a study | extraction, s a study | ratio | where the time went |")
    print("|---|---|---|---|---|")
    for name in arguments.names:
        options = ["--here", "--cases", str(arguments.cases), "--turn-deg", str(arguments.turn_deg)]
        command = [sys.executable, "-m", "bench.extraction", *options, name]
        environment = {**os.environ, **malloc_settings("features")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} failed with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return 1
        print(_row(name, json.loads(done.stdout.splitlines()[-1])), flush=True)
    return 0


def measure(name: str, cases: int, turn_deg: float) -> dict[str, Any]:
    """Seconds a study of every turn in this process, alone and extracted, and the extraction's stages."""
    import torch

    from vfmalign.features.cache import ModelCache
    from vfmalign.features.extractor import extract
    from vfmalign.models.cards import publish
    from vfmalign.models.checkpoints import random_state
    from vfmalign.models.registry import get_architecture

    architecture = get_architecture(name)
    model = f"bench-{name}".replace("_", "-")
    with _store() as store:
        _synthesise(store, cases, turn_deg)
        publish(store, model, random_state(architecture, 0), architecture=name, objective="random")
        models = ModelCache(store, torch.device("cpu"), 2**34)
        encoder, card = models.get(model)
        layers = [card.primary_layer]
        alone, extracted, stages = [], [], Stages()
        for split in (WARM_UP, *TURNS):
            inputs = _prepared(store, split, card.preprocessing)
            start = time.perf_counter()
            for input_CDHW in inputs:
                extract(encoder, input_CDHW[None], layers, "mean")
            alone.append((time.perf_counter() - start) / len(inputs))
            stages = stages if split != TURNS[0] else Stages()
            extracted.append(_extracted(store, models, model, split, stages) / len(inputs))
    return {"alone": alone[1:], "extracted": extracted[1:], "stages": stages.seconds(), "studies": cases * len(TURNS)}


def _extracted(store: ObjectStore, models: ModelCache, model: str, split: Split, stages: Stages) -> float:
    """Seconds of one ExtractDataset, as the service's data plane runs it with its default settings."""
    from vfmalign.client.messages.features import ExtractDatasetRequest
    from vfmalign.features.dataset_extraction import extract_dataset
    from vfmalign.features.parts import ExtractionOptions, Hooks
    from vfmalign.features.settings import FeaturesOptions

    defaults = FeaturesOptions().model_dump(include={"batch_size", "part_cases", "readers"})
    hooks = Hooks(
        compute=lambda function: function(), stages=stages, report=lambda done, total: None, cancelled=lambda: False
    )
    start = time.perf_counter()
    request = ExtractDatasetRequest(model_id=model, dataset_id=DATASET, split=split)
    found = extract_dataset(store, models, request, ExtractionOptions(**defaults), hooks)
    seconds = time.perf_counter() - start
    if not found.computed_cases:
        raise RuntimeError("the feature set was there before: nothing was measured")
    return seconds


def _prepared(store: ObjectStore, split: Split, preprocessing: Any) -> list[Tensor]:
    """The inputs of a split's studies."""
    from vfmalign.core.storage.datasets import load_dataset
    from vfmalign.imaging.preprocessing import needed_kinds, prepare_study
    from vfmalign.imaging.volumes import load_case

    cases = load_dataset(store, DATASET).split(split)
    kinds = needed_kinds(preprocessing)
    return [prepare_study(load_case(store, case, kinds), preprocessing).input_CDHW for case in cases]


def _synthesise(store: ObjectStore, cases: int, turn_deg: float) -> None:
    """Phantoms on the grids of a 3 T protocol: T2W 0.4 × 0.4 × 3 mm, diffusion 1.6 × 1.6 × 3 mm."""
    from vfmalign.imaging.phantoms.dataset import synthesise_dataset
    from vfmalign.imaging.phantoms.rendering import PhantomSpec, Stack

    spec = PhantomSpec(
        t2w=Stack((448, 448, 26), (0.4, 0.4, 3.0)),
        dwi=Stack((112, 112, 26), (1.6, 1.6, 3.0)),
        adc=Stack((112, 112, 26), (1.6, 1.6, 3.0)),
        diffusion_turn_deg=turn_deg,
    )
    synthesise_dataset(store, DATASET, 1, {WARM_UP: 1, **dict.fromkeys(TURNS, cases)}, spec=spec)


@contextmanager
def _store() -> Iterator[ObjectStore]:
    """A bucket on an S3 server of its own."""
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


def _row(name: str, one: dict[str, Any]) -> str:
    """One line of the table."""
    ratios = [extracted / alone for extracted, alone in zip(one["extracted"], one["alone"], strict=True)]
    per_study = {stage: seconds / one["studies"] for stage, seconds in one["stages"].items()}
    profile = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in per_study.items())
    figures = (_spread(one["alone"]), _spread(one["extracted"]), _spread(ratios))
    return f"| {name} | {' | '.join(figures)} | {profile} |"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


if __name__ == "__main__":
    sys.exit(main())
