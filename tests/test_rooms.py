"""The rooms of the house: who may import whom, and the style that every file keeps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "omnivast"
MAY_IMPORT = {
    "config": set(),
    "utils": set(),
    "data": {"config", "utils"},
    "model": {"config", "utils"},
    "training": {"config", "data", "model", "utils"},
    "evaluation": {"config", "data", "model", "utils"},
    "inference": {"config", "data", "model", "training", "evaluation", "utils"},
    "corpus": {"config", "data", "model", "training", "evaluation", "inference", "utils"},
}
"""Room → the other rooms that its files may import. The last two stand above the rest, and corpus uses trained models by inference."""
BY_ALL = {"version", "__main__"}
"""What all may import: a file without imports, and the command line, which imports what a verb needs when it is asked for."""
NOT_BUILT_YET: set[str] = set()
TYPES_ONLY = {"model": {"data"}}
"""Rooms whose names may be used in annotations: imported under ``if TYPE_CHECKING:`` alone."""
CODE = sorted(path for room in [*MAY_IMPORT, PACKAGE, "scripts", "benchmarks"] for path in (ROOT / room).rglob("*.py")) + [ROOT / "run.py"]
FAMILIES = sorted(path.parent.name for path in (ROOT / "model").glob("*/model.py"))
DERIVED = {"gram": "vast"}
"""Families that are another one but for a part, and say so by inheriting from it. GRAM is VAST with another similarity: its release is a
fork of VAST's, with the same parameters. What both share is all of VAST, which is easier to follow where it stands."""
ABOUT_A_FAMILY = {"model/build.py": "brings in the families",
                  **{f"scripts/tools/parity/{name}.py": "compares with its release"
                     for name in ("vast", "valor", "valor_model", "valor_data")}}
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAY_IMPORT_SCRIPTS = {"omnivast/__main__.py", "benchmarks/gpu_avllm.py", "benchmarks/gpu_checks.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST, typing_only: bool = False) -> Iterator[tuple[str, int, bool]]:
    """(module or name imported, line, whether only type checkers read it) of every import at any depth; "." for a relative one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." if node.level else f"{node.module}.{alias.name}", node.lineno, typing_only) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for part, only in ((node.body, True), (node.orelse, typing_only)):
                yield from imports(ast.Module(part, []), only)
        else:
            yield from imports(node, typing_only)


def violations(room: str, source: str) -> list[str]:
    """Imports that the rules of ``room`` forbid: of other rooms, relative ones, and those that leave out the package's name."""
    found = []
    for module, line, typing_only in imports(ast.parse(source)):
        allowed = MAY_IMPORT[room] | {room} | BY_ALL | (TYPES_ONLY.get(room, set()) if typing_only else set())
        package, _, rest = module.partition(".")
        imported = rest.split(".")[0]
        if module == "." or package in {*MAY_IMPORT, "run", "tests", "scripts", "benchmarks"}:
            found.append(f"line {line}: {room} must not import {package or module}")
        elif package == PACKAGE and imported and imported not in allowed:
            found.append(f"line {line}: {room} must not import {imported}")
    return found


def families(path: Path) -> list[str]:
    """Imports of a model family that is neither the file's own nor the one it derives from: of what stands in a folder of model/ with a
    module named model."""
    own = path.parent.name
    return [f"{name_of(path)}:{line}: names the family of {module}" for module, line, _ in imports(ast.parse(path.read_text()))
            for family in FAMILIES if f"{module}.".startswith(f"{PACKAGE}.model.{family}.") and family not in (own, DERIVED.get(own))]


def test_nobody_names_a_model_family():
    """What trains, tests, labels and reports goes through model/interface.py; families share what stands beside them in model/."""
    assert FAMILIES
    assert [problem for path in CODE if name_of(path) not in ABOUT_A_FAMILY and path.relative_to(ROOT).parts[0] != "benchmarks"
            for problem in families(path)] == []
    assert all(families(ROOT / name) for name in ABOUT_A_FAMILY)
    for family, other in DERIVED.items():
        assert f"from {PACKAGE}.model.{other}.model import" in (ROOT / "model" / family / "model.py").read_text()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert bool(files) != (room in NOT_BUILT_YET), f"{room}/ has {len(files)} file(s): is the list of rooms up to date?"
    assert [f"{name_of(path)} {problem}" for path in files for problem in violations(room, path.read_text())] == []


def test_nothing_imports_scripts():
    """They are run, not imported. Only the command line starts some by name, one script may use another, the benchmark of a
    GPU runs the parity checks, and tests try them."""
    importers = [f"{name_of(path)}:{line}" for path in CODE
                 if name_of(path) not in MAY_IMPORT_SCRIPTS and path.relative_to(ROOT).parts[0] != "scripts"
                 for module, line, _ in imports(ast.parse(path.read_text())) if "scripts" in module.split(".")[:2]]
    assert importers == []


def module_of(path: Path) -> str:
    """The name under which a file is imported: ``omnivast.data.batch`` of data/batch.py, ``omnivast`` of omnivast/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] in (PACKAGE, "run", "tests", "benchmarks") else (PACKAGE, *parts))


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module → the modules among ``sources`` (module → its text) that it imports, for types and inside functions too."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        graph[module] = set()
        for name, _, _ in imports(ast.parse(source)):
            while name and name not in sources:  # what follows the module's name is a name in it
                name = name.rpartition(".")[0]
            graph[module] |= {name} if name else set()
    return graph


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """What ``start`` imports, directly or through others; itself only where it stands in a circle."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The largest groups of modules that all import each other, directly or through others."""
    reached = {module: reachable(graph, module) for module in graph}
    groups = {frozenset(other for other in reached[module] if module in reached[other]) for module in graph}
    return sorted(sorted(group) for group in groups if group)


def test_no_file_imports_in_a_circle():
    """Not even for types or inside a function: what two files need of each other belongs in one of them, or below both."""
    sources = {module_of(path): path.read_text() for path in [*CODE, *TESTS]}
    graph = import_graph(sources)
    assert graph["omnivast.training.loop"] >= {"omnivast.training.engines.build", "omnivast.data.batch"}  # the walk sees imports at all
    assert circles(graph) == []


def test_circles_are_found_and_named():
    sources = {
        "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from b import B",
        "b": "def late():\n    import c.inner",
        "c.inner": "from a import A\nimport d",
        "d": "import torch",
        "e": "from e import itself",
        "f": "from a import A",
    }
    assert circles(import_graph(sources)) == [["a", "b", "c.inner"], ["e"]]
    assert circles(import_graph({**sources, "b": ""})) == [["e"]]


def test_the_walk_finds_what_it_should():
    source = """
from typing import TYPE_CHECKING
import omnivast.data.batch as b
from . import heads
if TYPE_CHECKING:
    from omnivast.data.batch import Batch
    import omnivast.training.loop
def late():
    from omnivast.evaluation import run
    if TYPE_CHECKING:
        pass
    else:
        import data
"""
    assert [problem.split(":")[0] for problem in violations("model", source)] == ["line 3", "line 4", "line 7", "line 9", "line 13"]
    assert violations("model", "import torch\nfrom omnivast.config.tasks import Task\nfrom omnivast.model.text import Block") == []
    for room, other in (("training", "evaluation"), ("evaluation", "training"), ("data", "model"), ("utils", "config")):
        assert violations(room, f"import omnivast.{other}") and violations(room, f"from omnivast import {other}")


def dangling(source: str) -> list[str]:
    """Cross-references such as :mod:`data.batch`, with or without the package's name, to what is not there."""
    found = []
    for name in re.findall(r":(?:mod|func|class|meth|data):`~?([\w.]+)`", source):
        *parents, last = parts = name.removeprefix(f"{PACKAGE}.").split(".")
        if parts[0] not in MAY_IMPORT:
            continue
        files = [ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")]
        holders = [ROOT.joinpath(*parents[:n]).with_suffix(".py") for n in range(1, len(parents) + 1)]
        if not any(file.is_file() for file in files) and not any(
                file.is_file() and re.search(rf"\b{last}\b", file.read_text()) for file in holders):
            found.append(name)
    return found


def test_names_in_docstrings_exist():
    assert dangling(":mod:`data.batch`, :func:`omnivast.data.batch.collate`, :class:`Batch`, :mod:`data.nowhere`") == ["data.nowhere"]
    assert [f"{name_of(path)}: {name}" for path in CODE for name in dangling(path.read_text())] == []


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def bad_calls(path: Path, tree: ast.AST) -> list[str]:
    found = []
    scripts = path.relative_to(ROOT).parts[0] in ("scripts", "benchmarks")
    for node, name in calls(tree):
        where = f"{name_of(path)}:{node.lineno}"
        if name == "print" and not scripts:
            found.append(f"{where}: print: use the logger")
        if name.endswith(".cuda"):
            found.append(f"{where}: .cuda(): use .to(device)")
        safe = any(k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True for k in node.keywords)
        if name == "torch.load" and not safe:
            found.append(f"{where}: torch.load without weights_only=True executes what it reads")
        if name in ("pickle.load", "pickle.loads"):
            found.append(f"{where}: {name} executes what it reads")
    return found


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_style(path):
    source = path.read_text()
    tree = ast.parse(source)
    problems = bad_calls(path, tree)
    if source.strip() and ast.get_docstring(tree) is None:
        problems.append(f"{name_of(path)}: no docstring that says what the file is for")
    assert problems == []


def test_no_personal_paths():
    """Neither in code nor in tests, configs or documents."""
    texts = [*CODE, *TESTS, *(p for kind in ("json", "sh", "md") for room in ("config", "scripts", "benchmarks")
                              for p in (ROOT / room).rglob(f"*.{kind}")), ROOT / "README.md"]
    folders = ["/" + name + "/" for name in ("home", "root", "work", "Users", "mnt")]
    found = [f"{name_of(path)}: {folder}" for path in texts if path.is_file() for folder in folders if folder in path.read_text()]
    assert found == []
