"""`python -m vfmalign.features.sharding extract|wait|reduce REQUEST --shards N`: extract a set on several machines.

Each machine extracts one shard, which consists of every N-th part of the feature set. `wait` returns when all parts are
stored, and `reduce` then commits the set. All commands are idempotent and reuse stored parts. REQUEST is an
ExtractDatasetRequest as JSON, in a file or at an s3:// URI. The result is the same set, with the same id, parts and
manifest, as with a single call of ExtractDataset (docs/scale.md).

Exit codes: 0 done, 1 internal error, 2 bad request, 3 bad data, 75 try again later (for `reduce`: some shards are not
stored yet), 143 stopped on request.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf.json_format import Parse, ParseError
from pydantic import Field

from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.errors import DONE, UNEXPECTED, BadOption, Unavailable, VfmalignError, exit_code
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT, TENANT_OF_KEYS, TenantName
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.settings import LogSettings, Settings, StoreSettings, load
from vfmalign.core.runtime.settings import parser as create_parser
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features import converters
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.features.extraction.dataset_extraction import extract_shard, is_extracted, reduce
from vfmalign.features.extraction.device import MemoryMeter, choose_device, describe_device
from vfmalign.features.extraction.parts import ExtractionOptions, Features, Hooks, Shard
from vfmalign.features.settings import FeaturesOptions
from vfmalign.v1 import features_pb2

MAX_REQUEST_BYTES = 2**20
WAIT_POLL_S = 10.0
_log = logs.get(__name__)


class ShardSettings(Settings):
    """Settings of a shard."""

    store: StoreSettings = Field(default_factory=StoreSettings)
    tenant: TenantName = Field(default=DEFAULT_TENANT, description=TENANT_OF_KEYS)
    log: LogSettings = LogSettings()
    features: FeaturesOptions = FeaturesOptions()


def main(argv: Sequence[str] | None = None) -> int:
    """Extracts a shard or commits the set, and returns the exit code."""
    arguments = parse(argv)
    settings = load(ShardSettings)
    logs.configure("features", settings.log)
    stop = ShutdownRequest()
    stop.listen()
    store = ObjectStore(settings.store).of_tenant(settings.tenant)
    logs.bind(tenant=store.tenant)
    try:
        request = read_request(store, arguments.request)
        if arguments.work == "reduce":
            _reduce(store, request, settings.features, arguments.shards)
        elif arguments.work == "wait":
            _wait(store, request, settings.features, stop)
        else:
            _extract(store, request, settings.features, Shard(arguments.shard, arguments.shards), stop.is_requested)
    except VfmalignError as error:
        _log.warning(f"{arguments.work}_stopped", error=error, reason=error.reason)
        return exit_code(error)
    except Exception:
        _log.exception(f"{arguments.work}_crashed")
        return UNEXPECTED
    return DONE


def read_request(store: ObjectStore, location: str) -> ExtractDatasetRequest:
    """Reads an extraction request from a file or from the object store.

    Raises:
        BadOption: the file does not exist, or does not contain a request.
        NotFound: the object store does not contain the request.
    """
    try:
        if location.startswith("s3://"):
            text = store.get(store.key(location), max_bytes=MAX_REQUEST_BYTES)
        else:
            text = Path(location).read_bytes()
        return converters.to_extraction_request(Parse(text, features_pb2.ExtractDatasetRequest()))
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise BadOption(
            f"cannot be read as an ExtractDatasetRequest: {type(error).__name__}",
            field="REQUEST",
            remedy='pass JSON such as {"model_id": "m", "dataset_id": "d", "split": "SPLIT_TEST"}',
        ) from error


def _extract(
    store: ObjectStore,
    request: ExtractDatasetRequest,
    settings: FeaturesOptions,
    shard: Shard,
    stopped: Callable[[], bool],
) -> None:
    device = choose_device(settings.device)
    models, stages, meter = ModelCache(store, device, settings.model_cache_bytes), Stages(), MemoryMeter(device)

    def compute(function: Callable[[], Features]) -> Features:
        return meter.run(function)

    def report(done: int, total: int) -> None:
        _log.info("progress", shard=shard.index, shards=shard.count, done=done, total=total, unit="case")

    computed = extract_shard(
        store, models, request, _options(settings), Hooks(compute, stages, report, stopped), shard=shard
    )
    _log.info(
        "shard_done",
        shard=shard.index,
        shards=shard.count,
        computed_cases=computed,
        device=describe_device(device),
        stage_seconds=stages.seconds(),
    )


def _wait(store: ObjectStore, request: ExtractDatasetRequest, settings: FeaturesOptions, stop: ShutdownRequest) -> None:
    """Returns once every part is stored. Also waits while the object store does not answer."""

    def is_done() -> bool:
        try:
            return is_extracted(store, request, _options(settings))
        except Unavailable as error:
            _log.warning("store_unavailable", error=error)
            return False

    _log.info("waiting", poll_s=WAIT_POLL_S)
    while not is_done():
        stop.wait(WAIT_POLL_S)
        stop.check()


def _reduce(store: ObjectStore, request: ExtractDatasetRequest, settings: FeaturesOptions, shards: int) -> None:
    """Commits the set and prints the FeatureSet message."""
    result = reduce(store, request, _options(settings), shards)
    message = converters.to_feature_set(store, result, converters.to_cost({}, "", 0))
    print(json.dumps(message.to_json_dict()["feature_set"]))  # noqa: T201
    _log.info("reduced", feature_set=result.feature_set_id, rows=result.committed.manifest.rows)


def _options(settings: FeaturesOptions) -> ExtractionOptions:
    return ExtractionOptions(settings.batch_size, settings.part_cases, settings.readers)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        SystemExit: the user asked for `--help`, or an argument is invalid.
    """
    parser = create_parser("features.sharding", ShardSettings, (__doc__ or "").strip())
    add = parser.add_argument
    works = "extract one shard, wait until all are extracted, or commit the set"
    add("work", choices=("extract", "wait", "reduce"), help=works)
    add("request", metavar="REQUEST", help="ExtractDatasetRequest as JSON: a file, or s3://BUCKET/TENANT/KEY")
    add("--shards", type=int, required=True, metavar="N", help="number of shards; the same for all commands of a set")
    index = os.environ.get("JOB_COMPLETION_INDEX")
    add(
        "--shard",
        type=int,
        default=None if index is None else int(index),
        metavar="I",
        help="index of the shard to extract, from 0 (default: JOB_COMPLETION_INDEX of an Indexed Job)",
    )
    arguments = parser.parse_args(argv)
    if arguments.shards < 1:
        parser.error("--shards must be 1 or more")
    if arguments.work == "extract" and arguments.shard is None:
        parser.error("extract needs --shard, or JOB_COMPLETION_INDEX in the environment")
    if arguments.work == "extract" and not 0 <= arguments.shard < arguments.shards:
        parser.error(f"--shard is {arguments.shard}; the last shard has number {arguments.shards - 1}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
