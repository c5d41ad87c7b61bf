"""`python -m vfmalign.mmd X Y`: one comparison of two files or of two stored feature sets, without a server.

Knows the command line and how a result is printed. Computes nothing: `compare` does.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vfmalign.core.arrays import read_npy
from vfmalign.core.documents import document
from vfmalign.core.errors import BadOption, Exhausted, InvalidInput, NotFound, PreconditionFailed, VfmalignError
from vfmalign.core.metrics import Stages
from vfmalign.core.settings import Settings, StoreSettings, load
from vfmalign.core.store import ObjectStore
from vfmalign.mmd import jobs, limits, ranks, translate
from vfmalign.mmd.api import machine_memory_bytes
from vfmalign.mmd.compare import compare
from vfmalign.mmd.kernels import KERNELS
from vfmalign.mmd.measures import MEASURES, MeasureValue
from vfmalign.mmd.results import Comparison, Engine, Options, Shift, never_stop
from vfmalign.mmd.samples import Features, Sample
from vfmalign.mmd.settings import MmdOptions, engine_of
from vfmalign.mmd.sources import Sets, Stored
from vfmalign.mmd.streams import NpyRows
from vfmalign.mmd.uncertainty import Estimate

SUMMARY = """\
Without files: the MMD service of vfmalign, which is set up by environment variables alone.

With two .npy files of shape (rows, channels): compares them in this process and prints MMD² with its interval and its
p-value; needs no server and no store. Of the settings below it reads the VFMALIGN_MMD__ ones, where they are set: files
that do not fit into VFMALIGN_MMD__MEMORY_MIB (by default all that the machine has) are read a part at a time. It also
takes one layer of feature sets in the object storage, by the URIs of their manifests:
    python -m vfmalign.mmd s3://B/features/ID/manifest.json s3://B/features/ID/manifest.json --layer stages.3 --paired
Processes that torchrun starts share the work, each on the CUDA device of its local rank where there is one; on several
machines VFMALIGN_MMD__MEMORY_MIB has to be set, and the same:
    torchrun --nproc-per-node 2 -m vfmalign.mmd x.npy y.npy --sigma 10
Exit codes: 0 done, 2 a file or an option that cannot succeed as it is, 3 does not fit into memory, 130 stopped."""
OK, FAILED, BAD_INPUT, NO_ROOM, INTERRUPTED = 0, 1, 2, 3, 130
LAYER = "features"
_URI = "s3://"
_MANIFEST = re.compile(r"features/([^/]+)/manifest\.json")
_ABSENT = "-"
_MOST_GROWTH = 8  # bytes in memory to a byte on disk: float16 becomes float64 twice
_TITLES = ("p aggregated", "± approximation (99 %)")
_ESTIMATORS = ("biased", "unbiased_paired", "unbiased_independent", "linear", "block", "fourier")


class _LocalSettings(Settings):
    """What a comparison without a server reads."""

    mmd: MmdOptions = MmdOptions()


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace | None:
    """The arguments of a comparison, None where there are no files and the service shall run.

    Raises:
        SystemExit: after `--help`, or for arguments that fit neither.
    """
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="x and y: .npy files, which are never unpickled, or s3:// manifests"
    )
    add = parser.add_argument_group("comparing two files").add_argument
    add("--paired", action="store_true", help="row i of both files is the same case; by default they are independent")
    add("--reference", metavar="FILE", help="sample that fixes scale and bandwidth")
    add("--layer", metavar="NAME", help="layer of feature sets that is compared")
    add("--groups-x", type=Path, metavar="FILE", help="text file with the group (patient) of each row of x, one a line")
    add("--groups-y", type=Path, metavar="FILE", help="the same for y; pairs take the groups of x")
    add("--kernel", choices=KERNELS, default="gaussian", help="kernel (default gaussian)")
    add("--sigma", type=float, help="bandwidth in units of the features")
    add(
        "--bandwidth",
        choices=("fixed", "reference_median", "pooled_median"),
        help="where the bandwidth comes from (default: --sigma, else the reference's median distance, else the pooled "
        "median, which grows with the shift)",
    )
    add("--estimator", choices=_ESTIMATORS, help="estimator of MMD² (default: the unbiased one that fits)")
    add("--precision", choices=("fast", "high", "exact"), help="least precision: bfloat16, float32 or float64")
    add("--block-rows", type=int, default=0, metavar="N", help="rows of a block (default: the square root of the rows)")
    add("--frequencies", type=int, default=0, metavar="N", help="random frequencies of fourier (default 1,024)")
    add(
        "--measure",
        type=lambda text: tuple(dict.fromkeys(text.split(","))),
        default=(),
        metavar="NAME,…",
        help=f"measures beside MMD²: {', '.join(MEASURES)}",
    )
    add("--relabellings", type=int, default=1000, metavar="B", help="of the test; 0 makes none (default 1,000)")
    add("--wild-bootstrap", action="store_true", help="random signs instead of relabellings")
    add("--aggregated", action="store_true", help="test over a grid of bandwidths as well")
    add("--level", type=float, default=0.95, help="coverage of the interval (default 0.95)")
    add("--seed", type=int, default=0, help="of everything random (default 0)")
    add("--json", action="store_true", help="print one JSON document, as the service's ComputeResponse")
    arguments = parser.parse_args(argv)
    if not arguments.files:
        given = {name: value for name, value in vars(arguments).items() if name != "files"}
        if any(value != parser.get_default(name) for name, value in given.items()):
            parser.error("options of a comparison need two files; without files the service runs")
        return None
    if len(arguments.files) != 2:
        parser.error(f"a comparison needs two files, got {len(arguments.files)}")
    stored = [place.startswith(_URI) for place in _places(arguments).values()]
    if any(stored) != all(stored):
        parser.error("compare files with files, or feature sets with feature sets")
    if any(stored) != bool(arguments.layer):
        parser.error("--layer names the layer of feature sets, and files have none")
    if any(stored) and (arguments.groups_x or arguments.groups_y):
        parser.error("feature sets have groups of their own: leave --groups-x and --groups-y out")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Compares the files and prints the result, or one sentence on what is wrong; returns the exit code."""
    try:
        _run(arguments)
    except VfmalignError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        if isinstance(error, InvalidInput | NotFound | PreconditionFailed):
            return BAD_INPUT
        return NO_ROOM if isinstance(error, Exhausted) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _run(arguments: argparse.Namespace) -> None:
    settings = load(_LocalSettings).mmd
    engine = engine_of(settings)
    if "memory_mib" not in settings.model_fields_set:
        engine = replace(engine, memory_bytes=machine_memory_bytes())
    stages = Stages()
    with stages.stage("read"):
        options = _options(arguments)
        x, y, reference = _samples(arguments, options, engine)
    started = time.perf_counter()
    with stages.stage("compare"), ranks.joined() as processes:
        engine = replace(engine, device=ranks.own_device(engine.device), ranks=processes)
        result = compare(x, y, reference, options, engine)
    seconds = time.perf_counter() - started
    if processes.rank > 0:
        return
    if arguments.json:
        outcome = jobs.Outcome(result, stages, jobs.device_name(engine.device), 0)
        print(json.dumps(document(translate.response_of(outcome)), indent=2, allow_nan=False))  # noqa: T201
    else:
        print("\n".join(_report(result, options, engine, seconds)))  # noqa: T201


