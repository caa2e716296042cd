"""Plots hold what they are given, in each format they are written in."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from dovetail.platform.errors import ConfigError
from dovetail.trainer.metrics.charts import Chart, ChartLine, reliability, windows_charts
from dovetail.trainer.metrics.plots import page, write_plots
from dovetail.trainer.metrics.progressive import Evaluation


def charts() -> list[Chart]:
    evaluation = Evaluation(50, 3)
    rng = np.random.default_rng(0)
    p = rng.uniform(0.1, 0.9, 150).astype(np.float32)
    labels, weights = (rng.random(150) < p).astype(np.float32), np.ones(150, np.float32)
    evaluation.add(p, labels, weights)
    windows = [(f"time:{number}", metrics) for number, metrics in enumerate(evaluation.recent())]
    line = reliability("a & b", p, labels, weights)
    assert len(line.x) == 20
    assert line.x == sorted(line.x)
    assert reliability("none", p, labels, weights * 0).x == []
    return [
        *windows_charts([("one", windows)]), Chart("reliability", [line], diagonal=True), Chart("empty", []),
        Chart("broken", [ChartLine("l", [0, 1, 2], [1.0, None, 1.0])]),
    ]  # fmt: skip


def test_a_page_draws_what_it_is_given(tmp_path: Path) -> None:
    html = page("t <title>", charts(), ["a < b"])
    assert html.count("<svg") == 5
    assert "nothing to draw" in html
    assert "t &lt;title&gt;" in html
    assert "a &amp; b" in html
    assert "NaN" not in html
    write_plots(tmp_path / "x.html", "t <title>", charts(), ["a < b"])
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == html


def test_a_drawing_is_one_svg_document(tmp_path: Path) -> None:
    write_plots(tmp_path / "x.svg", "t <title>", charts())
    root = ET.parse(tmp_path / "x.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"t <title>", "log-loss", "AUC", "reliability", "a & b", "nothing to draw"} <= set(texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}svg"))) == 1


def test_a_png_is_as_large_as_its_charts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the plots extra)")
    heights = []
    for count in (1, 6):
        write_plots(tmp_path / "x.png", "t <title>", charts()[:count])
        content = (tmp_path / "x.png").read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", content[16:24])
        assert width == 800
        heights.append(height)
    assert heights == [410, 2210]


def test_without_matplotlib_a_png_is_refused_and_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"x.png: PNG needs matplotlib .* install dovetail\[plots\], or write .html"):
        write_plots(tmp_path / "x.png", "t", charts())
    assert not (tmp_path / "x.png").exists()


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x.pdf: plots are written as .html, .svg or .png"):
        write_plots(tmp_path / "x.pdf", "t", charts())
