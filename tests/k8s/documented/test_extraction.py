"""Commands are found in fenced blocks and code spans of a page, with their line."""

from __future__ import annotations

from markdown_it import MarkdownIt
from tests.k8s.documented.commands import PAGES, Block, list_blocks, list_comments
from tests.k8s.rendering import ROOT

PAGE = """# Title

Run `kubectl get pods` and
`vfmalign
doctor`, or `kubectl debug`. The file `store.env` and the word `make` are no commands.

```
kubectl apply -k x
kubectl get pods | grep y
```

```yaml
command: kubectl get nodes
```

| step | command |
|---|---|
| one | `make up` |
"""


def test_blocks_and_spans_are_found_in_order() -> None:
    assert list_blocks("page.md", PAGE) == [
        Block("page.md", 3, "kubectl get pods"),
        Block("page.md", 3, "vfmalign doctor"),
        Block("page.md", 3, "kubectl debug --help"),
        Block("page.md", 7, "kubectl apply -k x\nkubectl get pods | grep y\n"),
        Block("page.md", 18, "make up"),
    ]


def test_every_block_of_the_pages_is_a_script_an_output_or_an_object() -> None:
    for page in PAGES:
        tokens = [token for token in MarkdownIt().parse((ROOT / page).read_text()) if token.type == "fence"]
        assert {token.info for token in tokens} <= {"", "json", "text", "yaml"}
        scripts = [block.script for block in list_blocks(page)]
        assert all(token.content in scripts for token in tokens if not token.info)


def test_comments_of_manifests_are_found() -> None:
    found = {(block.page, block.script) for block in list_comments()}
    assert ("k8s/jobs/kustomization.yaml", "kubectl apply -k k8s/jobs") in found
    assert any(
        page == "k8s/jobs/mmd.yaml" and script.startswith("kubectl -n vfmalign logs -l") for page, script in found
    )
