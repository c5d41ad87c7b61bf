"""Queue of observations that Extract sends to monitors. The queue is durable and keeps their order (ADR 0107)."""
