"""Limits of calls: bounds of a request, memory, and the calls and connections of one caller."""
