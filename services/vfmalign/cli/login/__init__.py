"""Logging in to a deployment: the OAuth 2.0 device authorization flow, and the tokens that it stores."""
