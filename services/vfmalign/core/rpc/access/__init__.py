"""Who calls and what it may do: tokens, keys, roles and tenants."""
