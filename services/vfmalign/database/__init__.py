"""Databases of services: tenants, pagination, migrations, and the election of a leader among a service's processes."""
