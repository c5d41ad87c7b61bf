"""Limits for calls: bounds of requests, memory, and the calls and connections of each caller."""
