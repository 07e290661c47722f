"""Looks over everybody's shoulder: what was visible once, and what was promised to last."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.simulation.process import Violation
from tests.simulation.tree import File, Tree


class Watch:
    """shown: the bytes of every visible file of the data set, below `out`. promised: of which a
    writer was told that they are there to stay. valid: what a part may hold, where that is known.

    exclusive: whether the file system has an exclusive creation at all.
    """

    def __init__(self, tree: Tree, out: str, exclusive: bool) -> None:
        self.tree, self.out, self.exclusive = tree, out, exclusive
        self.shown: dict[str, bytes] = {}
        self.promised: set[str] = set()
        self.valid: Callable[[str], Iterable[bytes]] | None = None
        self.clock: Callable[[], float] = lambda: 0.0
        self.vanished_at = -1.0

    def inside(self, path: str) -> str | None:
        """A path below `out`, if it is one of the data set's: a part or a record."""
        below = path[len(self.out) + 1 :]
        tree, _, rest = below.partition("/")
        name = rest.rpartition("/")[2]
        if not path.startswith(self.out + "/") or tree not in ("responses", "manifest"):
            return None
        return None if not name or name.startswith(".") else below

    def appeared(self, path: str, file: File) -> None:
        """A name is there now, or another file has it."""
        below = self.inside(path)
        if below is None:
            return
        if not file.durable:
            raise Violation(f"P11 {below} became visible before its bytes were on the disk")
        old = self.shown.get(below)
        if old is not None and not below.endswith("/_cell.json"):
            if old != file.data:
                raise Violation(f"P4 {below} was visible and has other bytes now")
            if self.exclusive:
                raise Violation(f"P4 {below} was visible and was made a second time")
        if self.valid is not None and below.endswith(".parquet"):
            valid = self.valid(below)
            if valid and file.data not in valid:
                raise Violation(f"P3 {below} became visible with bytes that nobody should write")
        self.shown[below] = file.data

    def vanished(self, path: str, moving: bool) -> None:
        below = self.inside(path)
        if below is None:
            return
        if not moving:
            raise Violation(f"P5 {below} was visible and was removed")
        self.vanished_at = self.clock()
        self.shown.pop(below, None)
        self.promised.discard(below)

    def written(self, file: File) -> None:
        """Bytes of a file changed."""
        for name in file.names:
            if self.inside(name) in self.shown:
                raise Violation(f"P5 {name} was visible and is being written to")

    def promise(self, below: str) -> None:
        """A writer was told that a file is there."""
        if below not in self.shown:
            return  # Somebody has deleted or moved it since.
        if not self.tree.durable(f"{self.out}/{below}"):
            raise Violation(f"P4 {below} was called done and would not outlive a loss of power")
        self.promised.add(below)

    def forget(self, below: str) -> None:
        """Somebody has deleted a folder, or damaged a file."""
        self.vanished_at = self.clock()
        for shown in [s for s in self.shown if s.startswith(below)]:
            del self.shown[shown]
            self.promised.discard(shown)

    def after_loss(self) -> None:
        """Power is back: what was promised is there, what is visible is whole."""
        for below, data in list(self.shown.items()):
            node = self.tree.find(f"{self.out}/{below}")
            if node is None:
                if below in self.promised:
                    raise Violation(f"P4 {below} was called done and a loss of power undid it")
                del self.shown[below]
            elif not isinstance(node, File) or node.data != data:
                raise Violation(f"P11 {below} is torn after a loss of power")
