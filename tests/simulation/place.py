"""A path as the store uses one, a tenth as dear as pathlib's: a campaign makes millions."""

from __future__ import annotations


class Place(str):
    """An absolute POSIX path; the root has the name that the tree gives it: none."""

    __slots__ = ()

    def __truediv__(self, below: str) -> Place:
        return Place(f"{self}/{below}") if below else self

    @property
    def parent(self) -> Place:
        return Place(self.rpartition("/")[0])

    @property
    def parents(self) -> list[Place]:
        found, place = [], self
        while place:
            place = place.parent
            found.append(place)
        return found

    @property
    def name(self) -> str:
        return self.rpartition("/")[2]

    def expanduser(self) -> Place:
        return self

    def absolute(self) -> Place:
        return self
