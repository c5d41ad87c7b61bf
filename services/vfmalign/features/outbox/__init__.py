"""Queue of observations that Extract sends to monitors. It is stored durably and delivered in order (ADR 0107)."""
