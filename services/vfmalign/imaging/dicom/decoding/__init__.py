"""Decoding of compressed frames in separate processes, because a bad frame may crash a decoder (ADR 0099)."""
