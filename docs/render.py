"""Execute the examples and tutorials, and write them as pages with what they print and draw.

A script is divided into cells by lines that begin with `# %%`; its cells of Markdown become prose.
A page ends with the hash of the script that it was made from, so that a test can tell that a script
was changed and its page was not.

    python docs/render.py                    # the pages whose scripts have changed
    python docs/render.py crossing waveguide # these
"""

import argparse
import ast
import contextlib
import hashlib
import inspect
import io
import operator
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import tomllib
import warnings
from collections.abc import Callable

import matplotlib.pyplot as plt

import implicit_eig

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent

# The navigation says which examples and which areas of the API there are, and in which order.
NAVIGATION = (ROOT / "mkdocs.yml").read_text()
AREAS = re.findall(r"^ +- .+: api/([\w-]+)\.md$", NAVIGATION, flags=re.MULTILINE)
GALLERY = {
    group: re.findall(r"gallery/(\w+)\.md", pages)
    for group, pages in re.findall(
        r"^ +- (.+):\n((?: +- .+: gallery/\w+\.md\n)+)", NAVIGATION, flags=re.MULTILINE
    )
}
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def scripts() -> dict[pathlib.Path, pathlib.Path]:
    """Return each script with its page."""
    names = [name for group in GALLERY.values() for name in group]
    pages = {ROOT / "examples" / f"{name}.py": DOCS / "gallery" / f"{name}.md" for name in names}
    tutorials = sorted((DOCS / "tutorials").glob("*.py"))
    return pages | {script: script.with_suffix(".md") for script in tutorials}


def digest(script: pathlib.Path) -> str:
    """Return what tells this version of a script from others."""
    return hashlib.sha256(script.read_bytes()).hexdigest()[:16]


def is_stale(script: pathlib.Path, page: pathlib.Path) -> bool:
    """Tell whether the script was changed after its page was written."""
    return not page.exists() or f"sha256 {digest(script)}" not in page.read_text()


def cells(script: pathlib.Path) -> list[tuple[str, str, int]]:
    """Return the cells of a script: their kind, their text, and their first line."""
    found = []
    pieces = re.split(r"^(# %%.*)\n", script.read_text(), flags=re.MULTILINE)
    line = 1 + pieces[0].count("\n")
    for head, text in zip(pieces[1::2], pieces[2::2], strict=True):
        kind = "prose" if "[markdown]" in head else "code"
        if kind == "prose":
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        found.append((kind, text.strip("\n"), line + 1))
        line += 1 + text.count("\n")
    return found


def execute(script: pathlib.Path, page: pathlib.Path) -> None:
    """Run a script cell by cell and write its page."""
    plt.switch_backend("Agg")
    plt.style.use(DOCS / "pictures.mplstyle")
    warnings.showwarning = lambda message, category, *_: print(f"{category.__name__}: {message}")
    warnings.simplefilter("default")
    for earlier in page.parent.glob("*.png"):
        if re.fullmatch(rf"{page.stem}(-\d+)?", earlier.stem):
            earlier.unlink()

    page_lines, drawn, title = [], set(), _title(script)
    names = {"__name__": "__main__", "__file__": str(script)}
    sys.path.insert(0, str(script.parent))
    with tempfile.TemporaryDirectory() as scratch:
        accepts_output = '"--output"' in script.read_text()
        picture = str(pathlib.Path(scratch) / "picture.png")
        sys.argv = [script.name, *(["--output", picture] if accepts_output else [])]
        for kind, text, line in cells(script):
            if kind == "prose":
                page_lines += [text, ""]
                continue
            page_lines += ["```python", text.strip("\n"), "```", ""]
            output, shown = run(text, names, str(script), line)
            if output:
                page_lines += ['```{ .text .output title="Output" }', output, "```", ""]
            if shown:
                page_lines += [shown, ""]
            for number in plt.get_fignums():
                if number in drawn:
                    continue
                drawn.add(number)
                name = f"{page.stem}.png" if len(drawn) == 1 else f"{page.stem}-{len(drawn)}.png"
                plt.figure(number).savefig(page.parent / name)
                page_lines += [f"![{title}]({name})", ""]
    source = script.relative_to(ROOT)
    page_lines += [
        f"[Download `{source}`]({REPOSITORY}/blob/main/{source})",
        "",
        f"<!-- Written by docs/render.py from {source}, sha256 {digest(script)} -->",
    ]
    page.write_text("\n".join(page_lines) + "\n")


