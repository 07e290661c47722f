"""One integer is one schedule: which data set, disk and hosts; what breaks, where and when.

Everything is drawn at once and kept as a list of faults, so that a schedule can be printed, and
made shorter by leaving faults out: what is left stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random


@dataclass(frozen=True)
class Fault:
    """What befalls whom, and where.

    step, at: the at-th point of a kind, counted over the whole schedule: an operation on the disk
    (`commit`, `record`, `manifest`, `move`, `log`, `begin`, `look`), a `row`, a `load`, a `start`
    of a worker, a `message`; or `time`, and then at is in eighths of a second. do: what happens;
    much: how often, how long, or to whom.
    """

    step: str
    at: int
    do: str
    much: float = 1.0

    def __str__(self) -> str:
        return f"{self.step} {self.at}: {self.do} {self.much:g}"


@dataclass(frozen=True)
class Medium:
    """A file system: what it can do, whether it is a server's, and how late others see names."""

    name: str = "disk"
    links: bool = True
    renames_new: bool = True
    syncs_folders: bool = True
    network: bool = False
    delay: float = 0.0

    @property
    def exclusive(self) -> bool:
        return self.links or self.renames_new


@dataclass(frozen=True)
class Launch:
    """Commands given at one time, and those before them are over: `generate`, `retry`, `verify`.

    workers: of each; None is as many as there is room for. later: seconds from one to the next.
    before: what happens to the folder first: `damage`, `power`, `heal`.
    """

    verb: str
    workers: tuple[int | None, ...]
    later: float = 0.0
    before: str = ""


@dataclass(frozen=True)
class Schedule:
    """poison: what rows do to their worker, (shard, row) -> `kills`, `hangs`, `pair`; `picture`
    where all rows that show its picture do so. wrong_model: what loading the first model does.
    places: workers that a host can have. share: of the rows that may fail. bad_host: what every
    worker does that starts on the last host. interleaved: operations on the disk take time, so that
    writers get into each other's way.
    """

    seed: int
    project: int
    medium: Medium
    hosts: int
    places: int
    launches: tuple[Launch, ...]
    poison: tuple[tuple[int, int, str], ...] = ()
    wrong_model: str = ""
    share: float = 1.0
    breaker: bool = False
    deadline: float = 4.0
    bad_host: str = ""
    interleaved: bool = False
    faults: tuple[Fault, ...] = field(default=())

    def without(self, fault: Fault) -> Schedule:
        return replace(self, faults=tuple(f for f in self.faults if f is not fault))

    def simpler(self) -> Iterator[Schedule]:
        """Schedules in which one thing less happens, faults apart."""
        for at in range(len(self.launches)):
            if len(self.launches) > 1:
                rest = self.launches[:at] + self.launches[at + 1 :]
                yield replace(self, launches=rest)
            if len(self.launches[at].workers) > 1:
                one = replace(self.launches[at], workers=self.launches[at].workers[:-1])
                yield replace(self, launches=(*self.launches[:at], one, *self.launches[at + 1 :]))
        if self.interleaved:
            yield replace(self, interleaved=False)
        for at in range(len(self.poison)):
            yield replace(self, poison=self.poison[:at] + self.poison[at + 1 :])
        if self.medium != DISK:
            yield replace(self, medium=DISK)

    def __str__(self) -> str:
        poison = "".join(f", shard {s} row {r} {what}" for s, r, what in self.poison)
        lines = [
            f"seed {self.seed}: data set {self.project} on {self.medium.name}, {self.hosts} hosts"
            f" of {self.places}{poison}{', interleaved' if self.interleaved else ''}"
            f"{', model ' + self.wrong_model if self.wrong_model else ''}"
            f"{', last host ' + self.bad_host if self.bad_host else ''}",
            *(f"  {launch}" for launch in self.launches),
            *(f"  {fault}" for fault in self.faults),
        ]
        return "\n".join(lines)


