"""`vfmalign mmd`: compare two samples of features, stored feature sets or arrays of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from vfmalign.cli.arrays import parse_sample, upload_large_samples
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption, LayerOption, LevelOption, SeedOption, parse_choice
from vfmalign.cli.subprocesses.comparison import compare_in_subprocess
from vfmalign.cli.target import Target
from vfmalign.cli.views.comparison_tables import comparison
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.mmd import (
    BandwidthRule,
    ComputeOptions,
    ComputeResponse,
    Estimator,
    Kernel,
    KernelFamily,
    Measure,
    Pairing,
    Precision,
    TestMethod,
    TestOptions,
)
from vfmalign.client.samples import Array, StoredFeatureSet
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.storage.arrays import NPY

TIMEOUT_S = 3600.0
FIRST_PERMUTATIONS = 999
_WITHOUT_BANDWIDTH = ("polynomial", "linear")
_NAMES = {"x": "A", "y": "B", "reference": "--reference"}
"""Names of the arguments by the field of the request, for errors."""


SampleArgument = Annotated[
    str, typer.Argument(help="Feature set (ID or ID@SHA256), or a .npy file of shape (rows, channels).")
]
PairedOption = Annotated[bool, typer.Option("--paired", help="Row i of A and of B is the same case.")]
IndependentOption = Annotated[bool, typer.Option("--independent", help="The rows of A and B are different cases.")]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Sample of other cases whose scale and bandwidth are used, such as the training split before: an id or a "
        ".npy file.",
    ),
]
SigmaOption = Annotated[
    float | None, typer.Option(metavar="X", help="Fixed bandwidth, instead of the reference's median distance.")
]
BandwidthOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Bandwidth rule: {', '.join(get_args(BandwidthRule))}. A pooled median grows with the shift it measures.",
    ),
]
KernelOption = Annotated[str, typer.Option(metavar="NAME", help=f"Kernel: {', '.join(get_args(KernelFamily))}.")]
EstimatorOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Estimator: {', '.join(get_args(Estimator))}. By default the unbiased one for the pairing.",
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Lowest precision allowed: fast (bfloat16 on CUDA), high (float32) or exact (float64)."
    ),
]
FrequenciesOption = Annotated[
    int, typer.Option(metavar="N", min=0, help="Frequencies of random_fourier, at least 256; 0 for 1,024.")
]
MeasureOption = Annotated[
    str, typer.Option(metavar="NAME", help=f"Further measures, separated by commas: {', '.join(get_args(Measure))}.")
]
FirstOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=int(ComputeOptions.get_bounds("first_groups").max),
        help="Does a site look like a reference? Compare one row of each of the first N patients of B with A, of whose "
        "patients a third fixes scale and bandwidth, by 999 permutations unless --permutations says otherwise. "
        "Patients must be independent: compare those of one scanner at a time where scanners work in sessions.",
    ),
]
PermutationsOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=int(TestOptions.get_bounds("permutations").max),
        help="Permutations of the test, such as 1000; 0 for no test.",
    ),
]
WildBootstrapOption = Annotated[
    bool, typer.Option("--wild-bootstrap", help="Draw random signs for pairs of rows instead of permutations.")
]
AggregatedOption = Annotated[
    bool, typer.Option("--aggregated", help="Also test over a grid of bandwidths, which needs no choice of one.")
]
TimeoutOption = Annotated[float, typer.Option(metavar="X", min=0.001, help="Seconds to wait for the result.")]
LocalOption = Annotated[
    bool, typer.Option("--local", help="Compute in a process of this machine instead of a service (extra `mmd`).")
]


def mmd(
    a: SampleArgument,
    b: SampleArgument,
    *,
    paired: PairedOption = False,
    independent: IndependentOption = False,
    reference: ReferenceOption = None,
    sigma: SigmaOption = None,
    bandwidth: BandwidthOption = None,
    kernel: KernelOption = "gaussian",
    estimator: EstimatorOption = None,
    precision: PrecisionOption = None,
    frequencies: FrequenciesOption = 0,
    layer: LayerOption = None,
    measure: MeasureOption = "",
    first: FirstOption = 0,
    permutations: PermutationsOption = 0,
    wild_bootstrap: WildBootstrapOption = False,
    aggregated: AggregatedOption = False,
    level: LevelOption = 0.95,
    seed: SeedOption = 0,
    timeout: TimeoutOption = TIMEOUT_S,
    local: LocalOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare two samples of features, layer by layer.

    Give either --paired or --independent, because the pairing decides which estimator is unbiased, and one of
    --reference, --sigma, --bandwidth pooled_median and --first. Arrays that are too large for one message are uploaded,
    and the service deletes them after a day.
    """
    options = ComputeOptions.from_fields(
        pairing=_to_pairing(paired=paired, independent=independent),
        layers=tuple(layer or ()),
        interval_level=level,
        frequencies=frequencies,
        kernel=_to_kernel(kernel, bandwidth, sigma, has_reference=reference is not None or first > 0),
        measures=tuple(_choose(name, Measure, "--measure") for name in measure.split(",") if measure),
        estimator=None if estimator is None else _choose(estimator, Estimator, "--estimator"),
        precision=None if precision is None else _choose(precision, Precision, "--precision"),
        first_groups=first,
        test=_to_test(
            permutations or (FIRST_PERMUTATIONS if first else 0),
            seed,
            aggregated=aggregated,
            wild_bootstrap=wild_bootstrap,
        ),
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
    environment: Mapping[str, str] = {}
    stored = {field: text for field, text in samples.items() if not text.endswith(NPY)}
    for field, text in stored.items():
        parse_sample(text, _NAMES[field])
    if stored:
        environment = Target.find(StateDirectory(home)).get_store_environment()
    with View(output) as view:
        view.show_bar("mmd", "comparing", None)
        return compare_in_subprocess(options, samples, environment, timeout_s)


def _choose(text: str, choices: Any, option: str) -> Any:
    """Returns a text that is one of the values of a `Literal`; raises `BadOption` for another one."""
    return parse_choice(text, get_args(choices), option)


def _to_pairing(*, paired: bool, independent: bool) -> Pairing:
    if paired == independent:
        raise BadOption(
            "give exactly one of --paired and --independent",
            field="pairing",
            remedy="use --paired for the same cases before and after, --independent for different cases",
        )
    return "paired" if paired else "independent"


def _to_test(permutations: int, seed: int, *, aggregated: bool, wild_bootstrap: bool) -> TestOptions:
    if permutations == 0:
        if aggregated or wild_bootstrap:
            raise BadOption(
                "belongs to the test, and without --permutations there is none",
                field="--aggregated or --wild-bootstrap",
                remedy="add --permutations 1000, or remove the option",
            )
        return TestOptions()
    method: TestMethod = "wild_bootstrap" if wild_bootstrap else "permutation"
    return TestOptions(permutations=permutations, seed=seed, aggregated=aggregated, method=method)


def _to_kernel(kernel: str, bandwidth: str | None, sigma: float | None, *, has_reference: bool) -> Kernel:
    family = _choose(kernel, KernelFamily, "--kernel")
    if sigma is not None and not 1e-100 <= sigma <= 1e100:
        raise BadOption("out of range", field="--sigma", remedy="choose a number from 1e-100 to 1e100")
    if kernel in _WITHOUT_BANDWIDTH:
        if bandwidth is not None or sigma is not None:
            raise BadOption(
                f"the {kernel} kernel has no bandwidth", field="--kernel", remedy="remove --sigma and --bandwidth"
            )
        return Kernel(family=family)
    rule = _choose(bandwidth or ("reference_median" if sigma is None else "fixed"), BandwidthRule, "--bandwidth")
    if rule == "reference_median" and not has_reference:
        raise BadOption(
            "there is no reference to take the bandwidth from",
            field="--bandwidth",
            remedy="give --reference (features of the training split before fine-tuning), --sigma, or "
            "--bandwidth pooled_median, whose values fit a test but cannot be ranked",
        )
    if (rule == "fixed") != (sigma is not None):
        raise BadOption(
            "fixed needs --sigma, and a median takes none", field="--bandwidth", remedy="remove one of the two options"
        )
    return Kernel(family=family, bandwidth_rule=rule, fixed_sigma=sigma or 0.0)
