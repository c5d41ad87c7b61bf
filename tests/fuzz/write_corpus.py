"""Write the seeds of every target into its corpus: `python -m tests.fuzz.write_corpus [TARGET …]`.

Files that no target makes, such as the inputs of earlier findings, stay as they are.
"""

from __future__ import annotations

import sys

from tests.fuzz.harness import CORPUS, list_targets, load_target


def main() -> None:
    """Writes the corpus."""
    for name in sys.argv[1:] or list_targets():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, data in load_target(name).make_seeds().items():
            (folder / file_name).write_bytes(data)


if __name__ == "__main__":
    main()