DISK = Medium()
MEDIA = (
    (DISK, 10),
    (Medium("NFS", network=True, delay=0.0), 2),
    (Medium("NFS with late names", network=True, delay=2.0), 4),
    (Medium("a disk without hard links", links=False), 2),
    (Medium("a disk without folder sync", syncs_folders=False), 1),
    (Medium("a disk without exclusive creation", links=False, renames_new=False), 1),
)
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EACCES", "ESTALE", "EROFS")
WEATHER = ("full", "quota", "read-only", "denied", "stale", "failing")
POINTS = {"commit": 90, "log": 120, "record": 40, "manifest": 60, "begin": 40, "look": 200}
THEMES = ("mixed", "mixed", "commit", "drivers", "messages", "poison", "storage", "power", "repair")


def draw(seed: int, projects: int) -> Schedule:
    """The schedule of a seed."""
    chance = Random(seed)
    theme = chance.choice(THEMES)
    media, weights = zip(*MEDIA, strict=True)
    medium = chance.choices(media, weights)[0]
    drawn = Schedule(
        seed=seed,
        project=chance.randrange(projects),
        medium=medium,
        hosts=chance.choice((1, 2, 3)),
        places=chance.choice((1, 2, 4)),
        launches=_launches(chance, theme, medium),
    )
    drawn = replace(drawn, interleaved=chance.random() < 0.12)
    if drawn.hosts > 1 and chance.random() < 0.05:
        drawn = replace(drawn, bad_host=chance.choice(("lost", "stack", "never")))
    return _with_faults(_with_traits(drawn, chance, theme), chance, theme)


def _launches(chance: Random, theme: str, medium: Medium) -> tuple[Launch, ...]:
    # Where a file system has no exclusive creation, the store says so: one driver at a time.
    most = 1 if not medium.exclusive else 4 if theme == "drivers" else 2
    found = [_launch(chance, "generate", most)]
    while chance.random() < 0.35 and len(found) < 4:
        found.append(_launch(chance, "generate", most))
    if theme == "repair" or chance.random() < 0.04:
        found.append(Launch("verify", (1,), before="damage"))
        if chance.random() < 0.5:
            found.append(_launch(chance, "generate", most))
    if (theme == "poison" and chance.random() < 0.4) or chance.random() < 0.03:
        found.append(replace(_launch(chance, "retry", most), before=chance.choice(("heal", ""))))
    if theme == "power" and chance.random() < 0.7:
        found.append(replace(_launch(chance, "generate", most), before="power"))
    return tuple(found)


def _launch(chance: Random, verb: str, most: int) -> Launch:
    count = chance.randint(2, most) if most > 1 and chance.random() < most / 8 else 1
    workers = tuple(chance.choice((1, 1, 2, 2, 3, 7, None)) for _ in range(count))
    return Launch(verb, workers, chance.choice((0.0, 0.0, 0.4, 2.0)))


def _with_traits(drawn: Schedule, chance: Random, theme: str) -> Schedule:
    if theme != "poison" and chance.random() < 0.8:
        return drawn
    rows = [
        (chance.randrange(6), chance.randrange(6), chance.choice(("kills", "kills", "hangs")))
        for _ in range(chance.randint(1, 4))
    ]
    odd = chance.random()
    if odd < 0.15:
        rows = [(rows[0][0], rows[0][1], "picture")]
    elif odd < 0.25:
        rows = [(rows[0][0], 0, "pair")]
    elif odd < 0.3:
        wrong = chance.choice(("fails", "kills", "hangs", "node"))
        # A host that starts nobody, and a model that takes all others down: no run could do it.
        bad = "" if wrong == "node" else drawn.bad_host
        return replace(drawn, wrong_model=wrong, bad_host=bad)
    tight = chance.random() < 0.2
    share = 0.01 if tight else 1.0
    return replace(drawn, poison=tuple(rows), share=share, breaker=tight and chance.random() < 0.5)


