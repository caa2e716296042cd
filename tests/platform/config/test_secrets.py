"""No password in anything that is said: every option that can hold one, found in the configuration's own models."""

from __future__ import annotations

import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from dovetail.app.storage import open_stores, resolved
from dovetail.cli.main import unforeseen
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.errors import ConfigError, DovetailError
from dovetail.platform.masking import masked
from dovetail.platform.runtime.runner import create_app
from dovetail.platform.transports.kafka.security import credentials

SECRET = "hunter2-S3cret"
SCHEMES = ("kafka", "embedded", "postgresql+psycopg", "redis", "rediss", "redis+cluster", "s3", "ftp", "nothing")
URLS = [f"{scheme}://user:{SECRET}@127.0.0.1:1/path?password={SECRET}" for scheme in SCHEMES]
URLS += [
    f"postgresql+psycopg://user:{SECRET}@host:x/db",
    f"redis://:{SECRET}@127.0.0.1:1/x",
    f"KEY:{SECRET}@bucket/path",
]
TOML = """
name = "secrets"
[streams.behaviour]
key = "user_id"
[request]
[labels]
window = "15m"
[labels.streams.exposure]
[labels.streams.click]
"""


def sections(annotation: Any) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """The models in an annotation, with the keys that lead to them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from sections(part)
    elif get_origin(annotation) is not None and get_args(annotation):
        for path, model in sections(get_args(annotation)[-1]):
            yield ("some_name", *path), model


def options(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every option that is no section, as the path of keys to it."""
    for name, field in model.model_fields.items():
        below = list(sections(field.annotation))
        for path, section in below:
            if section is not model:
                yield from options(section, (*above, name, *path))
        if not below:
            yield (*above, name)


OPTIONS = sorted(set(options(Config)))


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: nested(path[1:], value) if len(path) > 1 else value}


def says_it(do: Callable[[], object]) -> bool:
    """Whether ``do`` fails with the secret in what may come of its error: text, representation, exception line."""
    try:
        do()
    except DovetailError as error:
        return SECRET in f"{error} {error!r} {traceback.format_exception_only(error)}"
    return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dovetail.toml").write_text(TOML)
    return tmp_path


def test_the_options_are_found() -> None:
    assert {("storage", "broker"), ("redis", "password_env"), ("labels", "streams", "some_name", "topic")} < set(
        OPTIONS
    )
    assert len(OPTIONS) > 80


def test_no_option_says_a_secret_that_was_given(folder: Path) -> None:
    values: list[Any] = [shape for url in URLS for shape in (url, [url], {"some_key": url}, [[url]])]
    said = [
        (option, value)
        for option in OPTIONS
        for value in [*values, *([SECRET, [SECRET]] if "password" in option[-1] else [])]
        if says_it(partial(load_config, folder, **nested(option, value)))
    ]
    assert not said


@pytest.mark.parametrize("url", URLS, ids=[*SCHEMES, "port", "database", "no scheme"])
def test_no_store_or_broker_says_the_password_of_its_url(url: str, folder: Path) -> None:
    redis = {"retries": 0, "connect_timeout": "1s"}
    for kind in ("online_store", "label_store", "registry", "offline_store"):
        config = load_config(folder, storage={kind: url}, redis=redis)
        assert not says_it(lambda config=config: open_stores(config).close())  # type: ignore[misc]
    config = load_config(folder, storage={"broker": url})
    assert not says_it(lambda: create_app("secrets", resolved(config, url)))
    if url.startswith("kafka"):
        assert SECRET not in masked(str(create_app("secrets", url).conf.broker[0]))


@pytest.mark.parametrize("option", ["password_env", "password_file"])
def test_a_password_in_place_of_where_it_is_is_not_said(option: str, folder: Path) -> None:
    config = load_config(folder, broker={"user": "me", option: SECRET}, redis={option: SECRET})
    assert not says_it(lambda: credentials(config.broker, config.path))
    assert not says_it(lambda: config.redis.below(config.root).password())
    with pytest.raises(ConfigError, match=f"redis.{option}: "):
        config.redis.below(config.root).password()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kafka://me:pw@host:9092", "kafka://me:***@host:9092"),
        ("s3://KEY:SE/CR+ET@bucket/x", "s3://KEY:***@bucket/x"),
        ("redis://:p@ss:w@host/0", "redis://:***@host/0"),
        ("postgresql://me@host/db?sslpassword=pw&x=1", "postgresql://me@host/db?sslpassword=***&x=1"),
        ("abfs://c@account?account_key=pw;sas_token=pw", "abfs://c@account?account_key=***;sas_token=***"),
        ("two: a://u:p@h, b://v:q@i", "two: a://u:***@h, b://v:***@i"),
        ("KEY:SECRET@bucket/x.parquet: gone", "KEY:***@bucket/x.parquet: gone"),
        ("sql/x.sql:7: behaviour[0]@17 is wrong; see a@b", "sql/x.sql:7: behaviour[0]@17 is wrong; see a@b"),
        ("http://127.0.0.1:8080/healthz, 12:30:59 and C:\\x", "http://127.0.0.1:8080/healthz, 12:30:59 and C:\\x"),
    ],
)
def test_what_is_masked_and_what_is_not(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown
    assert str(DovetailError(text)) == shown


def test_a_traceback_of_what_nobody_foresaw_has_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    cause = ValueError(f"s3://KEY:{SECRET}@bucket/x")
    error = RuntimeError("not foreseen")
    error.__cause__ = cause
    unforeseen(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert "ValueError: s3://KEY:***@bucket/x" in said
    assert "RuntimeError: not foreseen" in said
    assert SECRET not in said
