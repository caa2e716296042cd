"""What a refusal must say, and short ways to write what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dovetail.features import Project
from dovetail.platform.errors import DefinitionError

LoadProject = Callable[..., Project]

W = "PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW"


def view(aggregate: str, *, window: str = W, rest: str = "", keys: str = "user_id") -> str:
    return f"SELECT {keys},\n       {aggregate}\nFROM behaviour {rest}\nWINDOW w AS ({window})"


def framed(frame: str) -> str:
    return view("count(*) OVER w AS n", window=f"PARTITION BY user_id ORDER BY event_time {frame}")


#: (the view's text, what the message says after "sql/x.sql:")
def refused(load_project: LoadProject, files: dict[str, str | None], message: str, also: str = "") -> None:
    with pytest.raises(DefinitionError) as raised:
        load_project(files)
    assert str(raised.value).startswith(message)
    assert also in str(raised.value)
    remedy = str(raised.value).partition("; ")[2]
    assert remedy, "a remedy"
    assert not any(said in remedy for said in ("correct the expression", "correct the statement")), "says what to write"