def _samples(arguments: argparse.Namespace, options: Options, engine: Engine) -> tuple[Sample, Sample, Sample | None]:
    """What is compared as arrays or, where x and y do not fit into the memory allowed, as streams."""
    if arguments.layer:
        x, y, *more = _stored(_places(arguments), options, engine)
        return x, y, more[0] if more else None
    reference = None
    if arguments.reference is not None:
        reference = Sample("reference", {LAYER: read_npy(Path(arguments.reference), "reference")})
    files = {name: Path(place) for name, place in zip(("x", "y"), arguments.files, strict=True)}
    labels = {"x": _labels(arguments.groups_x, "--groups-x"), "y": _labels(arguments.groups_y, "--groups-y")}

    def samples(read: Callable[[Path, str], Features]) -> list[Sample]:
        return [Sample(name, {LAYER: read(path, name)}, labels[name]) for name, path in files.items()]

    if _MOST_GROWTH * sum(path.stat().st_size for path in files.values() if path.is_file()) > engine.memory_bytes:
        x, y = samples(NpyRows)
        extents = [limits.extent_of(sample) for sample in (x, y, reference) if sample is not None]
        if not limits.fits(extents, options, engine):
            return x, y, reference
    x, y = samples(read_npy)
    return x, y, reference


def _stored(places: Mapping[str, str], options: Options, engine: Engine) -> list[Sample]:
    """Feature sets by the URIs of their manifests: as arrays, or x and y part by part."""
    store = ObjectStore(load(StoreSettings))
    given = []
    for name, uri in places.items():
        place = _MANIFEST.fullmatch(store.key(uri))
        if place is None:
            raise BadOption(
                "is no manifest of a feature set", field=name, remedy="give s3://…/features/…/manifest.json"
            )
        given.append(Stored(name, place[1]))
    sets = Sets(store)
    if limits.fits(sets.extents(given), options, engine):
        return sets.read(given, never_stop)
    return [*sets.streams(given[:2]), *sets.read(given[2:], never_stop)]


def _places(arguments: argparse.Namespace) -> dict[str, str]:
    """Where x, y and perhaps the reference are."""
    found = dict(zip(("x", "y"), arguments.files, strict=True))
    return found | ({"reference": arguments.reference} if arguments.reference else {})


