"""Macros that definitions may use: names for plain DuckDB SQL that the stream engine knows how to keep.

Every DuckDB session that has run :data:`MACROS` runs the definitions unchanged; Dovetail does so in each of its own.
A list here is one of the window's values in window order, as ``list(x) OVER w`` gives it.
"""

from __future__ import annotations

__all__ = ["MACROS"]

MACROS = (
    # Lower bound of a hopping window, as a distance: exact at the head, the tail rounded down to ``step``.
    "CREATE MACRO hop(ts, size, step) AS ts - time_bucket(step, ts - size)",
    # The last k distinct values of a list, the latest first; the first k, the earliest first. NULLs are left out.
    """CREATE MACRO first_distinct(items, k) AS CASE WHEN list_count(items) > 0 THEN list_slice(list_filter(
           list_filter(items, lambda __x: __x IS NOT NULL),
           lambda __x, __i: list_position(list_filter(items, lambda __y: __y IS NOT NULL), __x) = __i), 1, k) END""",
    "CREATE MACRO last_distinct(items, k) AS first_distinct(list_reverse(items), k)",
    # The last k values of a list, the latest first, NULLs among them.
    "CREATE MACRO newest(items, k) AS list_slice(list_reverse(items), 1, k)",
    # The k keys of a histogram with the highest counts, or of another map with the greatest numbers; of equal ones the
    # smaller key first.
    """CREATE MACRO top_k(counts, k) AS list_slice(list_transform(list_sort(list_transform(map_entries(counts),
           lambda __e: struct_pack(n := 0::HUGEINT - struct_extract(__e, 'value'),
                                   v := struct_extract(__e, 'key')))),
           lambda __s: struct_extract(__s, 'v')), 1, k)""",
    # Of lists: how often each element occurs in all of them. Of arrays: the sum, and the average, at each place.
    "CREATE MACRO histogram_each(items) AS list_histogram(flatten(items))",
    """CREATE MACRO __places(items) AS range(1, len(list_filter(items, lambda __x: __x IS NOT NULL)[1]) + 1)""",
    """CREATE MACRO sum_each(items) AS list_transform(__places(items),
           lambda __i: list_sum(list_transform(items, lambda __x: __x[__i])))""",
    """CREATE MACRO avg_each(items) AS list_transform(__places(items),
           lambda __i: list_avg(list_transform(items, lambda __x: __x[__i])))""",
    # Of a list of {'k': …, 'v': …}: what to add up per key. NULL keys and values are left out.
    """CREATE MACRO __by(items) AS list_filter(items, lambda __e: struct_extract(__e, 'k') IS NOT NULL
           AND struct_extract(__e, 'v') IS NOT NULL)""",
    """CREATE MACRO __keys(items) AS list_sort(list_distinct(list_transform(items,
           lambda __e: struct_extract(__e, 'k'))))""",
    """CREATE MACRO __of(items, key) AS list_transform(list_filter(items,
           lambda __e: struct_extract(__e, 'k') = key), lambda __e: struct_extract(__e, 'v'))""",
    # MAP(key, sum of its values), keys ascending; the same with averages, and with counts (which finish them).
    """CREATE MACRO sum_by(items) AS CASE WHEN len(__by(items)) > 0 THEN map_from_entries(list_transform(
           __keys(__by(items)), lambda __k: struct_pack(k := __k, v := list_sum(__of(__by(items), __k))))) END""",
    """CREATE MACRO avg_by(items) AS CASE WHEN len(__by(items)) > 0 THEN map_from_entries(list_transform(
           __keys(__by(items)), lambda __k: struct_pack(k := __k, v := list_avg(__of(__by(items), __k))))) END""",
    # The same with the least and the greatest.
    """CREATE MACRO least_by(items) AS CASE WHEN len(__by(items)) > 0 THEN map_from_entries(list_transform(
           __keys(__by(items)), lambda __k: struct_pack(k := __k, v := list_min(__of(__by(items), __k))))) END""",
    """CREATE MACRO greatest_by(items) AS CASE WHEN len(__by(items)) > 0 THEN map_from_entries(list_transform(
           __keys(__by(items)), lambda __k: struct_pack(k := __k, v := list_max(__of(__by(items), __k))))) END""",
    """CREATE MACRO count_by(items) AS CASE WHEN len(__by(items)) > 0 THEN map_from_entries(list_transform(
           __keys(__by(items)), lambda __k: struct_pack(k := __k, v := len(__of(__by(items), __k))))) END""",
)