def run(text: str, names: dict, file: str, line: int) -> tuple[str, str]:
    """Run a cell. Return what it printed, and what a notebook would show of its last expression."""
    tree = ast.parse("\n" * (line - 1) + text, file)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(tree, file, "exec"), names)
        value = None if last is None else eval(compile(last, file, "eval"), names)
    shown = value._repr_html_() if hasattr(value, "_repr_html_") else ""
    printed = [row for row in output.getvalue().splitlines() if not row.startswith("picture:")]
    wrapped = [textwrap.fill(row, 100) if len(row) > 110 else row for row in printed]
    return "\n".join(wrapped).strip("\n"), shown


def _title(script: pathlib.Path) -> str:
    return cells(script)[0][1].splitlines()[0].removeprefix("# ")


def gallery() -> str:
    """Return the page that shows all examples by their pictures."""
    lines = [
        "# Gallery",
        "",
        "Each example is a script that runs as it stands, checks its claims by assertions and",
        "draws its picture. They lie in the folder `examples/`:",
        "",
        "```bash",
        'pip install -e ".[examples]"',
        "python examples/membrane.py --help",
        "```",
        "",
    ]
    for group, names in GALLERY.items():
        lines += [f"## {group}", "", '<div class="grid cards gallery" markdown>', ""]
        for name in names:
            script = ROOT / "examples" / f"{name}.py"
            title = _title(script)
            lines += [f"-   [**{title}**]({name}.md)", ""]
            if (DOCS / "gallery" / f"{name}.png").exists():
                lines += [f"    [![{title}]({name}.png){{ loading=lazy }}]({name}.md)", ""]
            lines += [f"    {_summary(script)}", ""]
        lines += ["</div>", ""]
    return "\n".join(lines)


def _summary(script: pathlib.Path) -> str:
    """Return the first sentences of a script's prose."""
    text = cells(script)[0][1].split("\n", 1)[1].strip().split("\n\n")[0]
    summary = ""
    for sentence in re.split(r"(?<=[.:?]) (?=[A-Z])", " ".join(text.split())):
        if len(summary) > 80:
            break
        summary = f"{summary} {sentence}".strip()
    return re.sub(r"[:,]$", ".", summary)


def api() -> str:
    """Return the page that lists all public names, with the first sentence of their docstrings."""
    lines = [
        "# API",
        "",
        "Everything public, by area. Each entry has its shapes, units, errors, cost, source and an",
        "example that the tests run.",
        "",
    ]
    for page in AREAS:
        text = (DOCS / "api" / f"{page}.md").read_text()
        lines += [f"## [{text.splitlines()[0].removeprefix('# ')}]({page}.md)", ""]
        lines += ["| name | |", "|---|---|"]
        for name, members in re.findall(r"^::: (\S+)((?:\n .*)*)", text, flags=re.MULTILINE):
            # a solver's module has its name
            public = re.sub(r"\.(\w+)\.\1$", r".\1", name).removeprefix("implicit_eig.")
            thing = operator.attrgetter(public)(implicit_eig)
            names = re.findall(r"- (\w+)", members) if inspect.ismodule(thing) else []
            entries = [
                (f"{public}.{each}", f"{name}.{each}", getattr(thing, each)) for each in names
            ]
            for shown, path, entry in entries or [(public, name, thing)]:
                first = inspect.getdoc(entry).split("\n\n")[0].replace("\n", " ")
                lines.append(f"| [`{shown}`][{path}] | {first.replace('|', '&#124;')} |")
        lines.append("")
    return "\n".join(lines)


def indices() -> dict[pathlib.Path, Callable[[], str]]:
    """Return the pages that are made without running a script, each with what makes it."""
    return {DOCS / "gallery" / "index.md": gallery, DOCS / "api" / "index.md": api}


def main() -> None:
    """Write the pages of the named scripts, or of all that have changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of scripts, without .py; default: those changed")
    parser.add_argument("--here", action="store_true", help="run in this process")
    options = parser.parse_args()
    for script, page in scripts().items():
        if script.stem not in options.names if options.names else not is_stale(script, page):
            continue
        if options.here:
            execute(script, page)
        else:
            print(script.relative_to(ROOT), flush=True)
            subprocess.run([sys.executable, __file__, "--here", script.stem], check=True)
    if not options.here:
        for page, made in indices().items():
            page.write_text(made())


if __name__ == "__main__":
    main()
