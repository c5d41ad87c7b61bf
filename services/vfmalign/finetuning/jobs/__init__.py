"""Training jobs: their repository, requests, API and supervisor."""
