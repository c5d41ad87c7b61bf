"""`python -m vfmalign.mmd.comparison X Y --pairing …`: one comparison without a server, for Jobs and torchrun."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from google.protobuf.json_format import ParseDict, ParseError
from pydantic import Field

from vfmalign.client.messages.mmd import UNNAMED_LAYER, ComputeOptions
from vfmalign.core.domain.errors import BadOption, Exhausted, InvalidInput, NotFound, PreconditionFailed, VfmalignError
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT, TENANT_OF_KEYS, TenantName
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.settings import Settings, StoreSettings, load, parser
from vfmalign.core.runtime.work_context import UNLIMITED
from vfmalign.core.storage.arrays import NPY, read_npy
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.mmd.api import machine_memory_bytes
from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.compare import compare_checked
from vfmalign.mmd.comparison.options import check_options
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine import distributed
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.row_streams import NpyRows
from vfmalign.mmd.service import comparison_job, converters
from vfmalign.mmd.service.feature_reader import FeatureReader, Stored
from vfmalign.mmd.settings import MmdOptions, to_compute_config
from vfmalign.v1 import mmd_pb2

SUMMARY = """\
Compare two samples of features in this process and print a ComputeResponse as JSON. X and Y are both stored feature
sets, by id or by the URI of their manifest (s3://BUCKET/TENANT/features/ID/manifest.json), or both .npy files of shape
(rows, channels), which are never unpickled. @SHA256 behind an id or URI names the digest that the manifest must have.

Everything else that a ComputeRequest (mmd.proto) can ask for is given as JSON, with the request's defaults:
    --options '{"test": {"permutations": 1000}, "layers": ["stages.3"], "precision": "PRECISION_EXACT"}'

Samples that do not fit into VFMALIGN_MMD__MEMORY_MIB (by default all the memory of the machine) are read part by part.
Processes that torchrun starts share the work, each on the CUDA device of its local rank where there is one; on several
machines set VFMALIGN_MMD__MEMORY_MIB, to the same value on all of them. The first process prints the answer:
    torchrun --nproc-per-node 2 -m vfmalign.mmd.comparison x.npy y.npy --pairing independent --sigma 10

Exit codes: 0 done, 1 failed (the same command may succeed later), 2 a sample or an option that cannot succeed as it is,
3 not enough memory, 130 interrupted."""
OK, FAILED, BAD_INPUT, NO_MEMORY, INTERRUPTED = 0, 1, 2, 3, 130
_PAIRINGS = {"paired": mmd_pb2.PAIRING_PAIRED, "independent": mmd_pb2.PAIRING_INDEPENDENT}
_URI = "s3://"
_MANIFEST = re.compile(r"features/([^/]+)/manifest\.json")
_MOST_GROWTH = 8  # bytes in memory to a byte on disk: float16 becomes float64 twice


class _ComparisonSettings(Settings):
    """The environment variables that a comparison without a server reads."""

    mmd: MmdOptions = MmdOptions()
    tenant: TenantName = Field(default=DEFAULT_TENANT, description=TENANT_OF_KEYS)


def main(argv: Sequence[str] | None = None) -> int:
    """Compares the samples, prints the answer or one error message, and returns the exit code."""
    arguments = parse(argv)
    try:
        _run(arguments)
    except VfmalignError as error:
        fields = {"reason": error.reason, "subject": error.subject, "message": error.message, "remedy": error.remedy}
        print(json.dumps(fields) if arguments.json_errors else f"error: {error}", file=sys.stderr)  # noqa: T201
        if isinstance(error, InvalidInput | NotFound | PreconditionFailed):
            return BAD_INPUT
        return NO_MEMORY if isinstance(error, Exhausted) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        SystemExit: after `--help`, or for an argument that is missing or unknown.
    """
    arguments_parser = parser("mmd.comparison", _ComparisonSettings, SUMMARY)
    arguments_parser.add_argument("x", metavar="X", help="first sample (before)")
    arguments_parser.add_argument("y", metavar="Y", help="second sample (after)")
    arguments_parser.add_argument(
        "--pairing", choices=_PAIRINGS, required=True, help="whether row i of X and of Y is one case"
    )
    arguments_parser.add_argument(
        "--reference", metavar="SAMPLE", help="sample of other cases that fixes scale and bandwidth"
    )
    arguments_parser.add_argument("--sigma", type=float, help="fixed bandwidth, in units of the features")
    arguments_parser.add_argument("--options", default="{}", metavar="JSON", help="further fields of a ComputeRequest")
    arguments_parser.add_argument(
        "--json-errors", action="store_true", help="write an error as JSON: its reason, subject, message and remedy"
    )
    return arguments_parser.parse_args(argv)


def build_request(arguments: argparse.Namespace) -> mmd_pb2.ComputeRequest:
    """Returns the options of the command line as a request, without its samples.

    Raises:
        BadOption: `--options` is not JSON of a ComputeRequest, or repeats an argument.
    """
    try:
        fields = json.loads(arguments.options)
        request = ParseDict(fields, mmd_pb2.ComputeRequest())
    except (ValueError, ParseError, TypeError, AttributeError, RecursionError) as error:
        raise BadOption(
            f"is not the JSON of a ComputeRequest ({error})",
            field="--options",
            remedy="use the fields of ComputeRequest in mmd.proto",
        ) from None
    if repeated := {"x", "y", "reference", "pairing"} & fields.keys():
        raise BadOption(
            f"`{min(repeated)}` is an argument of its own", field="--options", remedy="remove it from the JSON"
        )
    request.pairing = _PAIRINGS[arguments.pairing]
    if arguments.sigma is not None:
        request.kernel.fixed_sigma = arguments.sigma
    if arguments.reference is not None:
        request.reference.SetInParent()
    return request


def _run(arguments: argparse.Namespace) -> None:
    settings = load(_ComparisonSettings).mmd
    engine = to_compute_config(settings)
    if "memory_mib" not in settings.model_fields_set:
        engine = replace(engine, memory_bytes=machine_memory_bytes())
    options = converters.to_options(build_request(arguments))
    check_options(options, has_reference=arguments.reference is not None)
    stages = Stages()
    with stages.stage("read"):
        places = _places(arguments)
        read = _read_stored if _is_stored(arguments.x) else _read_files
        samples = read(places, options, engine)
    memory_budget.check_samples_fit(samples, options, engine)
    x, y, *more = samples
    with stages.stage("compare"), distributed.join_process_group() as processes:
        engine = replace(engine, device=distributed.local_device(engine.device), communicator=processes)
        result = compare_checked(x, y, more[0] if more else None, options, engine)
    if not processes.is_main_process:
        return
    response = result.model_copy(update={"cost": comparison_job.to_cost(stages, engine.device)})
    print(json.dumps(response.to_json_dict(), indent=2, allow_nan=False))  # noqa: T201


def _places(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns where x, y and perhaps the reference are: all in files, or all stored.

    Raises:
        BadOption: some are in files and some are stored; the error names the first of the latter.
    """
    samples = {"x": arguments.x, "y": arguments.y, "reference": arguments.reference}
    places = {name: place for name, place in samples.items() if place is not None}
    stored = [name for name, place in places.items() if _is_stored(place)]
    if stored and len(stored) < len(places):
        raise BadOption(
            f"its name does not end in {NPY}, so that it is a stored feature set, and another sample is a file",
            field=stored[0],
            remedy="check the name, and compare .npy files with .npy files, or stored feature sets with stored ones",
        )
    return places


def _is_stored(place: str) -> bool:
    return not place.endswith(NPY)


def _read_stored(places: Mapping[str, str], options: ComputeOptions, engine: ComputeConfig) -> list[Sample]:
    """Returns feature sets as arrays or, where they do not fit into memory, x and y as streams."""
    store = ObjectStore(load(StoreSettings)).of_tenant(load(_ComparisonSettings).tenant)
    sources = []
    for name, place in places.items():
        feature_set, _, manifest_sha256 = place.partition("@")
        if feature_set.startswith(_URI):
            manifest = _MANIFEST.fullmatch(store.key(feature_set))
            if manifest is None:
                remedy = "give s3://…/features/…/manifest.json"
                raise BadOption("expected the URI of a feature set's manifest", field=name, remedy=remedy)
            feature_set = manifest[1]
        sources.append(Stored(name, feature_set, manifest_sha256))
    reader = FeatureReader(store)
    if memory_budget.fits(reader.shapes(sources), options, engine):
        return reader.read(sources, UNLIMITED)
    return [*reader.streams(sources[:2]), *reader.read(sources[2:], UNLIMITED)]


def _read_files(places: Mapping[str, str], options: ComputeOptions, engine: ComputeConfig) -> list[Sample]:
    """Returns .npy files as arrays or, where they do not fit into memory, x and y as streams."""
    paths = {name: Path(place) for name, place in places.items()}
    if _MOST_GROWTH * sum(path.stat().st_size for path in paths.values() if path.is_file()) > engine.memory_bytes:
        streams = [Sample(name, {UNNAMED_LAYER: NpyRows(path, name)}) for name, path in paths.items()]
        if not memory_budget.fits([memory_budget.get_sample_shape(stream) for stream in streams], options, engine):
            arrays = [Sample(name, {UNNAMED_LAYER: read_npy(paths[name], name)}) for name in list(paths)[2:]]
            return [*streams[:2], *arrays]
    return [Sample(name, {UNNAMED_LAYER: read_npy(path, name)}) for name, path in paths.items()]


if __name__ == "__main__":
    raise SystemExit(main())
