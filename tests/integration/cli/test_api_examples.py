"""The pages show or link the files of examples/, and each that can run here gets its answer from a real service.

Those of monitors run in tests/integration/monitoring/test_examples.py.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.integration.cli.commands import TIMEOUT_S, Cli

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
PAGES = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
SHOWN = dict(re.findall(r"^\[`examples/([^`]+)`\][^\n]*\n\n```\w*\n(.*?)^```$", PAGES, re.MULTILINE | re.DOTALL))
LINKED = set(re.findall(r"\]\(\.\./examples/([^)]+)\)", PAGES))
X = ((0, 0), (1, 0), (0, 1), (1, 1))
Y = ((2, 0), (3, 0), (2, 1), (3, 1))
GO_PACKAGES = Path("/usr/share/gocode")
"""Folder of Debian's packages of Go."""
GRPC_GO = GO_PACKAGES / "src/google.golang.org/grpc/clientconn.go"
PROGRAMS = Path(sys.executable).parent
"""Programs of the environment, such as buf."""


def kernel(a: Sequence[float], b: Sequence[float]) -> float:
    """Gaussian kernel with σ = 1."""
    return math.exp(-(math.dist(a, b) ** 2) / 2)


def mmd2() -> float:
    """The unbiased estimate of independent samples, by its formula in float64."""
    within = [sum(kernel(a, b) for a in s for b in s if a is not b) / (len(s) * (len(s) - 1)) for s in (X, Y)]
    return sum(within) - 2 * sum(kernel(a, b) for a in X for b in Y) / (len(X) * len(Y))


def run_example(stack: Cli, *command: str, token_file: Path | None = None) -> str:
    """Runs an example with the address and the token of a stack."""
    state = stack.home.read()
    return run_program(state.services["mmd"].ports.address, token_file or state.token_file, *command)


def run_program(address: str, token_file: Path, *command: str) -> str:
    """Runs an example in the root of the repository, as the page says, and returns what it prints."""
    environment = {
        **os.environ,
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "VFMALIGN_MMD_ADDRESS": address,
        "VFMALIGN_TOKEN_FILE": str(token_file),
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_value(text: str, name: str) -> float:
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


def test_the_pages_show_or_link_every_example() -> None:
    command = ["git", "ls-files", "--others", "--cached", "--exclude-standard", "."]
    listed = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=True).stdout.split()
    assert set(listed) == LINKED  # a block that shows an example follows its link
    assert {"python/typed_client.py", "python/plain_grpc.py", "node/compute.js", "shell/buf-curl.sh"} <= SHOWN.keys()
    for name, text in SHOWN.items():
        assert (EXAMPLES / name).read_text() == text, f"a page shows another examples/{name}"


def test_the_request_in_json_holds_the_samples_of_the_programs() -> None:
    request = json.loads((EXAMPLES / "request.json").read_text())
    for field, rows in (("x", X), ("y", Y)):
        tensor = request[field]["inline"]["layers"][0]["features"]
        values = np.frombuffer(base64.b64decode(tensor["data"]), "<f4").reshape(tensor["shape"])
        assert values.tolist() == [list(row) for row in rows]


