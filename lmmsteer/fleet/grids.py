"""An experiment's sweep: a union of grids, narrowed or changed by the command line.

A full product cannot say that two attributes belong to one data set and four to another; a list of
grids can. In a config: `hydra.sweeper.params` holds what every grid has, `hydra.sweeper.grids` the
grids, each a mapping of key to value or list of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from lmmsteer.errors import LmmsteerError

PLAIN = re.compile(r"[\w./?:+-]+|\[.*\]")
Grid = dict[str, list[str]]


def read(params: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]) -> list[Grid]:
    """The grids of a config, what they share in each, values as the command line writes them."""
    return [
        {str(key): _values(value) for key, value in {**params, **grid}.items()}
        for grid in grids or [{}]
    ]


def narrowed(grids: Sequence[Grid], own: set[str], asked: Grid) -> list[Grid]:
    """The grids with what the command line asks for.

    A key that grids do not have of their own is replaced. For one in `own`, values that some grid
    has choose among them: `dataset=facet` keeps the grids of facet, and those that do not name the
    key. Values that none has replace those of every grid. Raises: LmmsteerError for both at once.
    """
    found = list(grids)
    for key, values in asked.items():
        known = {value for grid in grids if key in own for value in grid.get(key, [])}
        chosen = [value for value in values if value in known]
        if not chosen:
            found = [{**grid, key: values} for grid in found]
        elif len(chosen) < len(values):
            other = next(value for value in values if value not in known)
            raise LmmsteerError(
                f"{key}={other} is not in the experiment, and {key}={chosen[0]} is.",
                f"Ask for some of {', '.join(sorted(known))}, or for others alone.",
            )
        else:
            kept = [
                (grid, [value for value in grid.get(key, values) if value in chosen])
                for grid in found
            ]
            found = [{**grid, key: left} for grid, left in kept if left]
    if not found:
        raise LmmsteerError(
            f"The experiment has no grid with all of {' '.join(_words(asked, own))}.",
            "See its grids in conf/experiment, or ask for less at once.",
        )
    return found


def members(grids: Sequence[Grid]) -> Iterator[list[str]]:
    """The overrides of every member, the last key fastest; those that are there twice once."""
    seen: set[tuple[str, ...]] = set()
    for grid in grids:
        for values in product(*grid.values()):
            found = [f"{key}={value}" for key, value in zip(grid, values, strict=True)]
            if (mark := tuple(sorted(found))) not in seen:
                seen.add(mark)
                yield found


def _values(value: Any) -> list[str]:
    return [_plain(one) for one in (value if isinstance(value, list) else [value])]


def _plain(value: Any) -> str:
    """A value as Hydra's grammar wants it: in quotes where it holds more than a name or a path."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if PLAIN.fullmatch(text) else "'" + text.replace("'", "\\'") + "'"


def _words(asked: Grid, own: set[str]) -> list[str]:
    return [f"{key}={','.join(values)}" for key, values in asked.items() if key in own]
