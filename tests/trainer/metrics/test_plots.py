"""Plots hold what they are given, in each format they are written in."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from dovetail.platform.errors import ConfigError
from dovetail.trainer.metrics.charts import COLOURS, Chart, ChartLine, reliability, windows_charts
from dovetail.trainer.metrics.plots import check_plot, write_plots
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.vega import specification


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


def texts_of(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vl_convert", reason="vl-convert is not installed (the plots extra)")
    folder = tmp_path_factory.mktemp("plots")
    for suffix in ("svg", "html", "png"):
        write_plots(folder / f"x.{suffix}", "t <title>", charts())
    return folder


def test_a_drawing_is_one_svg_document(written: Path) -> None:
    svg = (written / "x.svg").read_text(encoding="utf-8")
    assert {"t <title>", "log-loss", "AUC", "reliability", "a & b", "empty", "nothing to draw"} <= set(texts_of(svg))
    assert svg.count("<svg") == 1
    assert svg.count('stroke="#0b6e4f"') > 5
    assert svg.count('stroke-dasharray="4,4"') == 1
    assert "NaN" not in svg


def test_a_page_is_one_file_around_the_drawing(written: Path) -> None:
    page, svg = ((written / name).read_text(encoding="utf-8") for name in ("x.html", "x.svg"))
    assert svg in page
    assert "<title>t &lt;title&gt;</title>" in page
    around = page.replace(svg, "")
    assert not any(what in around for what in ("<script", "<link", "src=", "href=", "url("))
    assert not any(what in svg for what in ("<script", "<image", "href=", "url(http"))


def test_a_picture_has_two_pixels_for_each_unit_of_the_drawing(written: Path) -> None:
    content = (written / "x.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    root = ET.fromstring((written / "x.svg").read_text(encoding="utf-8"))
    assert struct.unpack(">II", content[16:24]) == tuple(2 * int(root.attrib[side]) for side in ("width", "height"))


def test_plots_are_the_same_to_the_byte(written: Path, tmp_path: Path) -> None:
    write_plots(tmp_path / "x.svg", "t <title>", charts())
    assert (tmp_path / "x.svg").read_bytes() == (written / "x.svg").read_bytes()


def test_names_are_drawn_as_text(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="vl-convert is not installed (the plots extra)")
    hostile = "</svg><script>alert(1)</script>\"'\\];" + "x" * 200
    lines = [ChartLine(hostile, [0, 1], [1.0, 2.0]), ChartLine("two", [0, 1], [2.0, 1.0])]
    write_plots(tmp_path / "x.html", hostile, [Chart(hostile, lines, [(0.0, hostile), (1.0, "b")])])
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "<script" not in page
    shown = texts_of(page[page.index("<svg") : page.index("</svg>") + 6])
    assert shown.count(hostile) >= 2, "the title of the page, and that of the chart"
    (of_the_line,) = [text for text in shown if text.startswith(hostile[:30]) and "…x" in text]
    assert len(of_the_line) > 70
    assert {"two", "b"} <= set(shown)


def test_none_and_what_is_not_finite_break_a_line() -> None:
    heights = [1.0, None, 2.0, float("nan"), float("inf"), 3.0, 4.0]
    broken, same = ChartLine("a", range(7), heights), ChartLine("a", [0], [9.0])
    (drawn,) = specification("t", [Chart("c", [broken, same])])["vconcat"]
    (layer,) = drawn["layer"]
    points = [(point["x"], point["y"], point["run"]) for point in layer["data"]["values"]]
    assert [(x, y) for x, y, _ in points] == [(0, 1), (2, 2), (5, 3), (6, 4), (0, 9)]
    runs = [run for _, _, run in points]
    assert runs[2] == runs[3]
    assert len(set(runs)) == 4, "two lines of one name are two lines"


def test_lines_have_the_colours_of_their_order() -> None:
    lines = [ChartLine(f"l{9 - number}", [0], [1.0]) for number in range(7)]
    (drawn,) = specification("t", [Chart("c", lines, diagonal=True)])["vconcat"]
    diagonal, layer = drawn["layer"]
    scale = layer["encoding"]["color"]["scale"]
    assert scale["domain"] == [line.name for line in lines]
    assert scale["range"] == [*COLOURS, *COLOURS[:2]]
    assert diagonal["data"]["values"] == [{"x": 0.0, "y": 0.0}, {"x": 1.0, "y": 1.0}]


def test_without_the_library_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    for suffix in ("html", "svg", "png"):
        with pytest.raises(ConfigError, match=rf"x.{suffix}: a plot needs vl_convert.*\[plots\]'"):
            check_plot(tmp_path / f"x.{suffix}")
    with pytest.raises(ConfigError, match=r"pip install 'dovetail-samples\[plots\]'"):
        write_plots(tmp_path / "x.svg", "t", charts())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x.pdf: plots are written as .html, .svg or .png"):
        write_plots(tmp_path / "x.pdf", "t", charts())
    with pytest.raises(ConfigError, match=r"there is no folder .*none; make it"):
        check_plot(tmp_path / "none" / "x.svg")
