"""The layout holds: imports point down, public names are documented, files stay small."""

import ast
import doctest
import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib

import pytest

import implicit_eig as ie

pytestmark = pytest.mark.core

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / "src" / "implicit_eig"
# From the top of the building to its ground. A room imports from rooms below it, or its own.
FLOORS = [
    "__init__",
    "linalg",
    "bridges",
    "petsc",
    "plot",
    "crossings",
    "diagnostics",
    "testing",
    "extending",
    "_eigensolver",
    "_checked",
    "_forward",
    "_polish",
    "implicit",
    "problems",
    "solvers",
    "systems",
    "linear_solvers",
    "checks",
    "operators",
    "solution",
    "host",
    "_tangents",
    "_real",
    "_compiled",
    "_alike",
    "_table",
    "_optional",
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


def test_imports_point_down():
    for path in modules():
        here = FLOORS.index(room(path))
        for other in imported_rooms(path):
            below = other == room(path) or FLOORS.index(other) > here
            assert below, f"{path.name} imports {other}, which is above it"


def test_the_import_test_sees_imports():
    assert set(imported_rooms(SOURCE / "problems" / "hermitian.py")) >= {"systems", "operators"}
    assert set(imported_rooms(SOURCE / "_eigensolver.py")) >= {"host", "problems"}


def test_all_is_compiled_in_one_way():
    assert [path.name for path in modules() if "jit(" in path.read_text()] == ["_compiled.py"]
    assert not [path for path in modules() if re.search("^ *@.*jit", path.read_text(), re.M)]


def names(path):
    """The dotted names that a module imports or reads."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


PRIVATE = re.compile(r"jax\._src|jaxlib|partial_eval|(equinox|eqx|lineax|lx|optx)\._")


def test_nothing_private_of_jax():
    """What is private changes: rules of `jax.interpreters.partial_eval` did in JAX 0.12."""
    for path in modules():
        assert not [name for name in names(path) if PRIVATE.search(name)], path.name


def test_the_search_for_private_names_finds_them(tmp_path):
    path = tmp_path / "module.py"
    for line in (
        "from jax._src import core",
        "from jax.interpreters import partial_eval as pe",
        "import jax; jax._src.core",
    ):
        path.write_text(line)
        assert [name for name in names(path) if PRIVATE.search(name)]


def test_importing_starts_no_backend():
    """JAX is set up after the import: its devices, and several processes."""
    code = """
        import socket, implicit_eig, jax
        jax.config.update("jax_num_cpu_devices", 3)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        jax.distributed.initialize(f"localhost:{port}", num_processes=1, process_id=0)
        assert len(jax.devices()) == 3
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, check=True, timeout=100, env=os.environ | {"XLA_FLAGS": ""})


def test_one_idea_a_file():
    for path in modules():
        assert len(path.read_text().splitlines()) <= 400, path.name


def test_public_names_are_documented_and_there():
    api = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"::: implicit_eig\.(\w+)", api))
    assert documented == set(ie.__all__)
    for name in ie.__all__:
        assert vars(ie)[name].__doc__


def public():
    """What a user calls: the public names, those of public modules, and methods."""
    yield from (vars(ie)[name] for name in ie.__all__)
    for module in (ie.solvers, ie.linalg, ie.bridges, ie.petsc, ie.plot):
        yield from (vars(module)[name] for name in module.__all__)
    for name, thing in vars(ie.testing).items():
        if not name.startswith("_") and inspect.getmodule(thing) is ie.testing:
            yield thing
    operator = ie.SparseOperator
    yield from (operator.from_scipy, operator.from_bcoo, operator.from_csr, operator.from_coo)
    yield operator.congruence
    yield from (ie.Eigensolver.values, ie.AbstractProblem.residual)
    yield from (ie.Policy.nan, ie.Policy.unchecked)


def full_name(thing):
    if inspect.ismodule(thing):
        return thing.__name__
    if not (inspect.isroutine(thing) or inspect.isclass(thing)):
        thing = type(thing)  # an instance has the documentation of its class
    return f"{thing.__module__}.{thing.__qualname__}"


def test_public_names_have_an_example_that_runs():
    """By the search that pytest runs examples with; `addopts` has it run all of `src`."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "--doctest-modules" in options["addopts"]
    assert "src" in options["testpaths"]
    found = {}
    for path in modules():
        name = ".".join(("implicit_eig", *path.relative_to(SOURCE).with_suffix("").parts))
        module = importlib.import_module(name.removesuffix(".__init__"))
        found |= {test.name: test.examples for test in doctest.DocTestFinder().find(module)}
    names = [full_name(thing) for thing in public()]
    assert not [name for name in names if not found.get(name)]
    assert not [name for name in names if any(doctest.SKIP in each.options for each in found[name])]


def test_nothing_cites_a_file_that_pip_does_not_install():
    for path in modules():
        cited = re.findall(r"\w+\.md|(?:docs|examples|tests|benchmarks)/\w+", path.read_text())
        assert not cited, path.name


def test_the_version_is_in_the_changelog():
    assert f"## [{ie.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
