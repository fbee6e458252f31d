"""Tables of figures, as text for a terminal and as HTML for a notebook."""

from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import numpy as np

# A notebook shows this many rows, and counts those of a wide spectrum or a batch beyond them.
MOST_ROWS = 20


def short(figure: Any) -> str:
    """Return a figure with the two digits that an estimate deserves."""
    return f"{figure:.1e}"


class Column(NamedTuple):
    """The figures of all eigenpairs, and how they are written.

    Attributes:
        figures: of the shape of the table.
        text: writes one of them.
        attention: a mask of the same shape, of the figures that deserve attention; `None` if no
            figure does.
    """

    figures: np.ndarray
    text: Callable[[Any], str] = short
    attention: np.ndarray | None = None


class Table(NamedTuple):
    """A row for each eigenpair, or for each one of each member of a batch.

    Attributes:
        caption: a line above.
        shape: (k,), or (..., k) of a batch.
        columns: by their headings.
        notes: lines below.
        meaning: of a figure that deserves attention; a phrase.
    """

    caption: str
    shape: tuple[int, ...]
    columns: dict[str, Column]
    notes: list[str]
    meaning: str


def as_text(table: Table) -> str:
    """Return the table in columns of characters, with all its rows."""
    heading, count = _heading(table), int(np.prod(table.shape))
    names = [", ".join(map(str, _index(table, row))) for row in range(count)]
    texts = {heading: names}
    for name, column in table.columns.items():
        texts[name] = [column.text(column.figures[_index(table, row)]) for row in range(count)]
    widths = [max(len(name), *map(len, column), 0) for name, column in texts.items()]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (texts, *zip(*texts.values(), strict=True))
    ]
    return "\n".join([table.caption, *lines, *table.notes])


def as_html(table: Table) -> str:
    """Return the table as HTML, without colours of its own and with at most `MOST_ROWS` rows.

    It has no empty lines, which would end it where it is put into Markdown.
    """
    count = int(np.prod(table.shape))
    shown = min(count, MOST_ROWS)
    head = "".join(_cell("th", name, "col") for name in (_heading(table), *table.columns))
    lines = [
        "<div><table>",
        f"<caption>{escape(table.caption)}</caption>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
        *(_html_row(table, _index(table, row)) for row in range(shown)),
        "</tbody></table>",
    ]
    masks = [column.attention for column in table.columns.values() if column.attention is not None]
    flagged = np.any(masks, axis=0).ravel() if masks else np.zeros(count, bool)
    notes = list(table.notes)
    if flagged.any():
        notes.append(f"In bold: {table.meaning}.")
    if count > shown:
        more = f"{count - shown} more eigenpairs are left out"
        bold = int(flagged[shown:].sum())
        notes.insert(0, f"{more}, {bold} of them with figures in bold." if bold else f"{more}.")
    if notes:
        lines.append(f"<p>{'<br>'.join(map(escape, notes))}</p>")
    return "\n".join([*lines, "</div>"])


def html_or_plain(table: Callable[[], Table], plain: Callable[[], str]) -> str:
    """Return the table as HTML, or the plain text where the figures are not known.

    They are not while JAX traces, in a structure of shapes, where another process holds them, or
    after their buffers were donated. A notebook must show such an object as well, so that no error
    of its table is raised.
    """
    try:
        return as_html(table())
    except Exception:
        return f"<pre>{escape(plain())}</pre>"


def _heading(table: Table) -> str:
    return "pair" if len(table.shape) == 1 else "member, pair"


def _index(table: Table, row: int) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(row, table.shape)))


def _cell(tag: str, text: str, scope: str) -> str:
    return f'<{tag} scope="{scope}">{escape(text)}</{tag}>'


def _html_row(table: Table, index: tuple[int, ...]) -> str:
    cells = [_cell("th", ", ".join(map(str, index)), "row")]
    for column in table.columns.values():
        text = escape(column.text(column.figures[index]))
        bold = column.attention is not None and column.attention[index]
        cells.append(f"<td><strong>{text}</strong></td>" if bold else f"<td>{text}</td>")
    return f"<tr>{''.join(cells)}</tr>"
