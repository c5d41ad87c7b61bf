"""Networks built around an encoder, and specialised networks without an encoder."""
