"""The object store: access to an S3 bucket, with credentials, errors, retries and a probe."""
