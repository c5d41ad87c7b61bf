"""What the commands of jobs, checks and experiments say where there is no report."""

from vfmalign.cli.commands.lifecycle import no_report
from vfmalign.client.messages.common import Progress


def test_a_report_that_is_written_again_names_what_was_lost():
    lost = Progress(phase="report", detail="s3://b/checks/c/report.json: missing", reason="ARTIFACT_LOST")
    message = str(no_report("check", "c", "running", lost))
    assert message == (
        "c: there is no report, because the check is running again: s3://b/checks/c/report.json: missing; "
        "see `vfmalign checks show c`"
    )
    training = Progress(phase="training", detail="training", reason="")
    assert no_report("check", "c", "running", training).message == "there is no report, because the check is running"
