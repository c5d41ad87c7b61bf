"""Two orchestrators on one database, killed and stopped at random: nothing runs twice, and no number changes.

`FAULT_RUNS=50` repeats this with as many seeds.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from tests.faults.history import assert_nothing_ran_twice
from tests.faults.orchestrators import Pair, Start, get_job_command, start_pair
from tests.integration.finetuning.peers import Peers, store_inputs

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.keys import check_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.checks.repository import CheckRepository

RUNS = int(os.environ.get("FAULT_RUNS", "2"))
MOST_FAULTS = 5
CHECK = "disturbed"
# With two recipes, so that a fault may also come while one is chosen, and while trainings take the results of trials.
SPEC = CheckSpec(
    model_id="vfm", dataset_id="demo", task="segmentation", seed=1, seeds=1,
    recipe=Recipe(preset="demo", epochs=6, steps_per_epoch=10),
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(store_settings, tmp_path_factory, python) -> CheckReport:
    """The report of the same check with no fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(folder, f"sqlite:///{folder / 'finetuning.db'}", store_settings, python, seed=0, faults=0)


def run(folder: Path, url: str, settings: StoreSettings, start: Start, *, seed: int, faults: int) -> CheckReport:
    """Runs one check in a bucket and a database of its own; returns its report."""
    settings = settings.model_copy(update={"bucket": f"faults-{uuid.uuid4().hex[:12]}"})
    store = ObjectStore(settings)
    store.ensure_bucket()
    store_inputs(store)
    peers = Peers(store)
    environment = {
        "AWS_ENDPOINT_URL_S3": settings.endpoint,
        "AWS_ACCESS_KEY_ID": settings.access_key,
        "AWS_SECRET_ACCESS_KEY": settings.secret_key.get_secret_value(),
        "VFMALIGN_BUCKET": settings.bucket,
        "VFMALIGN_FEATURES_ADDRESS": f"127.0.0.1:{peers.port}",
        "VFMALIGN_MMD_ADDRESS": f"127.0.0.1:{peers.port}",
        "VFMALIGN_LAUNCHER__COMMAND": get_job_command("light"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        "TEST_FOLDER": str(folder),
    }
    pair = start_pair(folder, url, environment, seed, start)
    try:
        CheckRepository(pair.database).create(CHECK, SPEC)
        check = pair.wait(CHECK, faults=faults)
        assert check.state == "succeeded", check.failure
        assert_nothing_ran_twice(pair.database, folder / "processes", CHECK)
        _print(pair)
        assert check.report is not None
        data = store.get(check_key(CHECK, "report.json"), sha256=check.report.json_ref.sha256)
        store.get(check_key(CHECK, "report.html"), sha256=check.report.html_ref.sha256)
        return CheckReport.model_validate_json(data)
    finally:
        pair.end()
        pair.database.close()
        peers.stop()


def _print(pair: Pair) -> None:
    takeovers = pair.first.events("leading") + pair.second.events("leading")
    lost = pair.first.events("lease_lost") + pair.second.events("lease_lost")
    print(f"faults={dict(pair.counts)} terms={takeovers} lost={lost}")


@pytest.mark.parametrize("seed", range(RUNS))
def test_random_faults_run_nothing_twice_and_change_no_number(
    seed, tmp_path, request, store_settings, python, undisturbed
):
    url = f"sqlite:///{tmp_path / 'finetuning.db'}" if seed % 2 else request.getfixturevalue("postgres_database")
    report = run(tmp_path, url, store_settings, python, seed=seed, faults=MOST_FAULTS)
    assert report.result == undisturbed.result
    assert report.result_digest == undisturbed.result_digest
