"""The ``[redis]`` section: how the stores behind ``redis://`` URLs are reached. Secrets are named here, not written."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, model_validator

from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import Section
from dovetail.platform.errors import ConfigError
from dovetail.platform.masking import variable_name

__all__ = ["RedisConfig"]


class RedisConfig(Section):
    """Access, encryption and patience; the same for the online and the label store.

    TLS is chosen by the URL (``rediss://``), a cluster by the URL (``redis+cluster://``, ``rediss+cluster://``) or by
    ``cluster``.
    """

    cluster: bool = False
    #: The ACL user; empty is Redis' default user, or the one in the URL.
    username: str = ""
    #: The environment variable, or the file, that holds the password.
    password_env: str = ""
    password_file: Path | None = None
    #: PEM files: who signed the server's certificate (else what the system trusts), and the client's own.
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    connect_timeout: DurationUs = 5_000_000
    #: A Redis that says nothing for this long has failed the call.
    timeout: DurationUs = 30_000_000
    #: A failed call is repeated this often, after 0.1, 0.2, 0.4 ... 2 seconds, less some chance. A cluster's failover
    #: takes its ``cluster-node-timeout`` and a second or two; 8 repetitions wait for at least 5.5 seconds, 24 for 21.
    retries: int = Field(default=8, ge=0, le=100)

    @model_validator(mode="after")
    def _goes_together(self) -> RedisConfig:
        if self.password_env and self.password_file is not None:
            raise ValueError("password_env and password_file are two places for one password; remove one of them")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; give both, the client's certificate and its private key")
        return self

    def below(self, root: Path) -> RedisConfig:
        """The same, with relative paths taken from ``root``."""
        paths = {name: getattr(self, name) for name in ("password_file", "ca", "certificate", "key")}
        return self.model_copy(update={name: root / path for name, path in paths.items() if path is not None})

    def password(self) -> str | None:
        """The password, read where it is kept; None: there is none, or it is in the URL.

        Raises:
            ConfigError: the variable or the file is not there.
        """
        if self.password_env:
            if self.password_env not in os.environ:
                name = variable_name(self.password_env)
                raise ConfigError(f"redis.password_env: the environment variable {name} is not set; export it")
            return os.environ[self.password_env]
        if self.password_file is not None:
            try:
                return self.password_file.read_text(encoding="utf-8").rstrip("\n")
            except OSError as error:
                raise ConfigError(
                    f"redis.password_file: it cannot be read: {error.strerror}; name a file with the password"
                ) from error
        return None
