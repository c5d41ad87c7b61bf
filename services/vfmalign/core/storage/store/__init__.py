"""The object store: an S3 bucket, its credentials, errors, attempts and probe."""
