"""Queue of observations from Extract to monitors: stored durably, and sent in order (ADR 0107)."""
