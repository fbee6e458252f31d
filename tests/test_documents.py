"""What the documentation shows was made by the scripts beside it, and its code runs."""

import re
import subprocess
import sys

import pytest
from pages import ROOT, blocks

import implicit_eig as ie

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import render  # noqa: E402  (a script of the documentation, not of the package)


@pytest.mark.parametrize("script", render.scripts(), ids=lambda script: script.stem)
def test_each_page_was_made_by_its_script_as_it_is(script):
    page = render.scripts()[script]
    assert not render.is_stale(script, page), f"run `python docs/render.py {script.stem}`"
    for picture in re.findall(r"\]\((\w[^)]*\.png)\)", page.read_text()):
        assert (page.parent / picture).exists()


@pytest.mark.parametrize("script", render.scripts(), ids=lambda script: script.stem)
def test_each_script_begins_with_its_title(script):
    kind, text, _ = render.cells(script)[0]
    assert kind == "prose"
    assert re.match(r"# \w.*\n\n", text)


def test_every_example_has_a_page():
    shown = {script for script in render.scripts() if script.parent.name == "examples"}
    assert shown == set((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("page", render.indices(), ids=lambda page: page.parent.name)
def test_the_lists_of_examples_and_of_names_are_complete(page):
    assert page.read_text() == render.indices()[page](), "run `python docs/render.py`"


def test_a_script_that_has_changed_is_noticed(tmp_path):
    script, page = tmp_path / "script.py", tmp_path / "page.md"
    script.write_text("# %%\nprint(1)\n")
    assert render.is_stale(script, page)
    page.write_text(f"<!-- sha256 {render.digest(script)} -->")
    assert not render.is_stale(script, page)
    script.write_text("# %%\nprint(2)\n")
    assert render.is_stale(script, page)


def test_cells_are_prose_or_code(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\nprint(x)\n")
    assert render.cells(script) == [
        ("prose", "# Title\n\nText.", 2),
        ("code", "x = 1\nprint(x)", 7),
    ]
    assert render.run("x = 1\nprint(x)", {}, "script.py", 7) == ("1", "")


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((DOCS / "tutorials").glob("*.py")), ids=lambda s: s.stem)
def test_tutorials_run(script, tmp_path):
    command = [sys.executable, str(script)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


PAGES = [DOCS / "quickstart.md", DOCS / "repeated-eigenvalues.md"]
PAGES += [DOCS / "when-a-gradient-looks-wrong.md", *sorted((DOCS / "theory").glob("*.md"))]
CODE = {page.stem: "\n".join(blocks(page.read_text())) for page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, code in CODE.items() if code])
def test_the_code_of_a_page_runs_as_a_reader_pastes_it(page, tmp_path):
    command = [sys.executable, "-c", CODE[page]]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_messages_that_the_page_of_symptoms_quotes_are_those_of_the_package():
    page = (DOCS / "when-a-gradient-looks-wrong.md").read_text()
    source = " ".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)
    quoted = re.findall(r"^### GaugeWarning: … (.*)$", page, re.MULTILINE)
    parts = [part for heading in quoted for part in re.split(r", or … ", heading)]
    assert len(parts) > 5
    for part in parts:
        fixed = re.split(r"( of)? pairs? i| in the cluster", part)[0].removesuffix(",")
        assert fixed in source, part
    for name in re.findall(r"^### (?:A |An )?(\w+(?:Error|Warning))", page, re.MULTILINE):
        assert name in ie.__all__
