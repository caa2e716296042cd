"""Rules of the tree, each a function from the parsed tree to its violations. ``test_architecture.py`` applies them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["RULES", "SOURCE_ROOTS", "Module", "Rule", "Tree", "imports_of", "read_tree"]

#: The folders whose ``dovetail/`` make up the namespace package.
SOURCE_ROOTS = ("platform", "features", "joiners", "trainer")

#: Packages from the ground up. A package imports itself and those below; those of one floor do not know each other.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"platform"}),
    frozenset({"features", "joiners", "onnx", "trainer"}),
    frozenset({"spark"}),
    frozenset({"app"}),
    frozenset({"api", "samples"}),
    frozenset({"console", "embedded", "torch"}),
    frozenset({"demo", "sdk"}),
    frozenset({"cli"}),
)

MAX_LINES = 400
MAX_FILES = 15

#: Rooms in which a file may be called as one elsewhere is: a command is called as what it does, a table of the
#: configuration as what it configures, and an implementation as its interface.
NAMESAKES = (
    "dovetail/cli/",
    "dovetail/platform/config/",
    "dovetail/platform/stores/sql/",
    "dovetail/platform/stores/redis/",
    "dovetail/platform/transports/kafka/",
)

_FAUST = ("dovetail/platform/transports/", "dovetail/platform/runtime/runner.py")

#: Where a library may be imported; anywhere else it has leaked.
HOMES: Mapping[str, tuple[str, ...]] = {
    "fastapi": ("dovetail/api/", "dovetail/console/"),
    "jinja2": ("dovetail/console/",),
    "markupsafe": ("dovetail/console/",),
    "starlette": ("dovetail/api/", "dovetail/console/"),
    "uvicorn": ("dovetail/api/",),
    "faust": _FAUST,
    "mode": _FAUST,
    "aiokafka": ("dovetail/platform/transports/",),
    "deltalake": ("dovetail/platform/lake/delta.py",),
    "duckdb": (
        "dovetail/platform/duck/",
        "dovetail/features/duck/",
        "dovetail/features/batch/",
    ),
    "numba": (
        "dovetail/platform/compiling.py",
        "dovetail/trainer/samples/memory.py",
    ),
    "opentelemetry": ("dovetail/app/tracing/",),
    "onnxruntime": ("dovetail/onnx/",),
    "pandas": (),
    "pyiceberg": ("dovetail/platform/lake/iceberg.py",),
    "pyspark": ("dovetail/spark/session.py",),
    "redis": ("dovetail/platform/stores/redis/",),
    "sqlalchemy": ("dovetail/platform/stores/",),
    "sqlite3": ("dovetail/platform/transports/embedded/",),
    "torch": ("dovetail/torch/",),
    "typer": ("dovetail/cli/",),
    "vl_convert": ("dovetail/console/vega_script.py", "dovetail/trainer/metrics/plots.py"),
}


@dataclass(frozen=True, slots=True)
class Import:
    """An import of ``target``, a module or a name in one, at ``line``; imports inside functions are among them."""

    target: str
    line: int


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed file. ``path`` is relative to its source root, like ``dovetail/platform/stage.py``."""

    name: str
    root: str
    path: PurePosixPath
    lines: int
    imports: tuple[Import, ...]
    #: ``__all__`` as written; None where there is none.
    exported: tuple[str, ...] | None
    #: Top-level names that do not begin with an underscore: functions, classes, assigned constants.
    public: tuple[str, ...]
    #: Every name bound at the top level, imports included.
    bound: frozenset[str]

    @property
    def file(self) -> str:
        """The file as a person finds it, from the root of the checkout."""
        return f"{self.root}/{self.path}"

    @property
    def package(self) -> str:
        """The package below ``dovetail``."""
        return self.path.parts[1]

    @property
    def room(self) -> str:
        """The folder."""
        return self.path.parent.as_posix()


