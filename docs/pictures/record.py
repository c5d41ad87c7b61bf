"""Record the demo as pictures: its terminal and the first screen of its report. `make pictures` calls it.

Usage: python docs/pictures/record.py FOLDER

Needs Chromium on the path. The terminal is recorded as it is shown, from a pseudo-terminal.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100
SCREEN = (1280, 800)
"""Width and height in pixels within which a report shows its verdict, its main figure and its cautions."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TERMINAL = "demo.svg"
REPORT = "report.png"


def run_in_terminal(command: list[str], folder: Path) -> str:
    """Runs a command with a pseudo-terminal as its output, and returns what it wrote.

    Raises:
        SystemExit: it failed.
    """
    reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, env=environment
    ) as process:
        os.close(writer)
        chunks = []
        while chunk := _read(reader):
            chunks.append(chunk)
    os.close(reader)
    output = b"".join(chunks).decode(errors="replace")
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return output


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:  # on Linux, the end of a pseudo-terminal
        return b""


def draw_terminal(output: str, command: str) -> str:
    """Returns the final state of a terminal as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    for line in replay(output):
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title=command)
    # rich names fonts and itself on servers.
    return re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)


def replay(output: str) -> list[str]:
    """Returns the lines that remain on a terminal, with their colours, once progress has overwritten itself.

    Understands what rich writes: a line is cleared before it is written anew.
    """
    lines, row = [""], 0
    for part in re.findall(r"\r?\n|\r|\x1b\[\??[0-9;]*[A-Za-z]|[^\r\n\x1b]+", output):
        control = re.fullmatch(r"\x1b\[\??([0-9;]*)([A-Za-z])", part)
        if part.endswith("\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif control and control[2] == "A":
            row = max(0, row - int(control[1] or 1))
        elif control and control[2] == "K":
            lines[row] = ""
        elif part != "\r" and (control is None or control[2] == "m"):
            lines[row] += part
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def photograph(page: Path, picture: Path) -> None:
    """Writes the first screen of a page as PNG.

    Raises:
        SystemExit: there is no browser, or it failed.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"install one of {', '.join(BROWSERS)}: `apt-get install chromium`")
    width, height = SCREEN
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    subprocess.run([browser, *options, f"--screenshot={picture}", page.as_uri()], check=True, stderr=subprocess.DEVNULL)
    if not picture.is_file():
        sys.exit(f"{browser} wrote no picture of {page}")


def main() -> None:
    """Runs the demo once, and writes both pictures into the folder that is named on the command line."""
    folder = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        command = [
            sys.executable,
            "-m",
            "vfmalign.cli",
            "demo",
            "--home",
            f"{temporary}/home",
            "--reports",
            f"{temporary}/reports",
        ]
        output = run_in_terminal(command, Path(temporary))
        (page,) = Path(temporary, "reports").glob("*.html")
        (folder / TERMINAL).write_text(draw_terminal(output.replace(temporary, "."), "make demo"))
        photograph(page, folder / REPORT)


if __name__ == "__main__":
    main()
