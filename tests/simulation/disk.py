"""The disk beneath the production LocalStore, as one process sees it, with all that goes wrong.

Every operation is a point at which the process may die, stop, or be refused; each point is counted
by what the process is at (`commit`, `log`, `move`, ...), so that a schedule can name it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lmmsteer.disk import Disk
from tests.simulation.place import Place
from tests.simulation.process import Dead, Process
from tests.simulation.schedule import Fault
from tests.simulation.tree import File, Folder, Node, refusal

if TYPE_CHECKING:
    from tests.simulation.world import World

NUMBERS = {
    name: getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EIO", "EACCES", "ESTALE", "EROFS")
}

SLOW = {"commit": 0.05, "move": 0.05, "record": 0.02, "manifest": 0.01}
ONLY = {"flip": "write", "twice": "link"}  # Faults of one operation.


class Handle:
    """An open file, and the path under which it was opened."""

    __slots__ = ("file", "path")

    def __init__(self, file: File, path: str) -> None:
        self.file, self.path = file, path
        file.handles += 1


class SimDisk(Disk):
    """What a process may ask of the one disk of a world."""

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process, self.tree = world, process, world.tree

    # Operations that change the disk

    def make_folder(self, path: Place) -> None:
        fault = self._point("make_folder", path)
        self.tree.make_folder(path)
        self._changed(path, None)
        self._after(fault)

    def create(self, path: Place) -> Any:
        fault = self._point("create", path)
        handle = Handle(self.tree.create(path, self.world.stamp, self.process.host), path)
        self._appeared(path, None)
        self._after(fault)
        return handle

    def extend(self, path: Place) -> Any:
        fault = self._point("extend", path)
        if self.tree.find(path) is None:
            self.tree.create(path, self.world.stamp, self.process.host)
            self._appeared(path, None)
        handle = Handle(self.tree.file(path), path)
        self._after(fault)
        return handle

    def write(self, handle: Any, data: bytes) -> None:
        try:
            fault = self._point("write", handle.path)
        except (Dead, OSError):
            if not self.process.dead or self.process.torn:
                self.process.torn = False
                self._write(handle, data[: self.world.chance.randrange(len(data) + 1)])
            raise
        if fault is not None and fault.do == "flip" and data:
            at = self.world.chance.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        self._write(handle, data)
        self._after(fault)

    def _write(self, handle: Handle, data: bytes) -> None:
        file = handle.file
        if data:
            file.data = file.data + data if file.data else data
            file.stamp, file.host = self.world.stamp, self.process.host
            self.world.watch.written(file)

    def sync(self, handle: Any) -> None:
        try:
            fault = self._point("sync", handle.path)
        except OSError:
            handle.file.spoiled = True
            raise
        self.tree.sync(handle.file)
        self._after(fault)

    def close(self, handle: Any) -> None:
        fault = self._point("close", handle.path)
        file = handle.file
        file.handles -= 1
        for name in [n for n in file.names if "/.nfs" in n] if not file.handles else ():
            self.tree.remove(name)
        self._after(fault)

    def sync_folder(self, path: Place) -> None:
        fault = self._point("sync_folder", path)
        if not self.world.medium.syncs_folders:
            raise refusal(errno.EINVAL, path)
        self.tree.sync_folder(path)
        self._after(fault)

    def link(self, source: Place, target: Place) -> None:
        fault = self._point("link", target)
        if not self.world.medium.links:
            raise refusal(errno.EPERM, target)
        self.tree.link(source, target)
        self._appeared(target, None)
        if fault is not None and fault.do == "twice":
            # The server did it, its answer was lost, and the client asked again.
            raise FileExistsError(errno.EEXIST, "File exists", target)
        self._after(fault)

    def rename_new(self, source: Place, target: Place) -> None:
        fault = self._point("rename_new", target)
        if not self.world.medium.renames_new:
            raise refusal(errno.EINVAL, target)
        self._rename(source, target, over=False)
        self._after(fault)

    def replace(self, source: Place, target: Place) -> None:
        fault = self._point("replace", target)
        self._rename(source, target, over=True)
        self._after(fault)

    def _rename(self, source: Place, target: Place, over: bool) -> None:
        old, file = self.tree.find(target), self.tree.find(source)
        if isinstance(file, File) and file is not old:
            self.world.watch.vanished(source, self.process.step == "move")
        self.tree.rename(source, target, over)
        self._appeared(target, old)
        self._changed(source, file)

    def remove(self, path: Place) -> None:
        fault = self._point("remove", path)
        file = self.tree.file(path)
        self.world.watch.vanished(path, self.process.step == "move")
        if self.world.medium.network and file.handles:
            hidden = f"{path.rpartition('/')[0]}/.nfs{self.world.number():024x}"
            self.tree.rename(path, hidden, over=False)
        else:
            self.tree.remove(path)
        self._changed(path, file)
        self._after(fault)

    # Looking

    def is_file(self, path: Place) -> bool:
        return isinstance(self._look(path), File)

    def is_folder(self, path: Place) -> bool:
        return isinstance(self._look(path), Folder)

    def same_file(self, one: Place, other: Place) -> bool:
        return self._file(one) is self._file(other)

    def read(self, path: Place) -> bytes:
        return self._file(path).data

    def open_input(self, path: Place) -> pa.NativeFile:
        return pa.BufferReader(self._file(path).data)

    def entries(self, path: Place) -> list[tuple[str, bool]]:
        if not isinstance(self._look(path), Folder):
            raise refusal(errno.ENOENT, path)
        names: dict[str, Node] = self.tree.folder(path).names
        if self.world.recent:
            names = dict(names)
            for at in [at for at in self.world.recent if at.rpartition("/")[0] == path]:
                node = self._seen(at)
                names.pop(at.rpartition("/")[2], None)
                if node is not None:
                    names[at.rpartition("/")[2]] = node
        found = [(below, isinstance(node, Folder)) for below, node in names.items()]
        return found[::-1] if self.world.backwards else found

    def modified(self, path: Place) -> float:
        return self._file(path).stamp

    def free(self, path: Place) -> int:
        self._look(path)
        return 0 if self.world.weather_of("full", "quota") else 1 << 40

    def unique(self) -> str:
        return f"{self.world.number():032x}"

    def pause(self, seconds: float) -> None:
        self.process.sleep(seconds)

    def _file(self, path: Place) -> File:
        node = self._look(path)
        if node is None:
            raise refusal(errno.ENOENT, path)
        if isinstance(node, Folder):
            raise refusal(errno.EISDIR, path)
        if not node.names and self.world.medium.network:
            raise refusal(errno.ESTALE, path)
        return node

    def _look(self, path: Place) -> Node | None:
        self._point("look", path)
        return self._seen(path) if self.world.recent else self.tree.find(path)

    def _seen(self, path: str) -> Node | None:
        """What this host believes: others' changes of names reach it late."""
        late = self.world.recent.get(path)
        if late is not None and late[1] != self.process.host and self.world.now < late[0]:
            return late[2]
        return self.tree.find(path)

    # What goes wrong

    def _point(self, op: str, path: str) -> Fault | None:
        """An operation is about to be done: who dies, stops or is refused here does so now."""
        process, world = self.process, self.world
        if process.dead:
            raise Dead
        step = process.step if op != "look" else "look"
        if world.schedule.interleaved and step in SLOW and process.fiber is not None:
            process.sleep(world.chance.random() * SLOW[step])
        count = world.counts.get(step, 0)
        world.counts[step] = count + 1
        if world.verbose:
            world.say(process, f"{step} {count}: {op} {path[len(world.out) :]}")
        fault = world.faults.get((step, count))
        if fault is not None and op not in ONLY.get(fault.do, op):
            world.faults.setdefault((step, count + 1), fault)  # It waits for its operation.
            fault = None
        if fault is not None:
            world.hit(fault, op)
            self._befall(fault, op, path)
        elif world.refusing and count <= world.refusing.get(step, (-1, ""))[0]:
            raise refusal(NUMBERS[world.refusing[step][1]], path)
        if world.weather:
            self._weather(op, path)
        if process.dead:
            raise Dead
        return fault

    def _befall(self, fault: Fault, op: str, path: str) -> None:
        do = fault.do
        if do == "kill":
            self.process.torn = op == "write"
            self.world.kill(self.process)
        elif do == "power":
            self.world.lose_power(self.process)
        elif do == "stop":
            self.process.stop(fault.much)
        elif do == "drain":
            self.world.ask_to_stop(self.process)
        elif do in NUMBERS:
            self.world.refusing[fault.step] = (fault.at + int(fault.much) - 1, do)
            raise refusal(NUMBERS[do], path)

    def _after(self, fault: Fault | None) -> None:
        """The operation was done; what befalls the process now comes after it."""
        if fault is None:
            return
        if fault.do == "kill after":
            self.world.kill(self.process)
        elif fault.do == "power after":
            self.world.lose_power(self.process)
        elif fault.do == "EIO after":
            raise refusal(errno.EIO)
        self.process.check()

    def _weather(self, op: str, path: str) -> None:
        changing = op != "look"
        if changing and self.world.weather_of("read-only"):
            raise refusal(errno.EROFS, path)
        if changing and self.world.weather_of("denied"):
            raise refusal(errno.EACCES, path)
        if op in ("write", "create", "make_folder"):
            if self.world.weather_of("full"):
                raise refusal(errno.ENOSPC, path)
            if self.world.weather_of("quota"):
                raise refusal(errno.EDQUOT, path)
        if self.world.weather_of("stale") and self.world.chance.random() < 0.5:
            raise refusal(errno.ESTALE, path)
        if self.world.weather_of("failing") and self.world.chance.random() < 0.1:
            raise refusal(errno.EIO, path)

    def _appeared(self, name: str, old: Node | None) -> None:
        self.world.watch.appeared(name, self.tree.file(name))
        self._changed(name, old)

    def _changed(self, name: str, old: Node | None) -> None:
        """A name is new or gone. A file server keeps names at once and tells other hosts late."""
        medium = self.world.medium
        if medium.network or not medium.syncs_folders:
            self.tree.sync_folder(name.rpartition("/")[0])
        if medium.delay and not self.world.calm:
            self.world.recent[name] = (self.world.now + medium.delay, self.process.host, old)
