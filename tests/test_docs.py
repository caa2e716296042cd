"""What the documents show, runs; what they name, exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_FILE = re.compile(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|sql|md|toml))`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_examples_run(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = _BLOCK.findall(document.read_text(encoding="utf-8"))
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(document), "exec"), namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [link for link in _LINK.findall(text) if not (document.parent / link).exists()]
    assert not missing
    roots = [ROOT, *(ROOT / p / "dovetail" / p for p in ("platform", "features", "joiners", "trainer"))]
    roots += [ROOT / p / "dovetail" for p in ("platform", "features", "joiners", "trainer")]
    gone = [name for name in _FILE.findall(text) if not any((root / name).exists() for root in roots)]
    assert not gone
