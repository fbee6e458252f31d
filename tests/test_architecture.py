"""The layout holds: imports point down, public names are documented, files stay small."""

import ast
import pathlib
import re

import pytest

import implicit_eig as ie

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / "src" / "implicit_eig"
# From the top of the building to its ground. A room imports from rooms below it, or its own.
FLOORS = [
    "__init__",
    "plot",
    "tracking",
    "subgradient",
    "one_sided",
    "diagnostics",
    "_eigensolver",
    "_implicit_function",
    "_derivatives",
    "_products",
    "gauge",
    "_implicit",
    "problems",
    "solvers",
    "systems",
    "linear_solvers",
    "guard",
    "degeneracy",
    "cotangents",
    "normalization",
    "testing",
    "views",
    "operators",
    "sparse",
    "packed",
    "solution",
    "policy",
    "reverse_communication",
    "host",
    "_compiled",
    "_errors",
]


def modules():
    return sorted(path for path in SOURCE.rglob("*.py"))


def room(path):
    relative = path.relative_to(SOURCE).with_suffix("").parts
    return relative[0]


def imported_rooms(path):
    """The rooms that a module imports from, by its relative imports."""
    depth = len(path.relative_to(SOURCE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level < depth:
            continue
        if node.module:
            yield node.module.split(".")[0]
        else:
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    here = FLOORS.index(room(path))
    for other in imported_rooms(path):
        assert FLOORS.index(other) > here, f"{path.name} imports {other}, which is above it"


def test_the_import_test_sees_imports():
    assert set(imported_rooms(SOURCE / "problems" / "hermitian.py")) >= {"systems", "operators"}
    assert set(imported_rooms(SOURCE / "_eigensolver.py")) >= {"host", "problems"}


def test_all_is_compiled_in_one_way():
    assert [path.name for path in modules() if "jit(" in path.read_text()] == ["_compiled.py"]
    assert not [path for path in modules() if re.search("^ *@.*jit", path.read_text(), re.M)]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_one_idea_a_file(path):
    assert len(path.read_text().splitlines()) <= 400


def test_public_names_are_documented_and_there():
    api = (ROOT / "docs" / "api.md").read_text()
    documented = set(re.findall(r"::: implicit_eig\.(\w+)", api))
    assert documented == set(ie.__all__)
    for name in ie.__all__:
        assert vars(ie)[name].__doc__


def test_the_version_is_in_the_changelog():
    assert f"## [{ie.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
