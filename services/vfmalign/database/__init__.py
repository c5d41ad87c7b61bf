"""What a service with a database needs: tenants, pages, migrations, and one leader among its processes."""
