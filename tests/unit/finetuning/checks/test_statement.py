"""Signed statements: what they say, and what cosign and the script in `examples` refuse."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as InTotoTestResult
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
from tests.unit.finetuning.checks.test_plans import DATASET, MODEL, PLAN, make_planned

from vfmalign.client.messages.checks import EarlierCheck, PlanResult
from vfmalign.core.domain.errors import BadOption, PreconditionFailed
from vfmalign.core.storage.keys import check_key
from vfmalign.finetuning.checks.signing import StatementSigner
from vfmalign.finetuning.checks.statement import PREDICATE_TYPE, _sign

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EARLIER = (EarlierCheck(check_id="c0", create_time=NOW),)
SCRIPT = Path(__file__).parents[4] / "examples/shell/verify-statement.sh"
needs_cosign = pytest.mark.skipif(
    not (shutil.which("cosign") and shutil.which("jq")), reason="cosign or jq is not installed"
)


@dataclass
class Signed:
    """The files of `vfmalign checks statement`, and the public key."""

    public: Path
    report: Path
    statement: Path
    key: object

    @property
    def envelope(self):
        return json.loads(self.statement.read_bytes())

    @property
    def payload(self):
        return json.loads(base64.b64decode(self.envelope["payload"]))

    def replaced(self, **files):
        return Signed(**(self.__dict__ | files))


def to_pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def write_public(path, key):
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture
def sign(tmp_path, store, make_report):
    """Signs the result of a check with an outcome."""
    key = generate_private_key(SECP256R1())
    (tmp_path / "key.pem").write_bytes(to_pem(key))
    signer = StatementSigner.from_file(tmp_path / "key.pem")

    def make(outcome="passed", name="c1"):
        plan = PlanResult(
            outcome=outcome,
            plan_sha256=PLAN.digest(),
            declare_time=NOW,
            declared_by="issuer#subject",
            passed=() if outcome == "failed" else ("pretraining=gain",),
            failed=("pretraining=gain",) if outcome == "failed" else (),
            earlier_checks=EARLIER if outcome == "warned" else (),
        )
        settings = {"model_sha256": MODEL, "dataset_digest": DATASET, "name": name}
        report = make_report(settings=settings).model_copy(update={"plan": plan})
        store.write(check_key(name, "report.json"), report)
        check = SimpleNamespace(id=name, request=make_planned(), created_at=NOW)
        context = SimpleNamespace(check=check, store=store, signer=signer)
        files = {"report": tmp_path / f"{name}.json", "statement": tmp_path / f"{name}.dsse"}
        files["report"].write_bytes(store.get(check_key(name, "report.json")))
        files["statement"].write_bytes(_sign(context, report).to_json())
        return Signed(public=write_public(tmp_path / "key.pub", key), key=key, **files)

    return make


def run_cosign(signed, predicate_type=PREDICATE_TYPE):
    command = ["cosign", "verify-blob-attestation", "--key", signed.public, "--signature", signed.statement]
    command += ["--type", predicate_type, "--insecure-ignore-tlog=true", signed.report]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run_script(signed, model=MODEL, dataset=DATASET, *options):
    command = [SCRIPT, signed.public, signed.report, signed.statement, model, dataset, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_statement_names_the_report_the_plan_and_all_digests(sign, store):
    signed = sign("warned")
    statement = signed.payload
    (subject,) = statement["subject"]
    assert (subject["name"], subject["annotations"]["check"]) == ("report.json", "c1")
    assert subject["annotations"]["tenant"] == store.tenant
    intervals = subject["annotations"]["intervals"]
    assert set(intervals) == {"mmd2", "mmd2_std"}, "gains of one training have no usable interval"
    assert intervals["mmd2"]["lower"] < intervals["mmd2"]["upper"]
    predicate = statement["predicate"]
    assert predicate["result"] == "WARNED"
    assert predicate["passedTests"] == ["pretraining=gain"]
    assert predicate["warnedTests"] == ["declared before check c0"]
    assert predicate["failedTests"] == []
    plan, *others = predicate["configuration"]
    assert plan["digest"]["sha256"] == PLAN.digest()
    assert plan["annotations"]["require_pretraining"] == ["gain"]
    assert plan["annotations"]["declared_at"] == NOW.isoformat()
    assert plan["annotations"]["declared_by"] == "issuer#subject"
    digests = {one["name"]: one["digest"]["sha256"] for one in others}
    assert digests == {"spec.json": make_planned().digest(), "model": MODEL, "dataset": DATASET}


def test_the_library_of_in_toto_parses_a_statement(sign):
    statement = sign().payload
    parsed = Statement.copy_from_pb(ParseDict(statement, statement_pb2.Statement()))
    parsed.validate()
    predicate = ParseDict(statement["predicate"], InTotoTestResult())
    assert (parsed.pb.predicate_type, predicate.result) == (PREDICATE_TYPE, "PASSED")
    assert [descriptor.name for descriptor in predicate.configuration] == ["plan", "spec.json", "model", "dataset"]


def test_a_deployment_without_a_key_signs_nothing(sign, make_report, store):
    check = SimpleNamespace(id="c1", request=make_planned())
    context = SimpleNamespace(check=check, store=store, signer=StatementSigner.from_file(None))
    with pytest.raises(PreconditionFailed, match="this deployment has no key") as caught:
        _sign(context, make_report())
    assert caught.value.reason == "NO_SIGNING_KEY"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        to_pem(generate_private_key(SECP384R1())),
        to_pem(Ed25519PrivateKey.generate()),
        to_pem(generate_private_key(SECP256R1()), BestAvailableEncryption(b"password")),
    ],
)
def test_another_kind_of_key_is_refused_at_the_start(tmp_path, content):
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(BadOption, match="not contain an unencrypted ECDSA P-256 private key") as caught:
        StatementSigner.from_file(tmp_path / "key.pem")
    assert caught.value.field == "VFMALIGN_SIGNING__KEY_FILE"


def alter(content, place, rng):
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


@needs_cosign
def test_cosign_accepts_a_statement_and_refuses_200_altered_bytes(sign, tmp_path):
    signed, rng = sign(), random.Random(1)
    assert run_cosign(signed).returncode == 0, run_cosign(signed).stderr
    payload, signature = (
        base64.b64decode(text) for text in (signed.envelope["payload"], signed.envelope["signatures"][0]["sig"])
    )
    report, key = signed.report.read_bytes(), SSlibKey.from_crypto(signed.key.public_key())
    for number in range(200):
        altered, envelope = signed.replaced(statement=tmp_path / "altered.dsse"), signed.envelope
        if number < 100:
            envelope["payload"] = base64.b64encode(alter(payload, rng.randrange(len(payload)), rng)).decode()
        elif number < 150:
            changed = alter(signature, rng.randrange(len(signature)), rng)
            envelope["signatures"][0]["sig"] = base64.b64encode(changed).decode()
        else:
            altered = altered.replaced(report=tmp_path / "altered.json")
            altered.report.write_bytes(alter(report, rng.randrange(len(report)), rng))
        altered.statement.write_text(json.dumps(envelope))
        assert run_cosign(altered).returncode != 0, number
        if number < 150:
            with pytest.raises(VerificationError):
                Envelope.from_dict(envelope).verify([key], 1)


@needs_cosign
def test_cosign_refuses_another_key_report_or_type(sign, tmp_path):
    signed, other = sign(), sign(name="c2")
    another = write_public(tmp_path / "other.pub", generate_private_key(SECP256R1()))
    for wrong in (signed.replaced(public=another), signed.replaced(report=other.report)):
        assert run_cosign(wrong).returncode != 0
        assert run_script(wrong).returncode != 0
    assert run_cosign(signed, "https://slsa.dev/provenance/v1").returncode != 0
    assert run_cosign(other).returncode == 0


@needs_cosign
@pytest.mark.parametrize(
    ("outcome", "accepted"), [("passed", (True, True)), ("warned", (False, True)), ("failed", (False, False))]
)
def test_the_script_refuses_other_results(sign, outcome, accepted):
    signed = sign(outcome)
    assert run_cosign(signed).returncode == 0, "cosign accepts every result"
    options = (), ("--allow-warned",)
    assert tuple(run_script(signed, MODEL, DATASET, *more).returncode == 0 for more in options) == accepted


@needs_cosign
def test_the_script_refuses_another_model_or_dataset(sign):
    signed = sign()
    assert run_script(signed, "e" * 64).returncode == 1
    assert run_script(signed, MODEL, "e" * 64).returncode == 1
    assert subprocess.run([SCRIPT, signed.public], capture_output=True, check=False).returncode == 2


@needs_cosign
def test_the_script_reads_the_payload_that_cosign_verifies(sign):
    """Go also accepts a key of other case as `payload`, and some parsers stop after the first document."""
    signed = sign("failed")
    genuine, forged = signed.envelope, signed.payload
    forged["predicate"]["result"] = "PASSED"
    evil = base64.b64encode(json.dumps(forged).encode()).decode()
    for text in (
        json.dumps({**genuine, "payload": evil, "Payload": genuine["payload"]}),
        json.dumps(genuine) + json.dumps({**genuine, "payload": evil}),
        json.dumps(genuine).replace('"payload":', f'"payload": "{evil}", "payload":'),
    ):
        signed.statement.write_text(text)
        assert run_script(signed).returncode != 0
