"""The Python code of pages of the documentation."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def blocks(text):
    """The blocks of Python in a text."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def sections(page):
    """The code of each section of a page, by the section's title."""
    parts = page.read_text().split("\n## ")[1:]
    return {part.splitlines()[0]: "\n".join(blocks(part)) for part in parts}
