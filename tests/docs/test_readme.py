"""What the documents show, runs; what they name, exists."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.demo_project import demo_project
from tests.places import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_FILE = re.compile(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|md|toml))`")


#: Pages whose examples need a project of their own, and the tests that run them.
ELSEWHERE = {
    "README.md": "tests/docs/test_readme.py",
    "labels.md": "tests/docs/test_labels_page.py",
    "training.md": "tests/docs/test_training_page.py",
    "semantics.md": "tests/docs/test_semantics_page.py",
    "scenes.md": "tests/app/scenes/test_scenes_page.py",
    "backfill.md": "tests/docs/test_backfill_page.py",
    "samples.md": "tests/docs/test_samples_page.py",
    "python.md": "tests/docs/test_python_page.py",
    "operations.md": "tests/docs/test_operations_page.py",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a project folder like this repository's."""
    if document.name in ELSEWHERE:
        assert document.name in (ROOT / ELSEWHERE[document.name]).read_text(encoding="utf-8")
        return
    blocks = _BLOCK.findall(document.read_text(encoding="utf-8"))
    shutil.copy(ROOT / "dovetail.toml", tmp_path)
    shutil.copytree(ROOT / "sql", tmp_path / "sql")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(document), "exec"), namespace)


def test_the_ten_lines_of_the_readme_say_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``README.md`` begins with them."""
    (block,) = _BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(block.splitlines()) == 10
    monkeypatch.chdir(demo_project(tmp_path))
    exec(compile(block, "README.md", "exec"), {})
    assert f"# {capsys.readouterr().out.strip()}" == block.splitlines()[-1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [link for link in _LINK.findall(text) if not (document.parent / link).exists()]
    assert not missing
    roots = [ROOT, *(ROOT / p / "dovetail" / p for p in ("platform", "features", "joiners", "trainer"))]
    roots += [ROOT / p / "dovetail" for p in ("platform", "features", "joiners", "trainer")]
    gone = [name for name in _FILE.findall(text) if not any((root / name).exists() for root in roots)]
    assert not gone
