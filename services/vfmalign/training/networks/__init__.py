"""Networks that training builds around an encoder, and the specialised networks without one."""
