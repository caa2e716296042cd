"""Tokens come from a file or a variable, are never quoted, and grant what their line says."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.api.tokens import Scope, tokens_of
from dovetail.platform.config.served.api import ApiConfig
from dovetail.platform.errors import ConfigError

SECRET = "s3cret-s3cret-s3cret"


def test_lines_are_tokens_and_scopes(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n\n{SECRET} send, rank\nanother-token-of-ours read\n{SECRET} read\n")
    tokens = tokens_of(ApiConfig(tokens_file=Path("tokens")), lambda relative: tmp_path / relative)
    assert tokens
    assert tokens.granted(SECRET) == frozenset(Scope)
    assert tokens.granted("another-token-of-ours") == frozenset({Scope.read})
    assert tokens.granted(SECRET + "x") is None
    assert tokens.granted(None) is None
    assert SECRET not in repr(vars(tokens))


def test_a_variable_may_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_TOKENS", f"{SECRET} rank")
    assert tokens_of(ApiConfig(tokens_env="OUR_TOKENS")).granted(SECRET) == frozenset({Scope.rank})


def test_without_tokens_this_machine_may_do_everything() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        assert tokens_of(ApiConfig(host=host)).granted(None) == frozenset(Scope)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "api.internal"])
def test_without_tokens_no_other_machine_may(host: str) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines: name tokens"):
        tokens_of(ApiConfig(host=host))


@pytest.mark.parametrize(
    "text",
    ["", "# none", "short send", SECRET, f"{SECRET} write", f"{SECRET} ,", f"{SECRET}send", f"{SECRET} send;rank"],
)
def test_lines_that_grant_nothing_are_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        tokens_of(ApiConfig(tokens_file=file))
    assert "tokens_file" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="tokens_file: the file that it names cannot be read"):
            tokens_of(ApiConfig(tokens_file=path))
    with pytest.raises(ConfigError, match="NOWHERE has no tokens"):
        tokens_of(ApiConfig(tokens_env="NOWHERE"))


def test_a_certificate_needs_its_key_and_tokens_one_place() -> None:
    with pytest.raises(ValueError, match="cert_file and key_file belong together"):
        ApiConfig(cert_file=Path("a.pem"))
    with pytest.raises(ValueError, match="two places for one thing"):
        ApiConfig(tokens_file=Path("a"), tokens_env="A")
