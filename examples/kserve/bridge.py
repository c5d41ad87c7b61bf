"""Lets a monitor observe what KServe's logger posts: a response for each study (Open Inference Protocol)."""

import contextlib
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from vfmalign.client import Client, FeatureOrigin, Observation, ObservedStudy
from vfmalign.core.domain.errors import InvalidInput, NotFound, PreconditionFailed, TooLarge, VfmalignError

ADDRESS, MONITOR = os.environ["VFMALIGN_MONITORING_ADDRESS"], os.environ["MONITOR"]
# What the InferenceService runs: a model that is exchanged there, and not in the monitor, is refused.
ORIGIN = FeatureOrigin(
    checkpoint_sha256=os.environ["CHECKPOINT_SHA256"],
    preprocessing_sha256=os.environ["PREPROCESSING_SHA256"],
    input_transform=os.environ["INPUT_TRANSFORM"],
)
REFUSALS = InvalidInput, NotFound, PreconditionFailed, TooLarge  # the same event would be refused again
MAX_BYTES = 16 * 2**20
TIMEOUT_S = 10.0


def to_observation(event: BaseCloudEvent) -> Observation:
    """Takes patient and scanner from headers of the request, and every output of numbers as a layer."""
    headers = json.loads(event.get_extension("metadata"))
    study = ObservedStudy.from_fields(
        observation_id=event.get_id(),
        group=headers["X-Patient-Group"][0],
        strata={"scanner": headers["X-Scanner"][0]} if "X-Scanner" in headers else {},
    )
    outputs = [one for one in event.get_data()["outputs"] if one.get("datatype") != "BYTES"]
    return Observation(study, {one["name"]: np.array(one["data"], np.float32).reshape(-1) for one in outputs})


class Bridge(BaseHTTPRequestHandler):
    """Answers 200 to what is recorded or no response, 422 to what is wrong, and 503 to what may be sent again."""

    timeout = 30

    def handle(self) -> None:
        """Serves a connection, and ends without a word where the other side has closed it."""
        with contextlib.suppress(ConnectionError):  # whose traceback might quote the event
            super().handle()

    def do_POST(self) -> None:
        """Records one event."""
        try:
            size = max(0, min(int(self.headers["Content-Length"]), MAX_BYTES))
            event = from_http_event(HTTPMessage(dict(self.headers), self.rfile.read(size)))
            is_response = event.get_type() == "org.kubeflow.serving.inference.response"
            observations = [to_observation(event)] if is_response else []
        except Exception as error:  # whatever was posted, it is no event of this kind
            # Others may quote the event, and answers are logged.
            cause = f": {error}" if isinstance(error, KeyError | VfmalignError) else ""
            return self.answer(422, f"not a response with the features of a study: {type(error).__name__}{cause}")
        try:
            results = client.monitors.observe(MONITOR, observations, ORIGIN) if observations else ()
        except VfmalignError as error:
            return self.answer(422 if isinstance(error, REFUSALS) else 503, str(error))
        return self.answer(200, "".join(result.outcome for result in results))

    def answer(self, status: int, text: str) -> None:
        """Sends the answer, and logs why an event is not recorded: KServe's logger reads the status alone."""
        if status != 200:
            self.log_error("%s", text)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ThreadingHTTPServer.daemon_threads = False  # what has arrived is recorded before the program ends
    address = "", int(os.environ.get("PORT", "8080"))
    with (
        Client(monitoring_address=ADDRESS, call_timeout_s=TIMEOUT_S) as client,
        ThreadingHTTPServer(address, Bridge) as server,
    ):
        server.serve_forever()
