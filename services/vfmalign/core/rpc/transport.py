"""Options that channels and servers share: message sizes and keepalive pings."""

from __future__ import annotations

MESSAGE_BYTES = 16 * 2**20
"""Largest message that clients accept and send, in bytes."""
MESSAGE_HEADROOM_BYTES = 64 * 2**10


def message_limits(receive_bytes: int, send_bytes: int) -> list[tuple[str, int]]:
    """Returns channel and server options: keepalive pings, and message limits with a margin for other fields."""
    return [
        ("grpc.max_receive_message_length", receive_bytes + MESSAGE_HEADROOM_BYTES),
        ("grpc.max_send_message_length", send_bytes + MESSAGE_HEADROOM_BYTES),
        ("grpc.keepalive_time_ms", 60_000),
        # A server refuses more than two pings in five minutes by default, and so ends a watch that waits.
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
