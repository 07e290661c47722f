"""Tables as markdown, LaTeX (booktabs) and plain text for a terminal."""

from __future__ import annotations

from analysis.tables import Table

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2212": "$-$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
}


def markdown(table: Table) -> str:
    """A GitHub-flavoured table under its title, its note below."""
    align = ["---"] * table.keys + ["---:"] * (len(table.columns) - table.keys)
    lines = [table.columns, align, *table.rows]
    body = "\n".join(f"| {' | '.join(_pipe(cell) for cell in line)} |" for line in lines)
    note = f"\n\n{table.note}" if table.note else ""
    return f"## {table.title}\n\n{body}{note}\n"


def latex(table: Table) -> str:
    r"""A table environment with booktabs rules; needs \usepackage{booktabs}."""
    align = "l" * table.keys + "r" * (len(table.columns) - table.keys)
    body = "\n".join(_latex_line(row) for row in table.rows)
    caption = ". ".join(part for part in (_latex(table.title), _latex(table.note)) if part)
    return (
        "\\begin{table}[t]\n\\centering\n\\small\n"
        f"\\begin{{tabular}}{{{align}}}\n\\toprule\n{_latex_line(table.columns)}\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n\\caption{{{caption}}}\n\\end{{table}}\n"
    )


def plain(table: Table) -> str:
    """Aligned columns; a key that repeats the line above is left out."""
    rows = [_without_repeats(table, number) for number in range(len(table.rows))]
    widths = [max(map(len, column)) for column in zip(table.columns, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < table.keys else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (table.columns, ["-" * width for width in widths], *rows)
    ]
    return "\n".join([table.title, "", *lines])


def _without_repeats(table: Table, number: int) -> list[str]:
    row = list(table.rows[number])
    if number:
        for place in range(table.keys - 1):
            if table.rows[number - 1][: place + 1] != table.rows[number][: place + 1]:
                break
            row[place] = ""
    return row


def _pipe(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _latex_line(cells: tuple[str, ...]) -> str:
    return " & ".join(_latex(cell) for cell in cells) + r" \\"


def _latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
