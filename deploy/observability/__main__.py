"""Write the dashboards of deploy/grafana, the rules of the objectives, and their copies: `make dashboards`.

Usage: python -m deploy.observability
"""

from __future__ import annotations

from deploy.observability.files import render_files

if __name__ == "__main__":
    for path, text in render_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
