"""Links of a built site: each leads to a file that is there, and to a place on it; nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["broken_links"]

#: What a browser loads without being asked.
_LOADED = {"img": "src", "link": "href", "script": "src", "source": "src", "iframe": "src"}


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in _LOADED and given.get(_LOADED[tag]) and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given[_LOADED[tag]])


def broken_links(site: Path) -> list[str]:
    """``PAGE: LINK`` of each link inside ``site`` that leads nowhere, and of what is loaded from elsewhere."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    return [
        f"{path.relative_to(site.resolve())}: {link}"
        for path, page in pages.items()
        if path.name != "404.html"
        for link in _broken(path, page, pages)
    ]


def _broken(path: Path, page: _Page, pages: dict[Path, _Page]) -> Iterator[str]:
    yield from (link for link in page.loaded if urlsplit(link).netloc)
    for link in [*page.links, *page.loaded]:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target = target / "index.html"
        if not target.exists() or (parts.fragment and target in pages and not _is_place(parts.fragment, pages[target])):
            yield link


def _is_place(fragment: str, page: _Page) -> bool:
    return fragment.startswith("__") or unquote(fragment) in page.places
