"""`vfmalign mmd`: compares two samples of features, from stored feature sets or from arrays on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from vfmalign.cli.arrays import parse_sample, upload_large_samples
from vfmalign.cli.extras import COMPARISON_MODULES, require_modules
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption, LayerOption, LevelOption, SeedOption
from vfmalign.cli.set_option import Keys, SetOption, list_keys, parse_settings
from vfmalign.cli.target import Target
from vfmalign.cli.views.comparison_tables import comparison
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.mmd import ComputeOptions, ComputeResponse, Kernel, Pairing, TestOptions
from vfmalign.client.samples import Array, StoredFeatureSet
from vfmalign.core.domain.errors import BadOption, DeadlineExceeded, Unavailable
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.core.storage.arrays import NPY

TIMEOUT_S = 3600.0
FIRST_PERMUTATIONS = 999
_WITHOUT_BANDWIDTH = ("polynomial", "linear")
_NAMES = {"x": "A", "y": "B", "reference": "--reference"}
"""Names of the arguments by the field of the request, for errors."""
KEYS = (
    Keys(ComputeOptions, fields=("estimator", "precision", "frequencies", "measures")),
    Keys(Kernel, "kernel", ("family", "bandwidth_rule")),
    Keys(TestOptions, "test", ("method", "aggregated")),
)
EPILOG = list_keys(*KEYS)

SampleArgument = Annotated[
    str, typer.Argument(help="Feature set (ID or ID@SHA256), or a .npy file of shape (rows, channels).")
]
PairedOption = Annotated[bool, typer.Option("--paired", help="Row i of A and row i of B are the same case.")]
IndependentOption = Annotated[bool, typer.Option("--independent", help="The rows of A and B are different cases.")]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Sample (id or .npy file) of other cases that sets scale and bandwidth, such as the training split "
        "before fine-tuning.",
    ),
]
SigmaOption = Annotated[
    float | None, typer.Option(metavar="X", help="Fixed bandwidth, instead of the reference's median distance.")
]
FirstOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=int(ComputeOptions.get_bounds("first_groups").max),
        help="Test whether a site looks like a reference: compare the first N patients of B, with one row each, with "
        "A. Uses 999 permutations by default. Scale and bandwidth come from a third of A's patients. Patients must be "
        "independent: if scanners work in sessions, compare one scanner at a time.",
    ),
]
PermutationsOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=int(TestOptions.get_bounds("permutations").max),
        help="Number of permutations, such as 1000; 0 for no test.",
    ),
]
TimeoutOption = Annotated[float, typer.Option(metavar="X", min=0.001, help="Seconds to wait for the result.")]
LocalOption = Annotated[
    bool, typer.Option("--local", help="Compute on this machine instead of a service (extra `mmd`).")
]


def mmd(
    a: SampleArgument,
    b: SampleArgument,
    *,
    paired: PairedOption = False,
    independent: IndependentOption = False,
    reference: ReferenceOption = None,
    sigma: SigmaOption = None,
    layer: LayerOption = None,
    first: FirstOption = 0,
    permutations: PermutationsOption = 0,
    level: LevelOption = 0.95,
    seed: SeedOption = 0,
    settings: SetOption = None,
    timeout: TimeoutOption = TIMEOUT_S,
    local: LocalOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare two samples of features, layer by layer.

    Give either --paired or --independent, because the pairing decides which estimator is unbiased. Also give one of
    --reference, --sigma, --first and --set kernel.bandwidth_rule=pooled_median. Arrays that are too large for one
    message are uploaded, and the service deletes them after a day.
    """
    chosen = parse_settings(settings, *KEYS)
    options = ComputeOptions.from_fields(
        pairing=_to_pairing(paired=paired, independent=independent),
        layers=tuple(layer or ()),
        interval_level=level,
        kernel=_to_kernel(chosen["kernel"], sigma, has_reference=reference is not None or first > 0),
        first_groups=first,
        test=_to_test(chosen["test"], permutations or (FIRST_PERMUTATIONS if first else 0), seed),
        **chosen[""],
    )
    output, samples = Output.to_terminal(as_json=as_json), {"x": a, "y": b}
    if reference is not None:
        samples["reference"] = reference
    compare = _compare_locally if local else _compare_on_service
    response = compare(options, samples, home, output, timeout)
    output.emit(response.to_json_dict(), *comparison(response))


