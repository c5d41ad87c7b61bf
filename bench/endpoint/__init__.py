"""The services as their clients see them: latency, CPU time, queueing, load, and shares of tenants."""
