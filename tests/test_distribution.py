"""What a release contains: all that a user, and somebody who tests the package, needs."""

import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import implicit_eig as ie

pytest.importorskip("build", reason="needs build")
pytest.importorskip("hatchling", reason="needs hatchling")

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributions")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(source) as file:
        in_source = {name.partition("/")[2] for name in file.getnames()}
    with zipfile.ZipFile(wheel) as file:
        in_wheel = set(file.namelist())
        (metadata,) = (file.read(name).decode() for name in in_wheel if name.endswith("/METADATA"))
    return in_source, in_wheel, metadata


def modules():
    source = ROOT / "src"
    return {str(path.relative_to(source)) for path in source.rglob("*.py")}


def test_the_wheel_holds_the_package_its_types_and_its_licence(distributions):
    _, wheel, metadata = distributions
    info = {name for name in wheel if ".dist-info/" in name}
    assert wheel - info == modules() | {"implicit_eig/py.typed"}
    assert any(name.endswith("/licenses/LICENSE") for name in info)
    assert f"\nVersion: {ie.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_the_source_holds_what_the_tests_and_the_documentation_need(distributions):
    source, _, _ = distributions
    needed = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "mkdocs.yml"}
    needed |= {f"src/{name}" for name in modules()} | {"src/implicit_eig/py.typed"}
    for folder in ("tests", "examples", "docs", "benchmarks"):
        paths = (ROOT / folder).rglob("*")
        kinds = (".py", ".md", ".txt", ".css", ".js", ".mplstyle")
        needed |= {str(path.relative_to(ROOT)) for path in paths if path.suffix in kinds}
    assert not needed - source
    assert any(name.endswith(".png") for name in source)


def test_versions_and_addresses_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == ie.__version__
    assert f"version = {{{ie.__version__}}}" in (ROOT / "docs" / "cite.md").read_text()
    repository = PROJECT["urls"]["Repository"]
    assert f"repo_url: {repository}\n" in (ROOT / "mkdocs.yml").read_text()
    assert f"site_url: {PROJECT['urls']['Documentation']}\n" in (ROOT / "mkdocs.yml").read_text()
    assert f'repository-code: "{repository}"' in citation
    assert f"= {{{repository}}}" in (ROOT / "docs" / "cite.md").read_text()