def test_the_library_needs_no_service() -> None:
    command = [sys.executable, EXAMPLES / "python/library.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout
    assert read_value(printed, "MMD²") == pytest.approx(mmd2(), abs=1e-6)
    assert 0 < read_value(printed, "p") <= 1


@pytest.mark.parametrize("name", ["typed_client", "plain_grpc"])
def test_python(mmd_alone: Cli, name: str) -> None:
    printed = run_example(mmd_alone, sys.executable, f"examples/python/{name}.py")
    assert read_value(printed, "MMD²") == pytest.approx(mmd2(), abs=1e-6)
    assert 0 < read_value(printed, "p") <= 1
    assert re.search(r"NO_OBJECT_STORAGE \| x.feature_set_id \| send the features inline", printed)


def without_test(program: str, test: str, mmd_alone: Cli, tmp_path: Path) -> tuple[str, Path]:
    """Returns an example without its test, and a token file that ends in a newline."""
    text = (EXAMPLES / program).read_text()
    assert test in text
    (tmp_path / "token").write_text(f"{mmd_alone.home.read().token_file.read_text()}\n")
    return text.replace(test, ""), tmp_path / "token"


def test_python_prints_no_p_value_that_was_not_requested(mmd_alone: Cli, tmp_path: Path) -> None:
    line = "    test=mmd_pb2.TestOptions(permutations=99, seed=1),\n"
    program, token_file = without_test("python/plain_grpc.py", line, mmd_alone, tmp_path)
    printed = run_example(mmd_alone, sys.executable, "-c", program, token_file=token_file)
    assert read_value(printed, "MMD²") == pytest.approx(mmd2(), abs=1e-6)
    assert "p absent: no test was requested" in printed


def test_node(mmd_alone: Cli, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (EXAMPLES / "node/node_modules").is_dir():
        pytest.skip("the packages of the example are not installed: run `npm install` in examples/node")
    printed = run_example(mmd_alone, "node", "examples/node/compute.js")
    assert read_value(printed, "MMD²") == pytest.approx(mmd2(), abs=1e-6)
    assert 0 < read_value(printed, "p") <= 1
    assert "FAILED_PRECONDITION | x.feature_set_id: " in printed
    program, token_file = without_test("node/compute.js", ", test: { permutations: 99, seed: 1 }", mmd_alone, tmp_path)
    folder = tmp_path / "examples/node"
    folder.mkdir(parents=True)
    (folder / "compute.js").write_text(program)
    (folder / "node_modules").symlink_to(EXAMPLES / "node/node_modules")
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    printed = run_example(mmd_alone, "node", str(folder / "compute.js"), token_file=token_file)
    assert "p absent: no test was requested" in printed


def build_go(folder: Path) -> str:
    """Builds the example with Debian's packages, which need no module proxy, and returns the path of the program."""
    if not all(shutil.which(program) for program in ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")):
        pytest.skip("go, protoc or its plugins are not installed (see .ci/run)")
    if not GRPC_GO.is_file() or "func NewClient(" not in GRPC_GO.read_text():
        pytest.skip("grpc-go 1.63 or later is not installed (Debian 13: golang-google-grpc-dev)")
    sources = folder / "src"
    program = sources / "example.com/vfmalign/first"
    program.mkdir(parents=True)
    protos = [f"vfmalign/v1/{name}.proto" for name in ("bounds", "common", "mmd")]
    subprocess.run(
        ["protoc", f"-I{ROOT / 'proto'}", f"--go_out={sources}", f"--go-grpc_out={sources}", *protos], check=True
    )
    shutil.copy(EXAMPLES / "go/main.go", program)
    variables = {
        "GOPATH": f"{folder}{os.pathsep}{GO_PACKAGES}",
        "GO111MODULE": "off",
        "GOCACHE": os.environ.get("GOCACHE") or str(Path.home() / ".cache/go-build"),
    }
    command = ["go", "build", "-o", folder / "first", "example.com/vfmalign/first"]
    subprocess.run(command, env={**os.environ, **variables}, check=True)
    return str(folder / "first")


def test_go(mmd_alone: Cli, tmp_path: Path) -> None:
    printed = run_example(mmd_alone, build_go(tmp_path))
    assert read_value(printed, "MMD²") == pytest.approx(mmd2(), abs=1e-6)
    assert 0 < read_value(printed, "p") <= 1
    assert "FailedPrecondition NO_OBJECT_STORAGE | x.feature_set_id | send the features inline" in printed


@pytest.mark.parametrize("program", ["buf", "grpcurl"])
def test_command_lines(mmd_alone: Cli, program: str) -> None:
    if shutil.which(program, path=f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}") is None:
        pytest.skip(f"{program} is not installed")
    script = "buf-curl" if program == "buf" else program
    response = json.loads(run_example(mmd_alone, "bash", f"examples/shell/{script}.sh"))
    assert response["layers"][0]["raw"]["mmd2"]["value"] == pytest.approx(mmd2(), abs=1e-6)
