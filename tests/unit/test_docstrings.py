"""Docstrings of functions are in the indicative: `Returns …`, not `Return …`."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPERATIVE = re.compile(
    r"(Add|Apply|Assign|Build|Check|Choose|Compare|Compute|Convert|Create|Decode|Delete|Draw|Encode|Estimate|Evaluate|Find"
    r"|Format|Generate|Import|Let|Load|Make|Measure|Parse|Print|Raise|Read|Refuse|Reject|Remove|Render|Replace|Return|Run"
    r"|Say|Send|Set|Show|Split|Start|Stop|Store|Test|Upload|Wait|Write|Yield)\b"
)
HELP_TEXTS = "services/vfmalign/cli/__main__.py", "services/vfmalign/cli/commands/"  # imperative, as in other programs


@pytest.mark.parametrize("folder", ["bench", "deploy", "docs", "examples", "services", "tests"])
def test_docstrings_say_what_a_function_does(folder):
    commanding = []
    for path in (ROOT / folder).rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(HELP_TEXTS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node) or ""
                if IMPERATIVE.match(docstring):
                    commanding.append(f"{name}:{node.lineno} {docstring.splitlines()[0]}")
    assert not commanding, "write the verb in the third person: " + "; ".join(commanding)
