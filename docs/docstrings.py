"""Show the sections `Cost:`, `Source:` and the like of docstrings as paragraphs.

Google's style knows no such sections: they would be merged, or taken for admonitions. This is an
extension of Griffe, which `mkdocs.yml` names.
"""

import re
import textwrap
from typing import Any

import griffe

SECTIONS = ("Accuracy", "Cost", "Memory", "Source")


class Sections(griffe.Extension):
    """Rewrite docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = as_paragraphs(obj.docstring.value)


def as_paragraphs(docstring: str) -> str:
    """Return a docstring whose sections of text are paragraphs that begin with their name."""
    pattern = rf"^({'|'.join(SECTIONS)}): ?(.*(?:\n(?:[ \t]+\S.*|\n(?=[ \t]+\S)))*)"

    def paragraph(match: re.Match) -> str:
        first, _, rest = match[2].partition("\n")
        return f"\n**{match[1]}:** {first}\n{textwrap.dedent(rest)}\n"

    return re.sub(pattern, paragraph, docstring, flags=re.MULTILINE)
