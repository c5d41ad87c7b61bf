"""Databases of services: tenants, pages, migrations, and one leader among the processes of a service."""
