"""`vfmalign up --only mmd`: a stack of one service, without object storage, and what its commands say."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.integration.cli.commands import INTERRUPTED, TIMEOUT_S, Cli, wait_until

from vfmalign.cli import exits
from vfmalign.cli.local.ports import free_ports
from vfmalign.v1 import common_pb2, mmd_pb2, mmd_pb2_grpc


def test_status_shows_one_service_and_no_store(mmd_alone: Cli) -> None:
    document = mmd_alone.call("status", "--json").document
    assert document["serving"]
    assert document["health"] == {"mmd": "serving"}
    assert document["store"] is None
    assert not any(mmd_alone.home.s3.iterdir())


def test_doctor_skips_what_does_not_run(mmd_alone: Cli) -> None:
    steps = {step["name"]: step for step in mmd_alone.call("doctor", "--json").document["steps"]}
    assert steps["mmd"]["outcome"] == "ok"
    for name in ("s3", "features", "finetuning", "monitoring"):
        assert (steps[name]["outcome"], steps[name]["detail"]) == ("skipped", "the stack is only mmd")


def test_mmd_compares_arrays_and_refuses_those_that_need_an_upload(mmd_alone: Cli) -> None:
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    np.save(mmd_alone.folder / "x.npy", x)
    np.save(mmd_alone.folder / "y.npy", x + 1)
    np.save(mmd_alone.folder / "large.npy", np.zeros((2**21, 4), np.float32))
    arguments = ("--paired", "--sigma", "1", "--json")
    error = mmd_alone.call("mmd", "x.npy", "y.npy", *arguments, "--layer", "x", code=exits.BAD_INPUT).document["error"]
    assert (error["subject"], error["message"]) == ("--layer", "`x` has no layer `x`")
    answer = mmd_alone.call("mmd", "x.npy", "y.npy", *arguments).document
    assert answer["layers"][0]["raw"]["mmd2"]["value"] > 0
    error = mmd_alone.call("mmd", "large.npy", "large.npy", *arguments, code=exits.BAD_INPUT).document["error"]
    assert "start the local stack without --only" in error["remedy"]


def test_the_address_alone_makes_a_deployment_as_docs_api_says(mmd_alone: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    state = mmd_alone.home.read()
    monkeypatch.setenv("VFMALIGN_MMD_ADDRESS", state.services["mmd"].ports.address)
    monkeypatch.setenv("VFMALIGN_TOKEN_FILE", str(state.token_file))
    np.save(mmd_alone.folder / "z.npy", np.eye(8, dtype=np.float32))
    mmd_alone.call("mmd", "z.npy", "z.npy", "--paired", "--sigma", "1")
    error = mmd_alone.call("jobs", "list", "--json", code=exits.BAD_INPUT).document["error"]
    assert "set VFMALIGN_FINETUNING_ADDRESS" in error["remedy"]
    steps = {step["name"]: step["outcome"] for step in mmd_alone.call("doctor", "--json").document["steps"]}
    assert (steps["mmd"], steps["s3"], steps["features"]) == ("ok", "skipped", "skipped")


@pytest.mark.parametrize("command", [("jobs", "list"), ("models", "list"), ("dataset", "phantoms", "--id", "d1")])
def test_commands_of_other_services_say_how_to_start_them(mmd_alone: Cli, command: tuple[str, ...]) -> None:
    done = mmd_alone.call(*command, "--json", code=None)
    assert done.code != exits.OK
    assert "the local stack runs only some services" in done.document["error"]["remedy"]


def test_a_whole_stack_is_not_taken_for_it(mmd_alone: Cli) -> None:
    assert "already running" in mmd_alone.call("up", "--only", "mmd", "--detach").err
    error = mmd_alone.call("up", "--detach", "--json", code=exits.BAD_INPUT).document["error"]
    assert "a stack with other services (mmd) already runs" in error["message"]
    error = mmd_alone.call("up", "--only", "features", "--json", code=exits.BAD_INPUT).document["error"]
    assert error["subject"] == "--only"


def test_ctrl_c_while_a_stack_starts_in_the_background_stops_it(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    process = cli.start("up", "--only", "mmd", "--detach")
    wait_until(lambda: cli.home.read().running, "the start of the supervisor")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in INTERRUPTED
    assert "stopped while starting" in err
    assert not cli.home.read().list_processes()
    assert not cli.home.read().running


def test_a_stack_keeps_its_token_and_ports_and_refuses_a_taken_one(
    tmp_path: Path, python: Callable[..., subprocess.Popen[str]]
) -> None:
    cli, port = Cli(tmp_path, python), free_ports(1)[0]
    started = cli.run("up", "--only", "mmd", "--detach", "--port", str(port), "--json").document
    assert started["services"]["mmd"]["address"] == f"127.0.0.1:{port}"
    error = cli.call("up", "--only", "mmd", "--detach", "--port", "9001", "--json", code=exits.BAD_INPUT).document[
        "error"
    ]
    assert f"a stack with other ports (127.0.0.1:{port}) already runs" in error["message"]
    token = Path(started["token_file"]).read_text()
    cli.run("down")
    with socket.create_server(("127.0.0.1", port)):
        refused = cli.run("up", "--only", "mmd", "--detach", "--json", code=exits.UNAVAILABLE).document["error"]
        elsewhere = cli.run("up", "--only", "mmd", "--detach", "--any-port", "--json").document
        cli.run("down")
    assert f"port {port} is taken by another process" in refused["message"]
    assert "--any-port" in refused["remedy"]
    assert elsewhere["services"]["mmd"]["address"] != f"127.0.0.1:{port}"
    again = cli.run("up", "--only", "mmd", "--detach", "--json").document
    cli.run("down")
    assert again["services"] == {"mmd": started["services"]["mmd"] | {"pid": again["services"]["mmd"]["pid"]}}
    assert Path(again["token_file"]).read_text() == token


@pytest.mark.parametrize("field", ["feature_set_id", "uploaded"])
def test_a_request_by_reference_says_that_there_is_no_object_storage(mmd_alone: Cli, field: str) -> None:
    state = mmd_alone.home.read()
    assert state.token_file is not None
    source = (
        mmd_pb2.FeatureSource(feature_set_id="f1")
        if field == "feature_set_id"
        else mmd_pb2.FeatureSource(
            uploaded=mmd_pb2.UploadedFeatures(object=common_pb2.ObjectRef(uri="s3://b/x", sha256="0" * 64))
        )
    )
    request = mmd_pb2.ComputeRequest(x=source, y=source, pairing=mmd_pb2.PAIRING_PAIRED)
    request.kernel.fixed_sigma = 1.0
    metadata = (("authorization", f"Bearer {state.token_file.read_text()}"),)
    with grpc.insecure_channel(state.services["mmd"].ports.address) as channel:
        stub = mmd_pb2_grpc.MmdServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Compute(request, metadata=metadata, timeout=30)
        file = common_pb2.FileContent(sha256="0" * 64, size_bytes=1)
        with pytest.raises(grpc.RpcError) as upload:
            stub.CreateUpload(mmd_pb2.CreateUploadRequest(file=file), metadata=metadata, timeout=30)
        assert upload.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.RpcError) as without_token:
            stub.Compute(request, timeout=30)
    assert without_token.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    trailers = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    infos = [error_details_pb2.ErrorInfo.FromString(one.value) for one in status.details if "ErrorInfo" in one.type_url]
    (info,) = infos
    assert info.reason == "NO_OBJECT_STORAGE"
    assert info.metadata["subject"] == f"x.{field}"
    assert "AWS_ENDPOINT_URL_S3" in info.metadata["remedy"]