def _compare_on_service(
    options: ComputeOptions, samples: Mapping[str, str], home: Path, output: Output, timeout_s: float
) -> ComputeResponse:
    arrays: dict[str, str | StoredFeatureSet | Array] = {}
    for field, text in samples.items():
        if text not in arrays:  # a file that is given twice is read and uploaded once
            arrays[text] = parse_sample(text, _NAMES[field])
    target = Target.find(StateDirectory(home))
    to_send = upload_large_samples(
        {_NAMES[field]: arrays[text] for field, text in samples.items()}, target, lambda text: output.note(text, "dim")
    )
    x, y, *reference = (to_send[_NAMES[field]] for field in samples)
    with View(output) as view:
        view.show_bar("mmd", "comparing", None)
        return target.run(
            lambda client: client.mmd.compute(
                x, y, options, reference=reference[0] if reference else None, timeout_s=timeout_s
            )
        )


def _compare_locally(
    options: ComputeOptions, samples: Mapping[str, str], home: Path, output: Output, timeout_s: float
) -> ComputeResponse:
    context = WorkContext(deadline=time.monotonic() + timeout_s)
    stored = {field: text for field, text in samples.items() if not text.endswith(NPY)}
    for field, text in stored.items():
        parse_sample(text, _NAMES[field])
    store = Target.find(StateDirectory(home)).reach_store() if stored else nullcontext()
    require_modules("mmd", "a local comparison", COMPARISON_MODULES)
    with View(output) as view, store:
        view.show_bar("mmd", "comparing", None)
        from vfmalign.mmd.local import prepare

        try:
            return prepare(samples, options, context).run()
        except DeadlineExceeded:
            raise Unavailable(
                f"the comparison did not finish within {timeout_s:g} s", subject="mmd", remedy="increase --timeout"
            ) from None


def _to_pairing(*, paired: bool, independent: bool) -> Pairing:
    if paired == independent:
        raise BadOption(
            "give exactly one of --paired and --independent",
            field="pairing",
            remedy="use --paired for the same cases before and after, --independent for different cases",
        )
    return "paired" if paired else "independent"


def _to_test(chosen: Mapping[str, Any], permutations: int, seed: int) -> TestOptions:
    if chosen and permutations == 0:
        raise BadOption(
            f"test.{min(chosen)} configures a test, but without --permutations there is no test",
            field="--set",
            remedy="add --permutations 1000, or remove the key",
        )
    return TestOptions.from_fields(permutations=permutations, seed=seed, **chosen)


def _to_kernel(chosen: Mapping[str, Any], sigma: float | None, *, has_reference: bool) -> Kernel:
    if sigma is not None and not 1e-100 <= sigma <= 1e100:
        raise BadOption("out of range", field="--sigma", remedy="choose a number from 1e-100 to 1e100")
    kernel = Kernel.from_fields(fixed_sigma=sigma or 0.0, **chosen)
    has_bandwidth = kernel.family not in _WITHOUT_BANDWIDTH
    if not has_bandwidth and (kernel.bandwidth_rule or sigma):
        raise BadOption(
            f"the {kernel.family} kernel has no bandwidth",
            field="kernel.family",
            remedy="remove --sigma and kernel.bandwidth_rule",
        )
    if has_bandwidth and not (kernel.bandwidth_rule == "pooled_median" or sigma or has_reference):
        raise BadOption(
            "neither a reference nor a bandwidth is given",
            field="kernel.bandwidth_rule",
            remedy="give --reference (features of the training split before fine-tuning), --sigma, or --set "
            "kernel.bandwidth_rule=pooled_median (its values fit a test but cannot be ranked)",
        )
    return kernel
