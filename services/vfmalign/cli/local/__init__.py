"""The local stack: object storage and services as processes of this machine."""
