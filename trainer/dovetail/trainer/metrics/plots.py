"""Plots as HTML, SVG or PNG, drawn from one specification by vl-convert: the ``plots`` extra. It needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from dovetail.platform.errors import ConfigError
from dovetail.platform.extras import needs_extra
from dovetail.platform.targets import require_file_target
from dovetail.trainer.metrics.charts import Chart
from dovetail.trainer.metrics.vega import specification

__all__ = ["check_plot", "write_plots"]

#: Pixels of a PNG per unit of the same plot as SVG.
_SCALE = 2.0


def check_plot(path: Path) -> None:
    """Refuse what :func:`write_plots` could not write, before anything has been computed for it.

    Raises:
        ConfigError: the suffix is none of a plot's, it cannot be written, or vl-convert is not installed.
    """
    if path.suffix not in (".html", ".svg", ".png"):
        raise ConfigError(f"{path}: plots are written as .html, .svg or .png; name such a file")
    require_file_target(path)
    with needs_extra(f"{path}: a plot", "plots"):
        import vl_convert  # noqa: F401


def write_plots(path: Path, title: str, charts: Sequence[Chart]) -> None:
    """Write ``charts`` below one another as the suffix of ``path`` says: .html, .svg or .png.

    HTML is one file without scripts and holds the SVG; PNG has two pixels for each unit of it.

    Raises:
        ConfigError: as of :func:`check_plot`.
    """
    check_plot(path)
    # 34 MB that only plots need.
    import vl_convert

    drawn = specification(title, charts)
    if path.suffix == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(drawn, scale=_SCALE))
        return
    svg = vl_convert.vegalite_to_svg(drawn)
    path.write_text(svg if path.suffix == ".svg" else _page(title, svg), encoding="utf-8")


def _page(title: str, svg: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{margin:2rem}svg{max-width:100%;height:auto}</style></head>\n"
        f"<body>{svg}</body></html>\n"
    )
