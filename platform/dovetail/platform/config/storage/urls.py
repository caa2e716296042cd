"""``[storage]``: the URLs of the broker and the stores."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dovetail.platform.config.section import Section

__all__ = ["StorageConfig"]


class StorageConfig(Section):
    """URLs of the broker and the stores. Empty means embedded, below ``state``."""

    state: Path = Path(".dovetail")
    broker: str = ""
    online_store: str = ""
    label_store: str = ""
    registry: str = ""
    offline_store: str = ""

    def url(self, kind: Literal["broker", "online_store", "label_store", "registry", "offline_store"]) -> str:
        """The URL of ``kind``, with the embedded default filled in."""
        given: str = getattr(self, kind)
        if given:
            return given
        if kind == "broker":
            return f"embedded://{self.state / 'log.sqlite'}"
        if kind == "offline_store":
            return str(self.state / "offline")
        return f"sqlite:///{self.state / (kind + '.sqlite')}"

    @property
    def local(self) -> bool:
        """Whether the broker and all stores are files, so that nothing waits for a server."""
        given = (self.broker, self.online_store, self.label_store, self.registry, self.offline_store)
        return all("://" not in url or url.startswith(("embedded://", "sqlite:///", "file://")) for url in given)
