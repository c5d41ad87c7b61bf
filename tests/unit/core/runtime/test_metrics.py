"""Metrics: their names, and stages that add up."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import generate_latest

from vfmalign.core.rpc.call_metrics import register_methods
from vfmalign.core.runtime import metrics


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_the_names_are_those_that_dashboards_know() -> None:
    metrics.announce_build()
    metrics.announce_build()  # a second server in one process
    text = generate_latest(metrics.REGISTRY).decode()
    for name, kind in {
        "grpc_server_started_total": "counter",
        "grpc_server_handled_total": "counter",
        "grpc_server_handling_seconds": "histogram",
        "vfmalign_stage_seconds": "histogram",
        "vfmalign_queue_depth": "gauge",
        "vfmalign_gpu_memory_used_bytes": "gauge",
        "vfmalign_build_info": "gauge",
        "vfmalign_store_failures_total": "counter",
        "vfmalign_store_seconds": "histogram",
        "process_cpu_seconds_total": "counter",
    }.items():
        assert f"# TYPE {name} {kind}\n" in text


def test_methods_exist_before_their_first_call() -> None:
    register_methods({"test.Kitchen": [("Bake", False), ("Watch", True)]})
    call = {"grpc_service": "test.Kitchen", "grpc_method": "Watch", "grpc_type": "server_stream"}
    assert value("grpc_server_started_total", **call) == 0
    assert value("grpc_server_handling_seconds_count", **call) == 0
    for code in ("OK", "UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"):
        assert value("grpc_server_handled_total", **call, grpc_code=code) == 0
    assert value("grpc_server_started_total", **call | {"grpc_method": "Bake", "grpc_type": "unary"}) == 0


def test_a_stage_is_measured_also_where_it_fails() -> None:
    before = value("vfmalign_stage_seconds_count", stage="test.fails") or 0
    with pytest.raises(ValueError, match="burnt"), metrics.stage("test.fails") as timing:
        raise ValueError("burnt")
    assert timing.seconds > 0
    assert value("vfmalign_stage_seconds_count", stage="test.fails") == before + 1


def test_stages_of_threads_add_up_in_order_of_first_use() -> None:
    stages = metrics.Stages(prefix="test.")
    first = stages.stage("first")
    with first:
        pass

    def work() -> None:
        for _ in range(200):
            with stages.stage("second"):
                pass

    before = value("vfmalign_stage_seconds_count", stage="test.second") or 0
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(stages.seconds()) == ["first", "second"]
    assert all(seconds > 0 for seconds in stages.seconds().values())
    assert value("vfmalign_stage_seconds_count", stage="test.second") == before + 800


def test_times_measured_elsewhere_are_added() -> None:
    stages = metrics.Stages()
    stages.add({"load": 2.0, "train": 1.0})
    stages.add({"train": 3.0})
    with stages.stage("load"):
        pass
    found = stages.seconds()
    assert found["train"] == 4.0
    assert found["load"] > 2.0
