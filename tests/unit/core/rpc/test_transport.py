"""Options that channels and servers agree on."""

from vfmalign.core.rpc.transport import message_limits


def test_a_server_accepts_the_pings_of_a_client_whose_call_waits() -> None:
    options = dict(message_limits(1, 1))
    assert options["grpc.http2.min_ping_interval_without_data_ms"] < options["grpc.keepalive_time_ms"]
