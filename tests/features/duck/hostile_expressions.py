"""Checks and evaluates expressions of DuckDB's own functions over hostile rows; run in a process of limited memory.

``hostile_expressions.py SEED COUNT`` prints one line of JSON: how many expressions had which outcome, and by how many
bytes the memory of this process has grown.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa

from dovetail.features.duck import bounded
from dovetail.features.duck.binding import Binder
from dovetail.features.duck.bounded import Bounds
from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.growth import value_may_grow
from dovetail.features.duck.lane import DuckLane, LaneError
from dovetail.features.duck.parsing import BindError
from dovetail.features.duck.row_by_row import not_row_by_row
from dovetail.features.duck.stability import unstable_functions

LARGE = 400_000_000
ROWS = pa.table(
    {
        "s": pa.array(["a" * 2_000, "", None]),
        "n": pa.array([LARGE, -LARGE, 3], pa.int64()),
        "l": pa.array([list(range(2_000)), [], None], pa.list_(pa.int64())),
        "t": pa.array([["ab" * 50] * 200, [], None], pa.list_(pa.string())),
    }
)
LEAVES = ("s", "n", "l", "t", "'x'", "'%a%a%a%a%a%ab'", str(LARGE), "3", "[1, 2]", "'median'", "0.5")
#: Texts that nobody meets by chance.
KNOWN = (
    "list_reduce(list_transform(range(34), lambda i: 'x'), lambda a, b: a || a)",
    "list_reduce(l, lambda a, b: a || a)",
    "list_transform(range(40000), lambda x: range(40000))",
    "list_transform(l, lambda x: s)",
    "list_transform(l, lambda x: l)",
    "list_transform(l, lambda x: list_transform(l, lambda y: list_transform(l, lambda z: z)))",
    "list_select(['" + "x" * 1_000 + "'], list_transform(range(1000000), lambda x: 1))",
    "array_to_string(t, repeat(s, 1000))",
    "list_aggregate(t, 'string_agg', repeat(s, 1000))",
    "CAST(NULL AS INTEGER[100000][100000])",
    "CASE WHEN n = 3 THEN 1 ELSE len(range(n)) END",
    "repeat(repeat(repeat('x', 9000), 9000), 9000)",
    "printf('%400000000d', 1)",
    "sleep_ms(1000000)",
)


def expressions(seed: int, count: int) -> list[str]:
    rows = shared_cursor().execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() "
        "WHERE function_type IN ('scalar', 'macro') AND regexp_full_match(function_name, '[a-z][a-z0-9_]*') "
        "AND NOT contains(function_name, 'collate') ORDER BY 1"
    )
    names, chance = [name for (name,) in rows.fetchall()], random.Random(seed)
    # Half of them of those that make texts and lists of numbers.
    makers = [name for name in names if any(part in name for part in ("list", "array", "pad", "range", "repeat", "re"))]

    def made(depth: int) -> str:
        kind = chance.random()
        if depth == 0 or kind < 0.3:
            return chance.choice(LEAVES)
        if kind < 0.4:
            return f"({made(depth - 1)} || {made(depth - 1)})"
        if kind < 0.5:
            body = chance.choice(("x", "x || x", "[x, x]", "s", "x + 1", made(depth - 1)))
            called = chance.choice(("list_transform", "list_filter", "list_reduce"))
            parameters = "x, y" if called == "list_reduce" else "x"
            return f"{called}({chance.choice(('l', 't', made(depth - 1)))}, lambda {parameters}: {body})"
        arguments = ", ".join(made(depth - 1) for _ in range(chance.choice((1, 2, 2, 3))))
        return f"{chance.choice(chance.choice((names, makers)))}({arguments})"

    return [*KNOWN, *(made(chance.choice((1, 1, 2))) for _ in range(count))]


def outcome(sql: str, binder: Binder) -> str:
    """One word for what became of it."""
    try:
        if not_row_by_row(sql) is not None:
            return "refused"
        if any(name in sql for name in unstable_functions() if name.isalpha() and len(name) > 3):
            return "refused"
        type_ = binder.describe(f"SELECT {sql} AS v FROM r").field(0).type
    except BindError as error:
        return "bounded" if "computing it once takes" in str(error) else "refused"
    except pa.ArrowException:
        return "refused"  # a type that Arrow does not have
    try:
        DuckLane([(sql, type_)]).evaluate(ROWS)
    except LaneError as error:
        return "bounded" if "it takes" in str(error) else "failed"
    return "child" if value_may_grow(sql) else "here"


def main(seed: int, count: int) -> None:
    bounded.BOUNDS = Bounds(memory_bytes=256 << 20, seconds=2.0, result_bytes=32 << 20)
    binder = Binder({"r": ROWS.schema})
    binder.describe("SELECT repeat(s, n) AS v FROM r")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + (1 << 30), resource.RLIM_INFINITY))
    found: Counter[str] = Counter()
    for sql in expressions(seed, count):
        found[outcome(sql, binder)] += 1
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        if grown > 200 << 20:
            sys.exit(f"{grown >> 20} MiB after {sql}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
