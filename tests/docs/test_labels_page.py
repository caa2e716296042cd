"""The examples of docs/labels.md are run."""

from __future__ import annotations

import doctest

from tests.places import ROOT


def test_the_examples_of_the_labels_page_are_true() -> None:
    page = ROOT / "docs" / "labels.md"
    blocks = page.read_text(encoding="utf-8").replace("```python\n", "").replace("\n```", "")
    test = doctest.DocTestParser().get_doctest(blocks, {}, page.name, str(page), 0)
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.attempted > 12
    assert result.failed == 0
