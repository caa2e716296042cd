"""The text of a definition: exact slices of it, and where its parts are.

Engines run the author's own text, not a rendering of a parsed tree: parsers read ``log10`` or ``//`` their own way.
So the tree (sqlglot) says what a definition *is*, and slices between its tokens say what is *run*.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlglot import Token, TokenType, exp

from dovetail.features.duck.names import reads_as_column
from dovetail.features.duck.parsing import BindError
from dovetail.features.duck.row_by_row import NotRowByRow, not_row_by_row
from dovetail.features.language.remedies import remedy_of
from dovetail.platform.duck.quoting import identifier
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import parse_statements, tokens_in

__all__ = ["AggregateSpans", "Call", "QueryParts", "Source", "Span", "nearest", "quoted"]

_OPENING = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE)
_CLOSING = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE)
_SET_OPERATIONS = (TokenType.UNION, TokenType.EXCEPT, TokenType.INTERSECT)


def nearest(name: str, known: Collection[str]) -> str:
    """A remedy for an unknown name: the closest known one, else all of them."""
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1)
    if close:
        return f"did you mean {next(k for k in known if k.lower() == close[0])}?"
    return f"known are {', '.join(known)}" if known else "none is declared"


#: A slice of a file: start and end offsets in its text.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class AggregateSpans:
    """``function(argument) FILTER (WHERE filter) OVER over``: where each part is; ``filter`` may be missing."""

    function: str
    argument: Span
    filter: Span | None
    over: Span


@dataclass(frozen=True, slots=True)
class Call:
    """A window aggregate inside an expression, and the macro around it, ``macro(aggregate, rest)``, if there is one.

    ``span`` is all of it; ``line`` where it begins.
    """

    span: Span
    aggregate: Span
    macro: str | None
    rest: Span | None
    line: int


@dataclass(frozen=True, slots=True)
class QueryParts:
    """A query taken apart: ``WITH tables`` before ``queries``, which ``operators`` stand between, like ``UNION ALL``.

    ``tables`` are the common table expressions as (name, the words between it and its query, its query). One query and
    no tables: a single SELECT, or something that is no SELECT.
    """

    tables: tuple[tuple[str, tuple[str, ...], Span], ...]
    queries: tuple[Span, ...]
    operators: tuple[str, ...]


class Source:
    """One statement of one file: text, tokens and tree, with refusals that know their line.

    ``read`` are the text's tokens and statements, where they are known.
    """

    def __init__(
        self, file: str | Path, text: str, read: tuple[Sequence[Token], Sequence[exp.Expr]] | None = None
    ) -> None:
        self.file = str(file)
        self.text = text
        if read is None:
            own = tokens_in(Path(file), text)
            read = own, parse_statements(Path(file), text, own)
        tokens, statements = read
        self._commented = {token.start for token in tokens if token.comments}
        if len(statements) != 1 or not isinstance(statements[0], exp.Select):
            found = f"{len(statements)} statements" if len(statements) != 1 else statements[0].key.upper()
            raise DefinitionError(
                f"expected one SELECT, found {found}",
                file=file,
                line=1,
                remedy="a file holds either CREATE TABLE statements or exactly one SELECT, named after the file",
            )
        self.select = statements[0]
        self._tokens = [token for token in tokens if token.token_type != TokenType.SEMICOLON]

    def line(self, node: exp.Expr | None) -> int:
        """The first line of ``node``, of what it is part of when it has none itself (literals have none)."""
        while node is not None:
            lines = [int(part.meta["line"]) for part in node.walk() if "line" in part.meta]
            if lines:
                return min(lines)
            node = node.parent
        return 1

    def refuse(self, node: exp.Expr | int | None, what: str, remedy: str) -> DefinitionError:
        """The error to raise about ``node`` (or a line)."""
        line = node if isinstance(node, int) else self.line(node)
        return DefinitionError(what, file=self.file, line=line, remedy=remedy)

    def items(self) -> list[Span]:
        """Spans of the select list's expressions, aliases left out; as many as ``select.expressions``."""
        tokens = self._between((TokenType.SELECT,), (TokenType.FROM,))
        spans = []
        for node, item in zip(self.select.expressions, _split(tokens), strict=True):
            named = next((i for i, token in _outermost(item) if token.token_type == TokenType.ALIAS), None)
            if named is None and isinstance(node, exp.Alias):
                named = len(item) - 1  # `expression name`, without AS
            spans.append(_span(item[:named]))
        return spans

    def clause(self, keyword: TokenType, ends: Iterable[TokenType]) -> Span:
        """Span of what follows a keyword of the outermost SELECT, which must be there, up to the next of ``ends``."""
        return _span(self._between((keyword,), tuple(ends)))

    def aggregate(self, span: Span) -> AggregateSpans:
        """The parts of the window aggregate in ``span``, one of :meth:`items`."""
        tokens = self._inside(span)
        closing = _closing(tokens, 1)
        over = next(i for i, token in _outermost(tokens) if token.token_type == TokenType.OVER)
        condition = None
        if over > closing + 1:  # FILTER ( WHERE … )
            condition = (tokens[closing + 4].start, tokens[over - 1].start)
        return AggregateSpans(
            function=tokens[0].text.lower(),
            argument=(tokens[1].end + 1, tokens[closing].start),
            filter=condition,
            over=(tokens[over].end + 1, span[1]),
        )

    @property
    def whole(self) -> Span:
        """The statement without what is around it, like its semicolon."""
        return _span(self._tokens)

    def line_at(self, span: Span) -> int:
        """The line on which ``span`` begins."""
        return self.text.count("\n", 0, span[0]) + 1

    def inside(self, span: Span) -> Span:
        """The text in the first outermost parentheses of ``span``."""
        tokens = self._inside(span)
        opening = next(i for i, token in enumerate(tokens) if token.token_type == TokenType.L_PAREN)
        return _span(tokens[opening + 1 : _closing(tokens, opening)])

    def statement(self, span: Span) -> Source:
        """The statement in ``span``, at the lines and offsets it has here."""
        start, end = span
        return Source(self.file, re.sub(r"\S", " ", self.text[:start]) + self.text[start:end])

    def query(self, span: Span) -> QueryParts:
        """The query in ``span`` taken apart; parentheses around all of it are nothing."""
        tokens = _bare(self._inside(span))
        tables: list[tuple[str, tuple[str, ...], Span]] = []
        at = 0
        while tokens[at].token_type == (TokenType.WITH if at == 0 else TokenType.COMMA):
            opening = next(
                i
                for i in range(at + 1, len(tokens))
                if tokens[i].token_type == TokenType.L_PAREN and tokens[i - 1].text.upper() in ("AS", "MATERIALIZED")
            )
            recursive = tokens[at + 1].token_type == TokenType.RECURSIVE
            name = tokens[at + 1 + recursive]
            words = tuple(t.text.upper() for t in tokens[at + 1 : opening] if t is not name)
            closing = _closing(tokens, opening)
            tables.append((name.text, words, _span(tokens[opening + 1 : closing])))
            at = closing + 1
        tokens = _bare(tokens[at:])
        cuts = [i for i, token in _outermost(tokens) if token.token_type in _SET_OPERATIONS]
        queries, operators, start = [], [], 0
        for cut in cuts:
            end = cut + 1
            while tokens[end].text.upper() in ("ALL", "DISTINCT", "BY", "NAME"):
                end += 1
            queries.append(_span(tokens[start:cut]))
            operators.append(" ".join(token.text.upper() for token in tokens[cut:end]))
            start = end
        return QueryParts(tuple(tables), (*queries, _span(tokens[start:])), tuple(operators))

    def calls(self, span: Span, macros: Collection[str]) -> list[Call]:
        """The window aggregates in ``span``, each with the one of ``macros`` that it is the first argument of."""
        tokens = self._inside(span)
        found: list[Call] = []
        for over, token in enumerate(tokens):
            if token.token_type != TokenType.OVER or (found and token.start < found[-1].span[1]):
                continue
            opening = _opening(tokens, over - 1)
            if tokens[opening - 1].token_type == TokenType.FILTER:
                opening = _opening(tokens, opening - 2)
            begin, end = opening - 1, over + 1
            if tokens[end].token_type in _OPENING:
                end = _closing(tokens, end)
            aggregate = _span(tokens[begin : end + 1])
            line = self.line_at(aggregate)
            macro = tokens[begin - 2].text.lower() if begin > 1 and tokens[begin - 1].token_type in _OPENING else ""
            if macro in macros:
                last = _closing(tokens, begin - 1)
                rest = _span(tokens[end + 2 : last]) if last > end + 2 else None
                found.append(Call(_span(tokens[begin - 2 : last + 1]), aggregate, macro, rest, line))
            else:
                found.append(Call(aggregate, aggregate, None, None, line))
        return found

    def arguments(self, span: Span) -> list[Span]:
        """Spans of the parts of ``span`` between its outermost commas."""
        return [_span(part) for part in _split(self._inside(span))]

    def words(self, span: Span) -> list[str]:
        """The tokens of ``span``: keywords and plain names in capitals, quoted names and strings in their quotes."""
        return [_word(token) for token in self._inside(span)]

    def trimmed(self, span: Span, first: int, last: int) -> Span:
        """``span`` without its ``first`` and ``last`` tokens, which must leave some."""
        tokens = self._inside(span)
        return _span(tokens[first : len(tokens) - last])

    def parse(self, span: Span) -> exp.Expr:
        """The tree of the expression in ``span``; its lines and offsets are those of the file."""
        found = next(token for token in self._tokens if token.token_type == TokenType.SELECT)
        select = Token(TokenType.SELECT, found.text, found.line, found.col, found.start, found.end)
        text, inside = self.text, self._inside(span)
        tokens = [select, *inside]
        # A comment at either end may be of what is beside the span.
        if {token.start for token in (*inside[:1], *inside[-1:])} & self._commented:
            blank = re.sub(r"\S", " ", text[: span[0]])
            text = blank[: select.start] + "SELECT" + blank[select.start + 6 :] + text[span[0] : span[1]]
            tokens = tokens_in(Path(self.file), text)
        expression: exp.Expr = parse_statements(Path(self.file), text, tokens)[0].expressions[0]
        return expression

    def _inside(self, span: Span) -> list[Token]:
        return [token for token in self._tokens if span[0] <= token.start < span[1]]

    def not_row_by_row(self, span: Span) -> NotRowByRow | None:
        """The part of the expression in ``span`` that makes one of several rows, or several of one.

        Raises:
            DefinitionError: DuckDB cannot parse it.
        """
        try:
            return not_row_by_row(self.cut(span))
        except BindError as error:
            raise self.refuse(self.line_at(span), str(error), remedy_of(error)) from error

    def cut(self, span: Span) -> str:
        """The text of ``span`` as written."""
        return self.text[span[0] : span[1]].strip()

    def rewrite(self, span: Span, node: exp.Expr, name: Callable[[exp.Column], tuple[str, int]]) -> str:
        """The text of ``span``, in which ``node`` is written, with its columns named anew.

        ``name`` gives a column's new SQL and how many of its leading parts that stands for.
        """
        edits = []
        for column in node.find_all(exp.Column):
            replacement, parts = name(column)
            identifiers = column.parts[:parts]
            edits.append((identifiers[0].meta["start"], identifiers[-1].meta["end"] + 1, replacement))
        start, end = span
        text = self.text[start:end]
        for first, last, replacement in sorted(edits, reverse=True):
            text = text[: first - start] + replacement + text[last - start :]
        return text.strip()

    def _between(self, starts: tuple[TokenType, ...], ends: tuple[TokenType, ...]) -> list[Token]:
        """Outermost tokens after the first of ``starts`` up to the next of ``ends``."""
        inside, found, previous = False, [], None
        depth = 0
        for token in self._tokens:
            depth -= token.token_type in _CLOSING
            # `IS DISTINCT FROM` is no FROM clause.
            keyword = depth == 0 and previous != TokenType.DISTINCT
            if inside and keyword and token.token_type in ends:
                break
            if inside:
                found.append(token)
            elif keyword and token.token_type in starts:
                inside = True
            depth += token.token_type in _OPENING
            previous = token.token_type
        return found


