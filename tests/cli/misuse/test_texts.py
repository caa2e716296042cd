"""An error's text arrives as it is, whatever is in it: brackets, backslashes and colons are no markup."""

from __future__ import annotations

import importlib
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from dovetail.platform.errors import ConfigError, ModelError
from tests.generated import tries

command = importlib.import_module("dovetail.cli.main")  # the package gives its function by the same name

TEXTS = st.text(st.sampled_from("ab/[]\\:=#@ ,1"), max_size=12) | st.text(
    st.characters(exclude_categories=["C", "Z"]), max_size=12
)


@settings(max_examples=tries(50))
@given(text=TEXTS, kind=st.sampled_from([ConfigError, ModelError]))
@example("x\\[/bold]", ConfigError)
@example("[bold]:smile:\\", ModelError)
def test_every_text_is_said_as_it_is(text: str, kind: type[ConfigError | ModelError]) -> None:
    def fail() -> None:
        raise kind(text)

    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "app", fail)
        patch.setattr(command, "errors", Console(file=written, width=40))
        with pytest.raises(SystemExit):
            command.main()
    assert written.getvalue().removesuffix("\n") == f"{'error' if kind is ConfigError else 'ModelError'}: {text}"
