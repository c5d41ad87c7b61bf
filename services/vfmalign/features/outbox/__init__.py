"""Queue of observations that Extract sends to monitors. The queue is durable and ordered (ADR 0107)."""
