"""Everything durable beside the broker: what the configuration names, opened; and the offline tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from dovetail.features.plan.definitions import Table
from dovetail.platform.config.load import Config
from dovetail.platform.config.served.experiments import own_versions
from dovetail.platform.errors import StoreError, WireError
from dovetail.platform.lake.opened_table import lake_table
from dovetail.platform.owned import owned_folder
from dovetail.platform.rows.accounts import Account
from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.stores.online_stores import open_online_store
from dovetail.platform.stores.registry.store import Registry
from dovetail.trainer.models.publish import ModelDirectory

__all__ = ["Stores", "load_table", "open_stores", "place_of_table", "resolved", "stores_of", "unopened"]


@dataclass(frozen=True, slots=True)
class Stores:
    """Everything durable beside the broker."""

    online: OnlineStore
    labels: LabelStore
    registry: Registry
    offline: OfflineStore
    models: ModelDirectory
    checkpoints: Path

    def accounts(self) -> list[Account]:
        """All accounts of all stores. Stores that share a database share its accounts: each counts once."""
        accounts = [*self.online.accounts(), *self.labels.accounts(), *self.registry.accounts()]
        return list({account[:4]: account for account in accounts}.values())

    def close(self) -> None:
        """Release connections."""
        for store in (self.online, self.labels, self.registry):
            store.close()


def open_stores(config: Config, *, read_only: bool = False) -> Stores:
    """Open what the configuration names, creating what is embedded.

    With ``read_only`` nothing is created, and SQL databases refuse whatever would change them.

    Raises:
        ConfigError: a URL cannot be used, or a database is another project's.
        StoreError: a store cannot be reached, or, with ``read_only``, is not there.
    """
    urls = config.storage
    state = config.path(urls.state)
    if not read_only:
        owned_folder(state)
    redis = config.redis.below(config.root)
    return Stores(
        open_online_store(resolved(config, urls.url("online_store")), config.name, redis, read_only=read_only),
        open_label_store(resolved(config, urls.url("label_store")), config.name, redis, read_only=read_only),
        Registry(resolved(config, urls.url("registry")), config.name, read_only=read_only),
        OfflineStore(resolved(config, urls.url("offline_store"))),
        *_of_model(config),
    )


def stores_of(config: Config, stores: Stores) -> Stores:
    """``stores`` as the scene of ``config`` has them: with the folders of its own model, and all else shared."""
    if not config.scene:
        return stores
    models, checkpoints = _of_model(config)
    return replace(stores, models=models, checkpoints=checkpoints)


def _of_model(config: Config) -> tuple[ModelDirectory, Path]:
    """The folder of the model's versions, and that of its checkpoints."""
    state, model = config.path(config.storage.state), config.model.name if config.model else "none"
    return ModelDirectory(
        state / "models" / model, used=own_versions(config.experiments)
    ), state / "checkpoints" / model


def unopened(config: Config) -> list[str]:
    """Why stores cannot be opened, one text for each that cannot."""
    redis = config.redis.below(config.root)
    urls = config.storage
    stores: dict[str, tuple[str, Callable[[str, str], OnlineStore | LabelStore | Registry]]] = {
        "online_store": (urls.url("online_store"), partial(open_online_store, redis=redis)),
        "label_store": (urls.url("label_store"), partial(open_label_store, redis=redis)),
        "registry": (urls.url("registry"), Registry),
    }
    found = []
    for name, (url, opened) in stores.items():
        try:
            opened(resolved(config, url), config.name).close()
        except StoreError as error:
            found.append(f"{name}: {error}")
    return found


def resolved(config: Config, url: str) -> str:
    """``url`` with a relative path taken from the project's folder."""
    for scheme in ("sqlite:///", "embedded://"):
        if url.startswith(scheme):
            return f"{scheme}{config.path(url.removeprefix(scheme)).absolute()}"
    return url if "://" in url else str(config.path(url).absolute())


def place_of_table(config: Config, table: Table) -> str:
    """Where an offline table is: a path from the project's folder on, or a URL."""
    return table.path if "://" in table.path else str(config.path(table.path))


def load_table(config: Config, table: Table) -> pa.Table:
    """An offline table: a Parquet file or a folder of them, or a table of Iceberg or Delta as it is now.

    Raises:
        WireError: it cannot be read, or lacks a declared column.
        ConfigError: it is a table of a format whose library is not installed, or that cannot be read.
    """
    if (found := lake_table(place_of_table(config, table))) is not None:
        return found.read(table.schema.arrow.names)
    import pyarrow.dataset as ds  # a tenth of a second, which opening the stores need not take

    path = config.path(table.path)
    try:
        return ds.dataset(path, format="parquet").to_table(columns=table.schema.arrow.names)
    except FileNotFoundError as error:
        columns = ", ".join(table.schema.arrow.names)
        raise WireError(
            f"offline table {table.schema.name}: {path} does not exist; write it, Parquet with the columns {columns}, "
            f"or correct [tables.{table.schema.name}] path"
        ) from error
    except (OSError, pa.ArrowInvalid) as error:
        raise WireError(
            f"offline table {table.schema.name} at {path} does not fit {table.schema.file}: {error}"
        ) from error
