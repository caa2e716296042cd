"""The roles of a worker, and the consumer group that those who share a set of roles make."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.platform.config.load import Config
from dovetail.platform.errors import ConfigError

__all__ = ["ROLES", "all_roles", "group_of", "roles_of"]

#: What ``--agents`` chooses from.
ROLES = ("rekey", "features", "snapshots", "labels", "samples", "trainer", "shards", "gradients", "models", "archive")


def all_roles(config: Config) -> tuple[str, ...]:
    """Every role that the configuration has something for: those of a worker that is not told otherwise."""
    models = [scene.model for scene in config.every_scene() if scene.model is not None]
    without = {"trainer", "models"} if not models else set() if any(model.topic for model in models) else {"models"}
    without |= set() if config.rekeyed else {"rekey"}
    without |= set() if config.trainer.sharded else {"shards"}
    without |= set() if config.trainer.gradient_workers else {"gradients"}
    return tuple(role for role in ROLES if role not in without)


def roles_of(config: Config, agents: Sequence[str]) -> tuple[str, ...]:
    """The roles named, in the order of :data:`ROLES`; all for none named.

    Raises:
        ConfigError: an unknown role, or one that the configuration has nothing for.
    """
    unknown = sorted(set(agents) - set(ROLES))
    if unknown:
        raise ConfigError(f"--agents: there is no agent {unknown[0]!r}; choose from {', '.join(ROLES)}")
    if "trainer" in agents and all(scene.model is None for scene in config.every_scene()):
        raise ConfigError("--agents: trainer needs a [model] section in dovetail.toml, and there is none")
    if "shards" in agents and not config.trainer.sharded:
        raise ConfigError("--agents: shards needs [trainer] shards in dovetail.toml, and there is none")
    if "gradients" in agents and not config.trainer.gradient_workers:
        raise ConfigError('--agents: gradients needs [trainer] by = "samples" in dovetail.toml')
    if "rekey" in agents and not config.rekeyed:
        raise ConfigError("--agents: rekey needs a [rekeyed.NAME] section in dovetail.toml, and there is none")
    there = all_roles(config)
    return tuple(role for role in there if role in agents) if agents else there


def group_of(config: Config, roles: Sequence[str]) -> str:
    """The consumer group of workers with these roles: it carries their names, unless they are all.

    Members of one group share the partitions of a topic. Two roles may read the same topic, and each must see all of
    it; so workers with different roles must not be members of one group.
    """
    there = all_roles(config)
    named = [role for role in there if role in roles]
    return _base(config) if len(named) == len(there) else f"{_base(config)}.{'+'.join(named)}"


def _base(config: Config) -> str:
    return f"dovetail-{config.name}"
