"""An import that is killed again and again: the same dataset, and no study downloaded more than twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.cli.commands import INTERRUPTED
from tests.pacs.conftest import SALT, Hospital
from tests.pacs_proxy import Handler, drop

KILLS = 6
STUDIES = 12
"""More than the kills let through."""


def test_kills_leave_the_same_dataset_and_no_third_download(
    make_hospital: Callable[..., Hospital], python: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    hospital = make_hospital(STUDIES)
    sizes = Counter[str]()
    for file in hospital.files.rglob("*.dcm"):
        sizes[file.parent.name] += file.stat().st_size
    command = Command(hospital, python)
    draw = random.Random(38)
    for _ in range(KILLS):
        command.kill_at_download(draw.randint(1, 3), in_the_middle=draw.random() < 0.5)
    document = command.finish()
    assert document["problems"] == []
    digest = document["digest"]
    sent, cut = hospital.proxy.sent_bytes, hospital.proxy.cut_bytes
    for examination in hospital.examinations:
        paths = [path for path in sent if examination.study_uid in path and "/series/" in path]
        size, received = sizes[examination.patient_name], sum(sent[path] for path in paths)
        assert size <= received
        # Each kill in the middle may cost half an answer more: the command has not read it when it dies.
        assert received - sum(cut[path] for path in paths) < 2.1 * size, "with the multipart's own"
    untouched = Command(hospital, python, home="untouched")
    assert untouched.finish()["digest"] == digest


def test_an_interrupted_dry_run_ends_and_leaves_nothing(
    make_hospital: Callable[..., Hospital], python: Callable[..., subprocess.Popen[str]]
) -> None:
    hospital = make_hospital(3)
    command = Command(hospital, python)
    command.interrupt_at_download(2)
    assert [path.name for path in command.home.rglob("*") if path.is_file()] == ["salt"]


class Command:
    """`vfmalign dataset import --dry-run` of every study, in a state folder of its own."""

    def __init__(self, hospital: Hospital, python: Callable[..., Any], home: str = "home") -> None:
        self.hospital = hospital
        self.home = hospital.folder / home
        (self.home / "private").mkdir(parents=True, mode=0o700)
        (self.home / "private/salt").write_bytes(SALT)
        environment = hospital.orthanc.to_environment(port=hospital.proxy.port)
        query = ["--dicomweb", "orthanc", "--query", "PatientID=PID-*", "--declaration", str(hospital.declaration)]
        arguments = ["dataset", "import", *query, "--id", "d", "--dry-run", "--home", str(self.home), "--json"]
        self._start = lambda: python(
            ["python", "-m", "vfmalign.cli", *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill_at_download(self, number: int, *, in_the_middle: bool) -> None:
        """Kills the command when it asks for instances this many times, or when it has half of the answer."""
        left = [number]

        def kill(handler: Handler) -> bool:
            if "/series/" not in handler.path:
                return False
            left[0] -= 1
            if left[0] != 0:
                return False
            if in_the_middle:
                handler.send_half()
            process.kill()
            handler.close_connection = True
            return True

        self.hospital.proxy.fault = kill
        process = self._start()
        process.communicate()
        assert process.returncode in (-9, 0)

    def interrupt_at_download(self, number: int) -> None:
        """Presses Ctrl-C when the command asks for instances this many times, and lets it wait for them."""
        left = [number]

        def interrupt(handler: Handler) -> bool:
            left[0] -= "/series/" in handler.path
            if left[0] != 0:
                return False
            process.send_signal(signal.SIGINT)
            return drop(handler)

        self.hospital.proxy.fault = interrupt
        process = self._start()
        _, err = process.communicate()
        assert process.returncode in INTERRUPTED, err

    def finish(self) -> Any:
        """Lets the command end; returns its document."""
        self.hospital.proxy.fault = None
        process = self._start()
        out, err = process.communicate()
        assert process.returncode == 0, err
        return json.loads(out)