def quoted(name: str, *, simple: bool = False) -> str:
    """``name`` as an identifier.

    ``simple`` leaves those without quotes that DuckDB reads the same without: a view's state is known by its text, so
    what has been written plainly stays so.
    """
    if simple and reads_as_column(name):
        return name
    return identifier(name)


def _word(token: Token) -> str:
    if token.token_type == TokenType.IDENTIFIER:
        return quoted(token.text)
    return f"'{token.text}'" if token.token_type == TokenType.STRING else token.text.upper()


def _outermost(tokens: list[Token]) -> list[tuple[int, Token]]:
    found, depth = [], 0
    for index, token in enumerate(tokens):
        depth -= token.token_type in _CLOSING
        if depth == 0:
            found.append((index, token))
        depth += token.token_type in _OPENING
    return found


def _closing(tokens: list[Token], opening: int) -> int:
    """Index of the bracket that closes the one at ``opening``."""
    depths = itertools.accumulate((t.token_type in _OPENING) - (t.token_type in _CLOSING) for t in tokens[opening:])
    return next(index for index, depth in enumerate(depths, opening) if depth == 0)


def _opening(tokens: list[Token], closing: int) -> int:
    """Index of the bracket that the one at ``closing`` closes."""
    depth = 0
    for index in range(closing, -1, -1):
        depth += (tokens[index].token_type in _CLOSING) - (tokens[index].token_type in _OPENING)
        if depth == 0:
            return index
    return 0


def _bare(tokens: list[Token]) -> list[Token]:
    """``tokens`` without parentheses around all of them."""
    while tokens[0].token_type == TokenType.L_PAREN and _closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _split(tokens: list[Token]) -> list[list[Token]]:
    commas = [index for index, token in _outermost(tokens) if token.token_type == TokenType.COMMA]
    edges = [-1, *commas, len(tokens)]
    parts = [tokens[start + 1 : end] for start, end in itertools.pairwise(edges)]
    return [part for part in parts if part]


def _span(tokens: list[Token]) -> Span:
    return tokens[0].start, tokens[-1].end + 1
