"""`vfmalign mmd`: samples, pairing and options that are refused before anything is computed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vfmalign.cli import arrays, exits
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain import errors
from vfmalign.mmd.service.feature_reader import get_missing_store


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(errors.BadTensor, match="without unpickling"):
        arrays.parse_sample(str(tmp_path / "evil.npy"), "X")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(errors.BadTensor, match="1 axes"):
        arrays.parse_sample(str(tmp_path / "flat.npy"), "X")
    np.save(tmp_path / "empty.npy", np.zeros((0, 8)))
    with pytest.raises(errors.BadTensor, match="the array of 0 rows and 8 channels is empty"):
        arrays.parse_sample(str(tmp_path / "empty.npy"), "X")
    with pytest.raises(errors.BadOption, match=r"archives .* are not supported"):
        arrays.parse_sample("arrays.npz", "X")
    np.save(tmp_path / "nan.npy", np.array([[0, 1], [2, np.nan]]))
    with pytest.raises(errors.BadTensor, match=r"row 1 \(from 0\) contains NaN"):
        arrays.parse_sample(str(tmp_path / "nan.npy"), "X")
    with pytest.raises(errors.BadOption, match="no such file"):
        arrays.parse_sample(str(tmp_path / "gone.npy"), "X")


def test_a_feature_set_may_name_the_digest_of_its_manifest() -> None:
    assert arrays.parse_sample("a" * 32, "A") == "a" * 32
    assert arrays.parse_sample(f"{'a' * 32}@{'b' * 64}", "A") == StoredFeatureSet("a" * 32, "b" * 64)
    for wrong in ("a" * 32 + "@", f"{'a' * 32}@{'b' * 63}", f"{'a' * 32}@{'g' * 64}"):
        with pytest.raises(errors.BadOption, match="neither the id"):
            arrays.parse_sample(wrong, "A")


@pytest.mark.parametrize(
    ("local", "words"), [(None, "ask an operator to give"), ("a stack", "start the local stack without --only")]
)
def test_an_array_too_large_for_a_message_needs_a_service_with_a_store(local: object, words: str) -> None:
    def refuse(_: object) -> None:
        raise get_missing_store("file")

    target, said = SimpleNamespace(local=local, run=refuse), []
    with pytest.raises(errors.BadTensor, match=r"a message of 34\.3 MiB; the limit is 16 MiB") as caught:
        arrays.upload_large_samples(dict.fromkeys("AB", np.zeros((1500, 1500))), target, said.append)
    assert words in caught.value.remedy
    assert "--local" in caught.value.remedy
    assert said == ["uploading A (17.2 MiB): the arrays are too large for one message"]


@pytest.mark.parametrize("local", [(), ("--local",)], ids=str)
def test_the_first_wrong_sample_of_a_comparison_is_named(invoke, local: tuple[str, ...]) -> None:
    for arguments in (("a@zz", "b@zz"), ("a.npz", "b.npz")):
        code, _, err = invoke("mmd", *arguments, "--paired", "--sigma", "1", *local)
        assert code == exits.BAD_INPUT
        assert err.startswith("error: A: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--set", "kernel.family=cosine"),
            "'cosine' is not a value of kernel.family\n  → choose gaussian, gaussian_mix",
        ),
        (("--sigma", "0"), "--sigma: out of range\n  → choose a number from 1e-100 to 1e100"),
        (("--sigma", "-1"), "choose a number from 1e-100 to 1e100"),
        (("--sigma", "nan"), "choose a number from 1e-100 to 1e100"),
        (("--sigma", "1", "--set", "estimator=best"), "--set: 'best' is not a value of estimator\n  → choose biased"),
        (("--sigma", "1", "--set", "precision=float32"), "choose fast, high or exact"),
        (("--sigma", "1", "--set", "precision=high", "--set", "precision=fast"), "use precision=VALUE once"),
        (
            ("--set", "kernel.bandwidth_rule=fixed"),
            "kernel.bandwidth_rule: neither a reference nor a bandwidth is given",
        ),
        (("--set", "kernel.family=linear", "--sigma", "1"), "has no bandwidth"),
        (
            (),
            "give --reference (features of the training split before fine-tuning), --sigma, or --set kernel.bandwidth",
        ),
        (("--set", "kernel.bandwidth_rule=reference_median"), "neither a reference nor a bandwidth is given"),
        (("--sigma", "1", "--set", "test.aggregated=true"), "add --permutations 1000"),
        (("--sigma", "1", "--set", "test.aggregated=maybe"), "choose true or false"),
        (
            ("--sigma", "1", "--set", "measures=energy,logme"),
            "'logme' is not a value of measures\n  → choose cka, frechet",
        ),
        (
            ("--sigma", "1", "--set", "measure=energy"),
            "choose one of estimator, precision, frequencies, measures, kernel",
        ),
    ],
)
def test_options_of_a_comparison_that_mean_nothing(invoke, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = invoke("mmd", "a" * 32, "b" * 32, "--paired", *arguments)
    assert code == exits.BAD_INPUT
    assert words in err


@pytest.mark.parametrize("pairing", [(), ("--paired", "--independent")], ids=str)
def test_a_comparison_needs_exactly_one_pairing(invoke, pairing: tuple[str, ...]) -> None:
    code, _, err = invoke("mmd", "a" * 32, "b" * 32, *pairing)
    assert code == exits.BAD_INPUT
    assert "give exactly one of --paired and --independent" in err
    assert "same cases before and after" in err
