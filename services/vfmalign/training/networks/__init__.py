"""Networks around an encoder, and specialised networks without one."""
