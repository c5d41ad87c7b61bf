"""Experiments over models, tasks and seeds: their repository, API and runner."""
