"""A check's report becomes the result of the API without a converter for what both hold."""

from datetime import UTC, datetime

import pytest

from vfmalign.client.messages import checks as messages
from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.field_of_view import CutStructure
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.finetuning.checks.converters import to_check
from vfmalign.finetuning.checks.repository import ReportRefs, StoredCheck


class Store:
    def uri(self, key):
        return f"s3://bucket/{key}"


@pytest.fixture
def convert():
    """Converts a report into a check of the API."""

    def to_message(report):
        refs = {
            kind: StoredFile(key=f"checks/c/report.{kind}", sha256="ab" * 32, size_bytes=3) for kind in ("json", "html")
        }
        moment = datetime(2026, 3, 1, tzinfo=UTC)
        check = StoredCheck(
            id="c", request=messages.CheckSpec(model_id="m", dataset_id="d", task="segmentation"), state="succeeded",
            progress=Progress(), stage_progress=(), created_at=moment, started_at=moment, finished_at=moment,
            failure=None, report=ReportRefs(json_ref=refs["json"], html_ref=refs["html"]), cancel_requested=False,
            retries=0, retried_at=None, created_by="", on_behalf_of="", erased_at=None,
        )  # fmt: skip
        return to_check(check, Store(), stages=[], jobs=[], report=report)

    return to_message


def test_the_result_holds_the_records_of_the_report(convert, make_report):
    report = make_report()
    result = convert(report).result
    assert result.rpg_specialised is report.result.rpg_specialised
    assert result.convergence is report.result.network("pretrained").convergence
    assert result.curves[0].points == report.result.network("pretrained").curve
    assert result.metric == report.result.metrics[0]


def test_nothing_is_lost_on_the_way_to_a_client(convert, make_report):
    check = convert(make_report())
    assert messages.Check.from_proto(check.to_proto()) == check


def test_an_undefined_score_is_absent_and_not_zero(convert, make_report):
    report = make_report()
    gain = report.result.rpg_specialised.model_copy(update={"score": None, "baseline": None})
    report = report.model_copy(update={"result": report.result.model_copy(update={"rpg_specialised": gain})})
    message = convert(report).to_proto()
    assert not message.result.rpg_specialised.HasField("score")
    assert message.result.rpg_scratch.HasField("score")


def test_the_smallest_shares_of_cut_organs_reach_a_client(convert, make_report):
    cut = tuple(
        CutStructure(case_id=f"c-{number}", split="val", structure="lesion", inside=number / 2000)
        for number in range(1500)
    )
    check = convert(make_report(cut_structures=cut))
    assert check.result.cut_structures == cut[:1000]
    assert messages.Check.from_proto(check.to_proto()) == check