def _options(arguments: argparse.Namespace) -> Options:
    bandwidth = arguments.bandwidth
    if bandwidth is None and arguments.sigma is None:
        bandwidth = "pooled_median" if arguments.reference is None else "reference_median"
    if bandwidth == "fixed" and arguments.sigma is None:
        raise BadOption("a fixed bandwidth needs its value", field="--bandwidth", remedy="give it with --sigma")
    if bandwidth in {"reference_median", "pooled_median"} and arguments.sigma is not None:
        raise BadOption("σ is given, but the rule takes a median", field="--bandwidth", remedy="leave one of them out")
    return Options(
        "paired" if arguments.paired else "independent",
        estimator=arguments.estimator,
        kernel=arguments.kernel,
        fixed_sigma=arguments.sigma,
        relabellings=arguments.relabellings,
        seed=arguments.seed,
        interval_level=arguments.level,
        bandwidth=bandwidth or "fixed",
        precision=arguments.precision,
        method="wild_bootstrap" if arguments.wild_bootstrap else "relabelling",
        aggregated=arguments.aggregated,
        block_rows=arguments.block_rows,
        frequencies=arguments.frequencies,
        measures=arguments.measure,
        layers=(arguments.layer,) if arguments.layer else (),
    )


def _labels(path: Path | None, field: str) -> tuple[str, ...]:
    """One label a line."""
    if path is None:
        return ()
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        raise BadOption("cannot be read as text", field=field, remedy="give a file with one label a line") from None


def _report(result: Comparison, options: Options, engine: Engine, seconds: float) -> Iterable[str]:
    """The result in words and a table; values have no unit, σ has that of the features."""
    layer = result.layers[0]
    yield (
        f"MMD² ({result.estimator}, {options.pairing} samples, {options.kernel} kernel): {result.rows_x} and "
        f"{result.rows_y} rows of {layer.channels} channels, {result.groups} groups"
    )
    yield f"{result.precision} by {result.backend} on {jobs.device_name(engine.device)} in {seconds:.3f} s"
    if result.backend_note:
        yield f"not by another backend: {result.backend_note}"
    if options.bandwidth == "pooled_median":
        yield "σ is the pooled median distance: it grows with the shift, so that values cannot be ranked by it"
    shifts = [("raw", layer.raw)] + ([("standardised", layer.standardised)] if layer.standardised else [])
    level = f"{100 * options.interval_level:g} % interval"
    rows = [_row(options, result, ("features", "MMD²", level, "σ (feature units)", "p", "± rounding"), *_TITLES)]
    for name, shift in shifts:
        more = _value(shift.aggregated_p_value), f"{shift.approximation_error:.2g}"
        rows.append(_row(options, result, (name, *_cells(shift)), *more))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    yield ""
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if layer.measures:
        yield ""
    yield from (_measure(name, one, shifts[-1][0]) for name, one in layer.measures.items())
    notes = dict.fromkeys(note for _, shift in shifts for note in _notes(shift, options))
    if notes:
        yield ""
    yield from notes


def _measure(name: str, one: MeasureValue, features: str) -> str:
    """A measure beside MMD² in a line."""
    if one.value is None:
        return f"{name}: {_ABSENT} {one.absent_reason}"
    return f"{name}: {one.value:.6g} ({features} features, dimension {one.dimension})"


def _row(
    options: Options, result: Comparison, cells: tuple[str, ...], aggregated: str, approximation: str
) -> tuple[str, ...]:
    """Cells of a row, with those that only some questions need."""
    if options.aggregated:
        cells = (*cells, aggregated)
    return (*cells, approximation) if result.estimator == "fourier" else cells


def _cells(shift: Shift) -> tuple[str, str, str, str, str]:
    interval = shift.mmd2.interval
    shown = _ABSENT
    if interval is not None:
        shown = f"[{interval.lower:.4g}, {interval.upper:.4g}]" + ("†" if interval.degenerate else "")
    value = _value(shift.mmd2, 6) + ("‡" if shift.digits_lost and shift.mmd2.value is not None else "")
    return value, shown, f"{shift.sigma:.6g}", _value(shift.p_value), f"{shift.error_bound:.2g}"


def _value(estimate: Estimate, digits: int = 3) -> str:
    return _ABSENT if estimate.value is None else f"{estimate.value:.{digits}g}"


def _notes(shift: Shift, options: Options) -> Iterable[str]:
    """What the marks mean, and why something is absent."""
    if shift.mmd2.interval is not None and shift.mmd2.interval.degenerate:
        yield "† degenerate: the test does not reject, coverage is not to be relied on"
    if shift.digits_lost:
        yield "‡ not above its rounding error: digits are lost"
    estimates = [shift.mmd2, shift.p_value] + ([shift.aggregated_p_value] if options.aggregated else [])
    yield from (f"{_ABSENT} {one.absent_reason}" for one in estimates if one.absent_reason)
