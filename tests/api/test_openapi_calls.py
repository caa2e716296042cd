"""Calls made up from the OpenAPI page: whatever is sent, the API has an answer, and none is a server's error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from tests.api.test_idempotence import DECLARED
from tests.api.test_process import serving
from tests.app.small_project import write_project
from tests.generated import tries

#: How many calls are made up; `make nightly` makes 5,000, other ones each time.
CALLS = min(5_000, max(100, tries(200)))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker with the API, in a process of its own."""
    folder = tmp_path_factory.mktemp("fuzzed") / "project"
    write_project(folder, f"{DECLARED}\n[api]\nport = 0\n", messages={})
    with serving(folder, "worker") as (process, url):
        yield url
        assert process.poll() is None, "the worker has ended"


def test_no_call_that_the_page_allows_or_forbids_fails_inside(url: str) -> None:
    page = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    operations = [found.ok() for found in page.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) >= 8
    answered: Counter[int] = Counter()
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations for mode in modes])

    @settings(
        max_examples=CALLS,
        derandomize=CALLS <= 200,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def check(case: Any) -> None:
        response = case.call(timeout=60)
        answered[response.status_code] += 1
        assert response.status_code < 500, (case.as_curl_command(), response.status_code, response.text)

    check()
    assert answered[200] > CALLS // 20
    assert sum(answered[status] for status in (400, 415, 422)) > CALLS // 20
