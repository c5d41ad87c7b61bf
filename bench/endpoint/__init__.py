"""The MMD service as its clients see it: latency, CPU time, queueing and load."""
