"""Decoding of compressed frames in processes of their own, which a damaged or hostile frame may crash (ADR 0099)."""
