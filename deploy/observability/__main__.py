"""Write the dashboards of deploy/grafana, the rules of the objectives, and their copies: `make dashboards`.

Usage: python -m deploy.observability
"""

from __future__ import annotations

import sys

import yaml


def main() -> None:
    """Writes every generated file.

    Raises:
        SystemExit: the settings are wrong; names the setting and the remedy.
    """
    try:
        from deploy.observability.files import render_files

        files = render_files()
    except (ValueError, yaml.YAMLError) as error:
        sys.exit(f"deploy/observability/settings.yaml: {error}")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
