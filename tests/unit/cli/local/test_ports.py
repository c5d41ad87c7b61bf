"""Ports of a stack's services: which are kept, and what happens where one is taken."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmalign.cli.local.ports import PortChoice, free_ports, number_ports
from vfmalign.cli.local.state_directory import ServicePorts, StateDirectory
from vfmalign.core.domain.errors import BadOption, Unavailable

SERVICES = ("features", "mmd")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def list_ports(ports: dict[str, ServicePorts]) -> list[int]:
    return [port for each in ports.values() for port in each.model_dump().values()]


def test_new_services_get_different_free_ports_and_others_keep_theirs() -> None:
    kept = number_ports(["mmd"], free_ports(1)[0])
    chosen = PortChoice().choose(SERVICES, kept)
    assert chosen["mmd"] == kept["mmd"]
    assert len(set(list_ports(chosen))) == 6
    assert list(chosen) == list(SERVICES)


def test_a_first_port_numbers_apis_before_metrics_and_health() -> None:
    chosen = number_ports(SERVICES, 9001)
    assert chosen["features"] == ServicePorts(grpc=9001, metrics=9003, health=9005)
    assert chosen["mmd"] == ServicePorts(grpc=9002, metrics=9004, health=9006)


@pytest.mark.parametrize("source", ["kept", "first"])
def test_a_taken_port_is_an_error_that_names_it(taken: int, source: str) -> None:
    kept = {"mmd": ServicePorts(grpc=taken, metrics=1, health=2)} if source == "kept" else {}
    with pytest.raises(Unavailable) as caught:
        PortChoice(taken if source == "first" else 0).choose(["mmd"], kept)
    assert caught.value.subject == "mmd"
    assert f"port {taken} is taken" in caught.value.message
    assert "--any-port" in caught.value.remedy


def test_any_port_replaces_the_ports_of_the_one_service_that_lacks_its_own(taken: int) -> None:
    free = number_ports(["features"], free_ports(1)[0])
    kept = free | {"mmd": ServicePorts(grpc=taken, metrics=1, health=2)}
    chosen = PortChoice(any=True).choose(SERVICES, kept)
    assert chosen["features"] == kept["features"]
    assert not set(list_ports(chosen)) & {taken, 1, 2}


def test_a_folder_keeps_the_ports_of_services_that_do_not_run(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    assert directory.read_ports() == {}
    directory.write_ports(number_ports(SERVICES, 9001))
    directory.write_ports(number_ports(["mmd"], 9101))
    assert directory.read_ports() == {
        "features": ServicePorts(grpc=9001, metrics=9003, health=9005),
        "mmd": ServicePorts(grpc=9101, metrics=9102, health=9103),
    }


@pytest.mark.parametrize("content", ["", "[]", '{"mmd": {"grpc": 70000, "metrics": 1, "health": 2}}'])
def test_a_file_without_ports_is_refused_with_an_example(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    with pytest.raises(BadOption, match="does not contain valid ports") as caught:
        StateDirectory(tmp_path).read_ports()
    assert '"grpc": 8001' in caught.value.remedy
