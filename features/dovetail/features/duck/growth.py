"""Growth tells which texts may make more of a row than the row brings: values or work out of proportion to it.

``range(1000000000)`` is a value of 8 GB in a text of 17 characters, and DuckDB computes it when it binds the text. Its
memory limit does not count the values of expressions. So what may grow is computed in a process of its own, within
limits (``bounded.py``). A text is taken for growing unless it is made of calls that are known not to: those that give
numbers and times by DuckDB's own catalogue, and a list of those whose text or list is no longer than what they are
given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.parsing import query_tree, syntax_tree
from dovetail.features.duck.trees import nodes

__all__ = ["query_may_grow", "value_may_grow"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: What literals may multiply a row by: ``repeat(x, 100)`` is 100 times ``x``.
_MAX_FACTOR = 10_000
#: From here on, concatenations of what concatenations gave, or SELECTs inside SELECTs, are taken for doublings.
_MAX_JOINED, _MAX_SELECTS = 16, 8

_FIXED = _names(
    "BOOLEAN TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT FLOAT DOUBLE "
    "DECIMAL DATE TIME TIMESTAMP TIMESTAMP_S TIMESTAMP_MS TIMESTAMP_NS INTERVAL UUID"
)
#: Fixed results that cost more than their arguments are long, or wait.
_COSTLY = _names(
    "levenshtein editdist3 damerau_levenshtein jaro_similarity jaro_winkler_similarity jaccard sleep_ms pg_sleep "
    "write_log factorial"
)
#: A text, list, map or STRUCT that is at most as long as all that they are given, some bytes for each part apart.
_NO_LONGER = _names(
    "+ - & | ~ xor add subtract lower upper lcase ucase trim ltrim rtrim substring substr left right reverse "
    "strip_accents || concat concat_ws md5 sha1 sha256 hex to_hex bin to_base64 base64 from_base64 encode decode "
    "chr dayname monthname strftime date_part datepart typeof regexp_extract regexp_extract_all string_split "
    "str_split split string_to_array split_part string_split_regex str_split_regex regexp_split_to_array "
    "list_value list_pack array_value struct_pack row map map_from_entries map_entries map_keys "
    "map_values map_extract map_extract_value element_at map_concat struct_extract struct_extract_at struct_insert "
    "list_extract list_element array_extract list_slice array_slice list_sort array_sort list_reverse_sort "
    "array_reverse_sort list_reverse array_reverse list_distinct array_distinct list_concat list_cat array_concat "
    "array_cat list_append array_append list_prepend array_prepend array_push_back array_push_front list_zip "
    "array_zip list_where list_grade_up flatten list_sum "
    "list_avg list_min list_max list_count list_median list_mode list_entropy list_skewness list_kurtosis "
    "list_stddev_pop list_stddev_samp list_var_pop list_var_samp list_first list_last list_any_value list_bool_and "
    "list_bool_or list_mad list_histogram list_product list_kurtosis_pop list_transform "
    "array_transform list_apply array_apply apply list_filter array_filter filter list_reduce array_reduce reduce "
    "greatest least coalesce nullif if ifnull newest top_k hop date_add fdiv list_intersect array_intersect "
    "histogram_each constant_or_null error json_valid json_array_length json_type"
)
_REDUCING = frozenset({"list_reduce", "array_reduce", "reduce"})
#: As long as literals say, beside the first argument; of a series, all of them are literals.
_SCALED = _names("repeat lpad rpad list_resize array_resize replace regexp_replace translate array_to_string")
_SERIES = frozenset({"range", "generate_series"})
_JOINING = _names("|| concat concat_ws list_concat list_cat array_concat array_cat list_value struct_pack row")
#: Patterns of which several wildcards are tried against each other.
_PATTERNS = _names("~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape")
_MAX_WILDCARDS = 3
#: Aggregates of a list, by a name; those that join texts put one between them, however long.
_AGGREGATED, _JOINED_TEXTS = (
    _names("list_aggregate array_aggregate list_aggr"),
    _names("string_agg group_concat listagg"),
)
#: Formats, which may say how wide a value is to be.
_FORMATS = _names("printf format")
#: Dovetail's macros that compare all of a list with all of it.
_SQUARED = _names("first_distinct last_distinct sum_by avg_by count_by least_by greatest_by sum_each avg_each")
_SMALL_OPERATORS = _names("- * / // %")
#: What is taken out of JSON at a path: one part of it, unless the path has wildcards.
_PATHS = _names("->> -> json_extract json_extract_string json_extract_path json_extract_path_text json_value")


def value_may_grow(expression: str) -> bool:
    """Whether the value of an expression over one row may be out of proportion to the row.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    return _value_may_grow(expression)


