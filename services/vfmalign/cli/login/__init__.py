"""Login to a deployment by the OAuth 2.0 device authorization flow, and storage of its tokens."""