@dataclass(frozen=True, slots=True)
class Tree:
    """Every module by its name."""

    modules: Mapping[str, Module]

    def inside(self, module: Module) -> Iterator[tuple[Module, Import]]:
        """The modules of the tree that ``module`` imports, and by which import."""
        for found in module.imports:
            target = self.modules.get(found.target) or self.modules.get(found.target.rpartition(".")[0])
            if target is not None and target.name != module.name:
                yield target, found


Rule = Callable[[Tree], list[str]]


def read_tree(root: Path) -> Tree:
    """Parse each file of the source roots below ``root`` once."""
    modules = {}
    for source in SOURCE_ROOTS:
        for path in sorted((root / source).rglob("*.py")):
            module = _read(path, source, PurePosixPath(path.relative_to(root / source).as_posix()))
            modules[module.name] = module
    return Tree(modules)


def _read(path: Path, root: str, relative: PurePosixPath) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(path))
    parts = relative.with_suffix("").parts
    bound = frozenset(name for statement in tree.body for name in _bound(statement))
    public = tuple(
        name
        for statement in tree.body
        if not isinstance(statement, ast.Import | ast.ImportFrom)
        for name in _bound(statement)
        if not name.startswith("_")
    )
    return Module(
        name=".".join(parts[:-1] if parts[-1] == "__init__" else parts),
        root=root,
        path=relative,
        lines=text.count("\n"),
        imports=tuple(imports_of(tree)),
        exported=_exported(tree),
        public=public,
        bound=bound,
    )


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Every import of a parsed file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield Import("." * node.level + (node.module or ""), node.lineno)
            else:
                yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _exported(tree: ast.Module) -> tuple[str, ...] | None:
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and "__all__" in _bound(statement):
            return tuple(ast.literal_eval(statement.value))
    return None


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.If | ast.Try):
        yield from (name for inner in statement.body for name in _bound(inner))


def imports_go_down(tree: Tree) -> list[str]:
    """An import goes to a lower floor or stays in its package."""
    floor = {package: number for number, packages in enumerate(FLOORS) for package in packages}
    found = []
    for module in tree.modules.values():
        if module.package not in floor:
            found.append(f"{module.file}: package {module.package} stands on no floor; add it to FLOORS")
            continue
        for target, at in tree.inside(module):
            if target.package != module.package and floor.get(target.package, -1) >= floor[module.package]:
                found.append(f"{module.file}:{at.line}: {module.package} imports {target.name}, which is not below it")
    return found


def imports_are_absolute(tree: Tree) -> list[str]:
    """No import begins with a dot: the other rules could not see where it goes."""
    return [
        f"{module.file}:{found.line}: relative import {found.target}"
        for module in tree.modules.values()
        for found in module.imports
        if found.target.startswith(".")
    ]


def no_circles(tree: Tree) -> list[str]:
    """No module imports itself over others, not even by an import inside a function."""
    graph = {name: {target.name for target, _ in tree.inside(module)} for name, module in tree.modules.items()}
    return [f"circle of imports: {' → '.join(sorted(circle))}" for circle in _circles(graph)]


def no_circles_of_rooms(tree: Tree) -> list[str]:
    """Rooms side by side in a package do not import each other both ways."""
    found = []
    for outer in {module.room for module in tree.modules.values()}:
        graph: dict[str, set[str]] = defaultdict(set)
        for module in tree.modules.values():
            for target, _ in tree.inside(module):
                here, there = _below(outer, module.room), _below(outer, target.room)
                if here and there and here != there:
                    graph[here].add(there)
        found += [f"circle of rooms in {outer}: {' ↔ '.join(sorted(circle))}" for circle in _circles(graph)]
    return found


def _below(outer: str, room: str) -> str:
    """The room directly in ``outer`` that ``room`` is or lies in; empty where there is none."""
    prefix = f"{outer}/"
    return room.removeprefix(prefix).partition("/")[0] if room.startswith(prefix) else ""


