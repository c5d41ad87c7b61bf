"""Authentication and authorisation: tokens, keys, roles and tenants."""
