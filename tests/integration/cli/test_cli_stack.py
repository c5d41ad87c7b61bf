"""The local stack through its commands: who may use it, and short operations on it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from tests.integration.cli.commands import Cli, interrupt, run_stack
from tests.preloaded import get_command
from tests.unit.imaging.datasets.brain_files import Files, lay_out_decathlon, make_case

from vfmalign.cli import exits
from vfmalign.cli.local.stack import SERVICES
from vfmalign.cli.local.tokens import OWNER, TokenFiles, renew
from vfmalign.cli.target import Target
from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.imaging.volumes import encode
from vfmalign.models.registry import get_architecture

NAME = "SURNAME^GIVEN_1234567"


@pytest.fixture(scope="module")
def cli(
    tmp_path_factory: pytest.TempPathFactory, python: Callable[..., subprocess.Popen[str]], python_server: Path
) -> Iterator[Cli]:
    """A stack that `vfmalign up --detach` started. Each command runs as a process once, and otherwise in this one."""
    with pytest.MonkeyPatch.context() as patch:
        # All trainings are cancelled, and the start of one takes seconds of a core.
        patch.setenv("VFMALIGN_LAUNCHER__MAX_RUNNING", "1")
        command = get_command(python_server, ["-m", "vfmalign.training"])
        patch.setenv("VFMALIGN_LAUNCHER__COMMAND", json.dumps(command))
        with run_stack(tmp_path_factory.mktemp("cli")) as stack:
            yield Cli(stack.folder, python)


@pytest.fixture(scope="module")
def model(cli: Cli) -> str:
    """A foreign checkpoint of random weights, imported."""
    torch.manual_seed(0)
    state = get_architecture("profound_conv_micro").build().state_dict()
    torch.save({"model": state, "epoch": 3}, cli.folder / "foreign.pth")
    done = cli.run("models", "import", "foreign.pth", "--as", "profound_conv_micro", "--id", "m1", "--json")
    assert done.document["model_id"] == "m1"
    assert "dropped epoch" in done.document["imported"]
    return "m1"


@pytest.fixture(scope="module")
def dataset(cli: Cli) -> str:
    """A few phantoms."""
    counts = ("--cases", "pretrain=0", "--cases", "train=2", "--cases", "val=1", "--cases", "test=3")
    done = cli.run("dataset", "phantoms", "--id", "d1", "--seed", "5", *counts, "--json")
    assert done.document["splits"]["test"] == {"cases": 3, "patients": 3}
    assert done.document["phantom"] is True
    return "d1"


def test_status_and_doctor_find_everything_well(cli: Cli) -> None:
    status = cli.run("status", "--json").document
    assert status["running"]
    assert status["health"] == dict.fromkeys(("s3", *SERVICES), "serving")
    assert status["store"].keys() == {"endpoint", "bucket", "pid", "restarts"}
    doctor = cli.run("doctor", "--json").document
    assert doctor["ok"], doctor
    assert [step["outcome"] for step in doctor["steps"]] == ["ok"] * 12
    details = {step["name"]: step["detail"] for step in doctor["steps"]}
    assert details["finetuning"].endswith("lists jobs and checks; leads")
    assert details["monitoring"].endswith("lists monitors; leads")
    assert details["tokens"] == (
        "admitted: that of finetuning by features, that of finetuning by mmd, that of finetuning by monitoring, "
        "that of features by monitoring, that of monitoring by mmd"
    )
    secrets = json.loads((cli.home.path / "state.json").read_text())["store"]
    assert (cli.home.path / "state.json").stat().st_mode & 0o777 == 0o600
    shown = json.dumps(status) + json.dumps(doctor)
    assert secrets["secret_key"] not in shown
    assert secrets["access_key"] not in shown
    for access_key, secret_key in secrets["service_keys"].values():
        assert access_key not in shown
        assert secret_key not in shown


@pytest.mark.parametrize(
    ("caller", "called", "consequence"),
    [
        ("finetuning", "features", "checks wait"),
        ("features", "monitoring", "observations do not reach their monitors"),
        ("monitoring", "mmd", "windows of monitors have no MMD²"),
    ],
)
def test_doctor_finds_a_service_whose_own_token_is_refused(
    cli: Cli, caller: str, called: str, consequence: str
) -> None:
    file = cli.home.tokens / caller / "token"
    token = file.read_text()
    head, claims, signature = token.split(".")
    file.write_text(f"{head}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}")
    try:
        done = cli.call("doctor", "--json", code=3)
    finally:
        file.write_text(token)
    assert done.document["failed"] == ["tokens"]
    step = done.document["steps"][-1]
    refusal = f"{called} refuses the token of {caller} (the token's signature is wrong), so {consequence}"
    assert refusal in step["detail"]
    assert "which replaces damaged tokens" in step["remedy"]
    assert signature[1:] not in done.out + done.err
    assert cli.call("doctor", "--json").document["ok"]


def test_tokens_are_their_owners_alone(cli: Cli) -> None:
    tokens = cli.home.tokens
    assert {path.name for path in tokens.iterdir()} == {"owner", *SERVICES}
    for path in (tokens, *tokens.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    shown = cli.call("whoami", "--json")
    document = shown.document
    assert (document["source"], document["subject"]) == ("owner of the local stack", "owner")
    assert {"researcher", "admin"} < set(document["roles"])
    token = (tokens / "owner" / "token").read_text()
    written = shown.out + shown.err + cli.call("doctor", "--json").out + (cli.home.path / "state.json").read_text()
    assert token not in written
    assert not [log for log in cli.home.path.rglob("*.log") if token in log.read_text(errors="replace")]


@pytest.mark.parametrize("token", ["", "x.y.z", "of another stack"])
def test_another_user_of_the_machine_gets_nothing(
    cli: Cli, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token == "of another stack":
        renew(tmp_path)
        token = TokenFiles.find(tmp_path, OWNER).token.read_text()
    monkeypatch.setenv("VFMALIGN_TOKEN", token)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name, service in cli.home.read().services.items():
        monkeypatch.setenv(f"VFMALIGN_{name.upper()}_ADDRESS", service.ports.address)
    x = cli.folder / "x2.npy"
    np.save(x, np.zeros((4, 2), np.float32))
    for command in (("models", "list"), ("jobs", "list"), ("mmd", str(x), str(x), "--paired", "--sigma", "1")):
        done = cli.call(*command, "--json", code=exits.REFUSED)
        assert "VFMALIGN_TOKEN" in done.document["error"]["remedy"]
        assert not token or token not in done.out + done.err
    if not token:
        assert "`vfmalign login`" in done.document["error"]["remedy"]


def test_a_call_beyond_the_roles_names_the_role(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    services = cli.home.read().services
    for name, service in services.items():
        monkeypatch.setenv(f"VFMALIGN_{name.upper()}_ADDRESS", service.ports.address)
    monkeypatch.setenv("VFMALIGN_TOKEN_FILE", str(TokenFiles.find(cli.home.tokens, "finetuning").token))
    assert cli.call("models", "list", "--json").document["models"] == []
    error = cli.call("jobs", "list", "--json", code=exits.REFUSED).document["error"]
    assert error["reason"] == "MISSING_ROLE"
    assert "viewer" in error["remedy"]


def test_up_again_says_that_it_runs_already(cli: Cli) -> None:
    before = cli.service("mmd")["pid"]
    assert "already running" in cli.run("up", "--detach").err
    assert cli.service("mmd")["pid"] == before
    assert "already runs in this state folder" in cli.run("up", code=2).err


def test_an_import_names_nobody(cli: Cli) -> None:
    folder = cli.folder / "inbox" / NAME
    folder.mkdir(parents=True)
    for kind, volume in generate_case(1, 0).volumes.items():
        (folder / f"{NAME}_{kind}.nii.gz").write_bytes(encode(volume))
    done = cli.run("dataset", "import", "inbox", "--id", "real", "--json")
    assert NAME not in done.out + done.err
    assert done.document["held_out"] is False
    assert done.document["phantom"] is False
    mapping = Path(done.document["mapping"])
    assert str(mapping) in done.err.replace("\n", "")
    assert mapping.stat().st_mode & 0o777 == 0o600
    (row,) = csv.DictReader(mapping.read_text().splitlines())
    assert (row["folder"], row["dataset"]) == (NAME, "real")
    broken = cli.folder / "inbox2" / NAME
    broken.mkdir(parents=True)
    (broken / "t2.nii.gz").write_bytes(b"not gzip")
    for arguments in (("inbox2", "--id", "broken"), (f"inbox3/{NAME}", "--id", "gone")):
        failed = cli.call("dataset", "import", *arguments, "--json", code=2)
        assert failed.document["error"]["reason"] == "BAD_DATASET"
        assert NAME not in failed.out + failed.err
    store = Target.from_state(cli.home, cli.home.read()).store
    assert not [key for key in store.list("") if "SURNAME" in key]
    logs = list(cli.home.path.rglob("*.log"))
    assert logs
    assert not [path for path in logs if b"SURNAME" in path.read_bytes()]


def test_a_dataset_of_another_organ_is_imported_and_shown(cli: Cli) -> None:
    cases = [Files(f"{NAME}{n}", case.image, case.label) for n, case in enumerate(map(make_case, range(4)))]
    lay_out_decathlon(cli.folder / "brain", cases)
    expected = cli.call("dataset", "import", "brain", "--id", "brain", "--dry-run", "--json").document
    assert "brain" not in [one["dataset"] for one in cli.call("dataset", "list", "--json").document["datasets"]]
    imported = cli.call("dataset", "import", "brain", "--id", "brain", "--json").document
    assert imported["digest"] == expected["digest"]
    shown = cli.call("dataset", "show", "brain", "--json").document
    assert shown["declaration"] == expected["declaration"]
    assert [label["name"] for label in shown["declaration"]["labels"]] == ["hippocampus"]
    assert sum(split["cases"] for split in shown["splits"].values()) == 4
    assert "hippocampus (1 anterior, 2 posterior)" in cli.call("dataset", "show", "brain").out


def test_models_features_and_a_comparison(cli: Cli, model: str, dataset: str) -> None:
    models = cli.call("models", "list", "--json").document
    assert [item["model_id"] for item in models["models"]] == [model]
    assert "profound_conv_micro" in models["architectures"]
    assert cli.call("models", "show", model, "--json").document["objective"] == "OBJECTIVE_UNKNOWN"
    first = cli.run("extract", dataset, "--model", model, "--split", "test", "--json").document
    again = cli.call("extract", dataset, "--model", model, "--split", "test", "--json").document
    assert first["feature_set"]["rows"] == first["computed_cases"] == 3
    assert again["feature_set"] == first["feature_set"]
    assert again["computed_cases"] == 0
    name = first["feature_set"]["feature_set_id"]
    listed = cli.call("features", "list", "--model", model, "--dataset", dataset, "--json").document["feature_sets"]
    assert [one["feature_set_id"] for one in listed] == [name]
    assert cli.call("features", "show", name, "--json").document == listed[0]
    assert listed[0]["split"] == "SPLIT_TEST"
    datasets = cli.call("dataset", "list", "--json").document["datasets"]
    named = [listed[0], *models["models"], *(one for one in datasets if one["dataset"] == dataset)]
    assert [one["created_by"].partition("#")[2] for one in named] == [OWNER] * 3
    assert all(one["create_time"] for one in named)
    for command in (("models", "show", model), ("dataset", "show", dataset), ("features", "show", name)):
        assert named[0]["created_by"] in "".join(cli.call(*command).out.split())
    assert cli.call("features", "list", "--model", "other", "--json").document == {"feature_sets": []}
    assert name in cli.call("features", "list").out
    assert f"{model}, checkpoint" in cli.call("features", "show", name).out
    assert "no such feature set" in cli.call("features", "show", "0" * 32, code=2).err
    same = cli.run("mmd", name, name, "--paired", "--reference", name, "--json").document
    assert [layer["raw"]["mmd2"]["value"] for layer in same["layers"]] == pytest.approx([0.0] * 4, abs=1e-12)
    local = cli.call("mmd", name, name, "--paired", "--reference", name, "--local", "--json").document
    assert [layer["raw"]["mmd2"]["value"] for layer in local["layers"]] == pytest.approx([0.0] * 4, abs=1e-12)


def test_bundles_and_programs_are_imported_and_served(cli: Cli, dataset: str) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 4, 4), torch.nn.GELU(), torch.nn.Conv3d(4, 6, 2, 2)).eval()
    torch.export.save(torch.export.export(network, (torch.randn(1, 2, 16, 32, 32),)), cli.folder / "own.pt2")
    arguments = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2, "channels": [4, 8], "strides": [2]}
    for name in ("configs", "models"):
        (cli.folder / "bundle" / name).mkdir(parents=True)
    definition = {"network_def": {"_target_": "UNet", **arguments}}
    (cli.folder / "bundle" / "configs" / "inference.json").write_text(json.dumps(definition))
    (cli.folder / "bundle" / "configs" / "metadata.json").write_text("{}")
    torch.save(UNet(**arguments).state_dict(), cli.folder / "bundle" / "models" / "model.pt")
    seen = ("--set", "input.modalities=t2w,adc", "--set", "input.spacing_mm=3,2,2")
    program = cli.call("models", "import", "own.pt2", "--id", "own", "--layers", "0,2", *seen, "--json").document
    assert [layer["name"] for layer in program["layers"]] == ["0", "2"]
    shape = ("--set", "input.shape_dhw=16,32,32")
    bundle = cli.call("models", "import", "bundle", "--layers", "model.0", *seen, *shape, "--json").document
    assert bundle["model_id"].startswith("monai-")
    for model in ("own", bundle["model_id"]):
        done = cli.call("extract", dataset, "--model", model, "--verify", "--json")
        assert done.document["feature_set"]["rows"] == 3
        assert "no complete set with these options was stored" in done.err
        assert not cli.call("extract", dataset, "--model", model, "--verify", "--json").err
    refused = cli.call("models", "import", "own.pt2", "--as", "profound_conv_micro", code=2)
    assert "brings its own architecture" in refused.err
    refused = cli.call("models", "import", "own.pt2", *seen, "--layers", "nine", code=2)
    assert "no submodule and no value 'nine'" in refused.err
    refused = cli.call("models", "import", "own.pt2", "--set", "input.spacing_mm=3,2", code=2)
    assert "'3,2' is not a value of input.spacing_mm\n  → choose 3 numbers" in refused.err


def test_arrays_are_compared_inline(cli: Cli) -> None:
    rng = np.random.default_rng(0)
    np.save(cli.folder / "x.npy", rng.normal(size=(40, 8)).astype(np.float32))
    np.save(cli.folder / "y.npy", rng.normal(size=(30, 8)).astype(np.float32) + 1.0)
    np.save(cli.folder / "r.npy", rng.normal(size=(50, 8)).astype(np.float32))
    options = ("--independent", "--reference", "r.npy", "--permutations", "199")
    done = cli.call("mmd", "x.npy", "y.npy", *options, "--json").document
    assert done["layers"][0]["standardised"]["mmd2"]["value"] > 0.1
    assert done["layers"][0]["standardised"]["p_value"]["value"] == pytest.approx(1 / 200)
    table = cli.call("mmd", "x.npy", "y.npy", *options)
    assert "standardised" in table.out
    refused = cli.call("mmd", "x.npy", "y.npy", "--paired", "--sigma", "1", code=2)
    assert "row" in refused.err


def test_arrays_too_large_for_a_message_are_uploaded_once(
    cli: Cli, python: Callable[..., subprocess.Popen[bytes]]
) -> None:
    rng = np.random.default_rng(1)
    for name in ("wide_x", "wide_y"):
        np.save(cli.folder / f"{name}.npy", rng.normal(size=(40, 30_000)))
    files = ("wide_x.npy", "wide_y.npy")
    ask = ("mmd", *files, "--paired", "--sigma", "200", "--set", "estimator=biased", "--set", "precision=exact")
    first = cli.call(*ask, "--json")
    assert first.err.count("too large for one message") == 2
    again = cli.call(*ask, "--json")
    assert again.document["layers"] == first.document["layers"]
    options = '{"estimator": "ESTIMATOR_BIASED", "precision": "PRECISION_EXACT"}'
    command = [sys.executable, "-m", "vfmalign.mmd.comparison", *files, "--pairing", "paired"]
    command += ["--sigma", "200", "--options", options]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    alone = python(command, cwd=cli.folder, **pipes)
    out, err = alone.communicate()
    assert alone.returncode == 0, err
    value = json.loads(out)["layers"][0]["raw"]["mmd2"]["value"]
    local = cli.call(*ask, "--local", "--json").document
    assert local["layers"][0]["raw"]["mmd2"]["value"] == value
    assert first.document["layers"][0]["raw"]["mmd2"]["value"] == pytest.approx(value, rel=1e-9)


def test_unknown_ids_are_code_2(cli: Cli) -> None:
    for arguments in (
        ("jobs", "show", "j9"),
        ("checks", "show", "c9"),
        ("experiments", "show", "s9"),
        ("watch", "x9"),
        ("models", "show", "m9"),
    ):
        done = cli.call(*arguments, code=2)
        assert arguments[-1] in done.err
    assert "dataset d9: not found" in cli.call("dataset", "show", "d9", code=2).err


def test_a_gate_that_cannot_pass_is_refused_before_anything_is_trained(cli: Cli, model: str, dataset: str) -> None:
    arguments = ("check", dataset, "--model", model, "--task", "segmentation", "--id", "hopeless")
    for gate, reason in (
        (("--require", "gain"), "with 3 test patients, a check ends as `insufficient_data`"),
        (("--require-pretraining", "gain", "--seeds", "1"), "with 1 training seed, a check ends as `inconclusive`"),
        (("--gate", "difference_specialised.lower>=0"), "with 3 test patients"),
        (("--require", "insufficient_data", "--epochs", "1"), "100 of the recipe's 10,000 steps"),
    ):
        refused = cli.call(*arguments, *gate, "--json", code=exits.BAD_INPUT).document["error"]
        assert refused["reason"] == "GATE_CANNOT_PASS"
        assert reason in refused["message"]
    assert "no such check" in cli.call("checks", "show", "hopeless", code=exits.BAD_INPUT).err
    begun = cli.call(*arguments, "--no-wait").err
    assert "with 3 test patients, a check ends as `insufficient_data`" in " ".join(begun.split())
    work = "with 3 seeds it runs 11 trainings of 10,000 steps and reuses 0; with 1 seed it runs 5 trainings of 10,000"
    assert work in " ".join(begun.split())
    cli.call("checks", "cancel", "hopeless")


def test_ctrl_c_leaves_a_check_running_and_says_how_to_go_on(cli: Cli, model: str, dataset: str) -> None:
    one_training = ("--seeds", "1", "--set", "recipe.learning_rate=0.008")
    arguments = ("check", dataset, "--model", model, "--task", "segmentation", "--preset", "demo", "--id", "c1")
    arguments += one_training
    process = Cli(cli.folder).start(*arguments)
    err = interrupt(process, "check c1 is queued")
    assert "Traceback" not in err
    assert "check c1 continues" in err
    assert "`vfmalign watch c1`" in err
    assert "`vfmalign checks cancel c1`" in err
    running = cli.call("checks", "list", "--json").document["checks"][0]
    assert (running["check_id"], running["state"]) == ("c1", "CHECK_STATE_RUNNING")
    same = cli.call(*arguments, "--no-wait", "--json").document
    assert same["check"]["check_id"] == "c1"
    assert "ALREADY_EXISTS" in cli.call(*arguments, "--seed", "9", "--json", code=2).out
    cli.run("checks", "cancel", "c1")
    watched = cli.run("watch", "c1", "--json", code=1).document
    assert watched["check"]["state"] == "CHECK_STATE_CANCELLED"
    assert "there is no report, because the check is cancelled" in cli.call("checks", "report", "c1", code=2).err
    gated = cli.call("checks", "show", "c1", "--gate", "mmd2.upper<=1", code=2)
    assert "the gate needs a result, but the check is cancelled" in gated.err


def test_ctrl_c_leaves_a_experiment_running_and_says_how_to_go_on(cli: Cli, model: str, dataset: str) -> None:
    tasks = ("--task", "segmentation", "--task", "translation")
    recipe = ("--preset", "demo", "--seed", "0", "--set", "recipe.learning_rate=0.008")
    arguments = ("experiment", dataset, "--model", model, *tasks, *recipe, "--max-running", "1", "--id", "s1")
    process = Cli(cli.folder).start(*arguments)
    err = interrupt(process, "experiment s1 is queued")
    assert "Traceback" not in err
    assert "experiment s1 continues" in err
    assert "`vfmalign watch s1`" in err
    assert "`vfmalign experiments cancel s1`" in err
    same = cli.call(*arguments, "--no-wait", "--json").document["experiment"]
    assert [cell["check_id"] for cell in same["cells"]] == [f"s1-segmentation-{model}-0", f"s1-translation-{model}-0"]
    assert "ALREADY_EXISTS" in cli.call(*arguments, "--seed", "9", "--json", code=2).out
    listed = cli.call("experiments", "list", "--json").document["experiments"]
    assert [(experiment["experiment_id"], experiment["progress"]["total"]) for experiment in listed] == [("s1", 2)]
    cli.run("experiments", "cancel", "s1")
    watched = cli.call("watch", "s1", "--json", code=1).document
    assert watched["experiment"]["state"] == "EXPERIMENT_STATE_CANCELLED"
    assert "the experiment ended before the check began" in cli.call("experiments", "show", "s1").out
    refused = cli.call("experiments", "report", "s1", code=2)
    assert "there is no report, because the experiment is cancelled" in refused.err