def files_are_small(tree: Tree) -> list[str]:
    """No file passes 400 lines."""
    return [f"{m.file}: {m.lines} lines, above {MAX_LINES}" for m in tree.modules.values() if m.lines > MAX_LINES]


def folders_are_small(tree: Tree) -> list[str]:
    """No folder holds more than 15 files."""
    rooms = _grouped((f"{module.root}/{module.room}", module) for module in tree.modules.values())
    return [f"{room}: {len(held)} files, above {MAX_FILES}" for room, held in rooms.items() if len(held) > MAX_FILES]


def names_say_what_no_other_says(tree: Tree) -> list[str]:
    """A file's name stands once in the tree, and does not repeat its folder's."""
    found = []
    files = [module for module in tree.modules.values() if module.path.name != "__init__.py"]
    named = _grouped((m.path.name, m) for m in files if not str(m.path).startswith(NAMESAKES))
    for name, namesakes in named.items():
        if len(namesakes) > 1:
            found.append(f"{name} stands {len(namesakes)} times: {', '.join(m.file for m in namesakes)}")
    for module in files:
        stem, folder = module.path.stem, module.path.parent.name
        if stem == folder or stem.startswith(f"{folder}_"):
            found.append(f"{module.file}: repeats the name of its folder")
    return found


def libraries_stay_at_home(tree: Tree) -> list[str]:
    """A library is imported in its homes only."""
    return [
        f"{module.file}:{found.line}: imports {library}, whose homes are {', '.join(HOMES[library])}"
        for module in tree.modules.values()
        for found in module.imports
        if (library := found.target.partition(".")[0]) in HOMES and not str(module.path).startswith(HOMES[library])
    ]


def exports_are_told(tree: Tree) -> list[str]:
    """A module with public names has ``__all__``, and what is in it is there."""
    found = []
    for module in tree.modules.values():
        if module.exported is None:
            if names := [name for name in module.public if not name.startswith("__")]:
                found.append(f"{module.file}: no __all__, and {', '.join(names)} is public")
            continue
        if missing := [name for name in module.exported if name not in module.bound]:
            found.append(f"{module.file}: __all__ has {', '.join(missing)}, which the module does not")
    return found


def imports_take_what_is_told(tree: Tree) -> list[str]:
    """What a module takes from another is in the other's ``__all__``."""
    found = []
    for module in tree.modules.values():
        for target, imported in tree.inside(module):
            name = imported.target.removeprefix(f"{target.name}.")
            if name != imported.target and target.exported is not None and name not in target.exported:
                found.append(f"{module.file}:{imported.line}: takes {name}, which __all__ of {target.file} has not")
    return found


#: Every rule, by name.
RULES: Mapping[str, Rule] = {
    rule.__name__: rule
    for rule in (
        imports_go_down,
        imports_are_absolute,
        no_circles,
        no_circles_of_rooms,
        files_are_small,
        folders_are_small,
        names_say_what_no_other_says,
        libraries_stay_at_home,
        exports_are_told,
        imports_take_what_is_told,
    )
}


def _grouped(pairs: Iterable[tuple[str, Module]]) -> dict[str, list[Module]]:
    groups: dict[str, list[Module]] = defaultdict(list)
    for key, module in pairs:
        groups[key].append(module)
    return groups


def _circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, by Tarjan's algorithm without recursion."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    circles = []
    for start in graph:
        if start in number:
            continue
        number[start] = low[start] = len(number)
        path.append(start)
        work = [(start, iter(sorted(graph[start])))]
        while work:
            node, following = work[-1]
            step = next((n for n in following if n in graph and (n not in number or n in path)), None)
            if step is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    component = path[path.index(node) :]
                    del path[path.index(node) :]
                    if len(component) > 1:
                        circles.append(component)
            elif step in number:
                low[node] = min(low[node], number[step])
            else:
                number[step] = low[step] = len(number)
                path.append(step)
                work.append((step, iter(sorted(graph[step]))))
    return circles
