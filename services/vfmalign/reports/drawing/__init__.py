"""Charts and figures as SVG."""