def _with_faults(drawn: Schedule, chance: Random, theme: str) -> Schedule:
    most = 0 if theme == "poison" and chance.random() < 0.6 else chance.choice((1, 2, 3, 5, 8))
    faults = [_fault(chance, theme, drawn.medium) for _ in range(most)]
    return replace(drawn, faults=tuple(faults))


def _fault(chance: Random, theme: str, medium: Medium) -> Fault:
    kinds = {
        "commit": (_at_commit,),
        "messages": (_at_message, _at_message, _at_time),
        "storage": (_storage, _storage, _at_point),
        "power": (_power, _power, _at_point),
        "repair": (_at_move, _at_point),
        "drivers": (_at_driver, _at_point, _at_time),
    }
    every = (_at_commit, _at_point, _at_time, _at_message, _at_work, _storage, _power, _at_driver)
    return chance.choice(kinds.get(theme, every))(chance)


def _at_commit(chance: Random) -> Fault:
    at = chance.randrange(POINTS["commit"])
    return _operation(chance, "commit", at)


def _at_move(chance: Random) -> Fault:
    return _operation(chance, "move", chance.randrange(14))


def _at_point(chance: Random) -> Fault:
    step = chance.choice(list(POINTS))
    return _operation(chance, step, chance.randrange(POINTS[step]))


def _operation(chance: Random, step: str, at: int) -> Fault:
    do = chance.choice(("kill", "kill after", "stop", "stop", "error", "odd", "odd"))
    if do == "stop":
        return Fault(step, at, do, chance.choice((0.5, 3.0, 12.0, 60.0, 5000.0)))
    if do == "error":
        return Fault(step, at, chance.choice(ERRORS), chance.choice((1, 1, 2, 5, 30)))
    if do == "odd":
        do = chance.choice(("EIO after", "twice", "flip", "drain"))
    return Fault(step, at, do)


def _at_message(chance: Random) -> Fault:
    do = chance.choice(("drop", "delay", "double", "swap"))
    return Fault("message", chance.randrange(60), do, chance.choice((0.5, 2.0, 8.0)))


def _at_work(chance: Random) -> Fault:
    step, do = chance.choice(
        (
            ("row", "kill"),
            ("row", "kill"),
            ("row", "hang"),
            ("row", "stop"),
            ("row", "fail"),
            ("load", "kill"),
            ("load", "hang"),
            ("load", "fail"),
            ("start", "lost"),
            ("start", "lost"),
            ("start", "never"),
            ("start", "stack"),
            ("start", "slow"),
            ("start", "slow"),
        )
    )
    most = {"row": 60, "load": 6, "start": 6}[step]
    much = 20.0 if do == "slow" else chance.choice((2.0, 20.0, 100.0))
    return Fault(step, chance.randrange(most), do, much)


def _at_time(chance: Random) -> Fault:
    do = chance.choice(("kill worker", "kill worker", "host down", "room", "clock", "lose contact"))
    much = chance.choice((3, 64, 1, 20)) if do == "room" else chance.choice((1, 2, 3, 5, 9))
    return Fault("time", chance.randrange(48), do, much)


def _at_driver(chance: Random) -> Fault:
    do = chance.choice(("kill driver", "kill driver", "stop driver", "drain"))
    return Fault("time", chance.randrange(48), do, chance.choice((1.0, 8.0, 30.0)))


def _storage(chance: Random) -> Fault:
    do = chance.choice((*WEATHER, *WEATHER, "deleted", "deleted cell"))
    return Fault("time", chance.randrange(40), do, chance.choice((0.4, 2.0, 8.0)))


def _power(chance: Random) -> Fault:
    if chance.random() < 0.4:
        return Fault("time", chance.randrange(48), "power")
    step = chance.choice(("commit", "commit", "commit", "record", "log", "begin", "manifest"))
    return Fault(
        step, chance.randrange(POINTS[step]), chance.choice(("power", "power", "power after"))
    )