def query_may_grow(sql: str) -> bool:
    """Whether binding a query, or running it over a few rows, may make values out of proportion to them.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    return _query_may_grow(sql)


@lru_cache(maxsize=4_096)
def _value_may_grow(expression: str) -> bool:
    return _factor(syntax_tree(expression), frozenset()) is None


@lru_cache(maxsize=4_096)
def _query_may_grow(sql: str) -> bool:
    tree = query_tree(sql)
    found = list(nodes(tree))
    if any(node.get("type") == "RECURSIVE_CTE_NODE" for node in found):
        return True
    joined = sum(str(node.get("function_name", "")).lower() in _JOINING for node in found)
    added = sum(node.get("function_name") == "+" for node in found)
    selects = sum(node.get("type") == "SELECT_NODE" for node in found)
    if joined + added // 4 >= _MAX_JOINED or selects >= _MAX_SELECTS:
        return True
    return _factor(tree, _SQUARED) is None


def _factor(tree: Any, allowed: frozenset[str]) -> int | None:
    """By what literals multiply a row; None where something else does that is not ``allowed``, or they by too much."""
    factor = 1
    for node in nodes(tree):
        found = 1 if str(node.get("function_name", "")).lower() in allowed else _factor_of(node)
        if found is None:
            return None
        factor *= found
        if factor > _MAX_FACTOR:
            return None
    return factor


def _factor_of(node: Mapping[str, Any]) -> int | None:
    """What one node alone multiplies by."""
    if node.get("class") == "TYPE" and str(node.get("type_name", "")).lower() == "array":
        return _product(_literals(node.get("children", ())[1:]))
    if node.get("class") == "LAMBDA":
        return 1 if _is_plain(node) else None
    if node.get("class") != "FUNCTION":
        return 1
    name = str(node["function_name"]).lower()
    arguments = [argument["expression"] for argument in node.get("arguments", ())]
    if name in _SCALED:
        return _product(_literals(arguments[1:]))
    if name in _SERIES:
        return _product(_literals(arguments))
    plain = name in _NO_LONGER or name in _fixed()
    if name in _PATTERNS:
        plain = _has_few(arguments[1:2], "%*", _MAX_WILDCARDS)
    elif name in _PATHS:
        plain = _has_few(arguments[1:2], "*", 0)
    elif name in _FORMATS:
        plain = _has_few(arguments[:1], "0123456789*", 0)
    elif name in _AGGREGATED:
        plain = _has_few(arguments[1:2], "", 0) and arguments[1]["literal"]["text"].lower() not in _JOINED_TEXTS
    elif name in _REDUCING:
        plain = _reads_once(arguments[1:2])
    return 1 if plain else None


def _literals(arguments: Sequence[Any]) -> Iterator[int | None]:
    """The size that each argument says: a number, or the length of a text; None where it is no literal."""
    for argument in arguments:
        literal = argument.get("literal") if argument.get("class") == "CONSTANT" else None
        kind, text = (literal["kind"], str(literal.get("text") or "")) if literal else ("", "")
        if kind == "INTEGER" and text.isdecimal():
            yield int(text)
        else:
            yield len(text) if kind == "STRING" else None


def _product(sizes: Iterator[int | None]) -> int | None:
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= max(size, 1)
    return product


def _has_few(text: Sequence[Any], signs: str, most: int) -> bool:
    """Whether a pattern, path or format is a literal with at most so many of ``signs``."""
    literal = text[0].get("literal") if text and text[0].get("class") == "CONSTANT" else None
    if not literal or literal["kind"] not in ("STRING", "INTEGER"):
        return False
    return sum(str(literal["text"]).count(sign) for sign in signs) <= most


def _is_plain(function: Mapping[str, Any]) -> bool:
    """Whether a lambda makes a value of an element's own size: it holds no lambda, and what stands outside is compared
    or reckoned with."""
    inside = list(nodes(function["expr"]))
    if any(node.get("class") == "LAMBDA" for node in inside):
        return False
    parameters = _parameters(function)
    outside = any(
        node.get("class") == "COLUMN_REF" and node["column_names"][0].lower() not in parameters for node in inside
    )
    calls = {str(node["function_name"]).lower() for node in inside if node.get("class") == "FUNCTION"}
    small = function["expr"].get("class") in ("COMPARISON", "CONJUNCTION") or bool(calls)
    return not outside or (small and calls <= _SMALL_OPERATORS)


def _parameters(function: Mapping[str, Any]) -> frozenset[str]:
    found = (node["column_names"][-1] for node in nodes(function["lhs"]) if node.get("class") == "COLUMN_REF")
    return frozenset(str(name).lower() for name in found)


def _reads_once(function: Sequence[Any]) -> bool:
    """Whether a reducing lambda reads what it has so far once: ``lambda a, b: a || a`` doubles it for each element."""
    if not function or function[0].get("class") != "LAMBDA":
        return False
    first = next(node for node in nodes(function[0]["lhs"]) if node.get("class") == "COLUMN_REF")["column_names"][-1]
    inside = nodes(function[0]["expr"])
    reads = sum(node.get("class") == "COLUMN_REF" and node["column_names"][0] == first for node in inside)
    return bool(reads <= 1)


@cache
def _fixed() -> frozenset[str]:
    """The functions that give numbers, times and the like in every overload; aggregates and windows are among them,
    whose values are no larger than what they are of."""
    given = ", ".join(f"'{name}'" for name in sorted(_FIXED))
    rows = shared_cursor().execute(
        "SELECT lower(function_name) FROM duckdb_functions() WHERE function_type IN ('scalar', 'aggregate', 'window') "
        f"GROUP BY 1 HAVING bool_and(function_type <> 'scalar' OR coalesce(return_type, '') IN ({given}))"
    )
    return frozenset(name for (name,) in rows.fetchall()) - _COSTLY - _PATTERNS
