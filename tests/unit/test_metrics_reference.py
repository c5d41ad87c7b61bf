"""docs/metrics-reference.md is what `make docs` writes, and each service exports what it says.

The processes that import a service also show that it defers the imports of slow packages that only some requests need.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITH_DATABASE = {"finetuning", "monitoring"}
DEFERRED = {
    "features": {"matplotlib", "monai", "scipy.stats"},
    "mmd": {"matplotlib", "monai", "scipy.stats", "triton"},
    "finetuning": {"kubernetes", "matplotlib", "scipy.optimize", "scipy.stats", "torch"},
    "monitoring": {"kubernetes", "matplotlib", "scipy", "torch"},
}
# What a service exports before it has done anything, with the names of families.
EXPORT = """
import importlib, json, sys
from vfmalign.core.runtime import metrics
importlib.import_module(f"vfmalign.{sys.argv[1]}.__main__")
modules = [*sys.modules]
metrics.announce_build()
metrics.grpc_started.labels("unary", "s", "m").inc()
families = list(metrics.REGISTRY.collect())
samples = [sample.name for one in families for sample in one.samples]
print(json.dumps([[one.name for one in families], samples, modules]))
"""


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("metrics_reference", ROOT / "docs/generate_metrics_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(generator: ModuleType) -> None:
    assert (ROOT / "docs/metrics-reference.md").read_text() == generator.render(), "run `make docs`"


@pytest.mark.parametrize("service", DEFERRED)
def test_a_service_exports_its_own_metrics_alone_and_defers_slow_imports(service: str, generator: ModuleType) -> None:
    command = [sys.executable, "-c", EXPORT, service]
    families, samples, modules = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert DEFERRED[service] & set(modules) == set()
    expected = {
        metric._name
        for title, (module, _) in generator.SECTIONS.items()
        if title in {"All services", service} or (title == "Services with a database" and service in WITH_DATABASE)
        for metric in generator.list_metrics(module)
    }
    assert {name for name in families if not name.startswith(("process_", "python_"))} == expected
    assert ("vfmalign_orchestrator_leader" in samples) == (service in WITH_DATABASE)
    assert "grpc_server_started_total" in samples
    assert [name for name in samples if name.endswith("_created")] == []
    assert [name for name in samples if name.startswith(("vfmalign_store", "vfmalign_gpu"))] == []
