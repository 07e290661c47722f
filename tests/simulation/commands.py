"""The commands that a user gives, each a process: the production jobs, without Hydra and Ray."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from jobs import generate, resume
from lmmsteer.errors import LmmsteerError, RunFailed
from lmmsteer.fleet import stack
from lmmsteer.fleet.driver import Driver
from lmmsteer.fleet.plan import Plan
from lmmsteer.fleet.scheduler import Scheduler
from lmmsteer.fleet.verify import Findings, aside, verify
from lmmsteer.fleet.work import Failure
from tests.simulation.disk import SimDisk
from tests.simulation.process import Dead, Process, Violation
from tests.simulation.store import SimStore
from tests.simulation.workers import SimFleet

if TYPE_CHECKING:
    from tests.simulation.world import World

DRAIN = 2.0


class Command(Process):
    """A driver's process. code: what it ended with; None while it runs, or where it was killed.

    said: what it told its user. halt: seconds for which it is about to be stopped.
    """

    def __init__(self, world: World, verb: str, workers: int | None, host: str) -> None:
        super().__init__(world, f"{verb}{world.number()}", host, "begin")
        self.verb, self.workers = verb, workers
        self.store = SimStore(world.root, SimDisk(world, self))
        self.fleet = SimFleet(world, self)
        self.code: int | None = None
        self.said: list[str] = []
        self.found: Findings | None = None
        self.driver: Driver | None = None
        self.scheduler: Scheduler | None = None
        self.halt = 0.0
        self.over = self.asked = False
        self.asked_at = 0.0
        self.missing = 0  # Shards that were not there when it began.

    @property
    def wall(self) -> float:
        return self.world.now + self.world.skew.get(self.host, 0.0)

    def tell(self, *words: object) -> None:
        self.said.append(" ".join(map(str, words)))

    def life(self) -> None:
        """What `jobs.__main__` does with a verb: its exit code, errors as sentences."""
        try:
            self.code = self._run()
        except Dead:
            self.world.say(self, "is gone")
        except RunFailed as error:
            self.tell(error)
            self.code = 1
        except LmmsteerError as error:
            self.tell(error)
            self.code = 2
        except KeyboardInterrupt:
            self.tell("Interrupted.")
            self.code = 1
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)
            where = " < ".join(
                f"{f.name} {f.filename.rpartition('/')[2]}:{f.lineno}" for f in at[:0:-1]
            )
            raise Violation(f"P15 a traceback ends {self.name}: {error!r} {where}") from error
        finally:
            self.over = True
        self.world.ended(self)

    def _run(self) -> int:
        if self.verb == "verify":
            return self._verify()
        schedule = self.world.schedule
        jobs = self.world.project.jobs(self.workers, schedule.share, schedule.deadline)
        plan = Plan._of(self.store, jobs, lambda job: job, lambda job: str(job.cell))
        if self.verb == "retry":
            resume._move_failed(plan, self.store, True)
        return generate.carry_out(plan, self.verb)

    def _verify(self) -> int:
        self.found = verify(self.store)
        where = f"{self.world.number():08x}"
        moved = aside(self.store, self.found.faults, where)
        self.tell(f"{len(self.found.faults)} faults, {len(moved)} moved")
        return 1 if self.found.faults else 0

    def answer(
        self,
        lots: Any,
        cluster: Any,
        device: Any,
        journal: Any,
        on_report: Any,
        budgets: Any = None,
        planned: Any = None,
    ) -> list[Failure]:
        """What `lmmsteer.fleet.run.carry_out` does, on a simulated fleet."""
        self.missing = sum(lot.left for lot in lots)
        if not self.missing:
            return []
        scheduler = Scheduler(lots, journal.write, on_report, budgets or {}, cluster.deadline)
        self.scheduler = scheduler
        self.driver = Driver(
            scheduler,
            self.fleet,
            cluster.workers,
            lambda facts: stack.difference(planned or {}, facts["stack"]),
            lambda: self.world.now,
        )
        self.step = "drive"
        if self.asked:
            raise KeyboardInterrupt
        self.driver.run()
        self.step = "begin"
        self.driver = None
        if self.asked:
            raise KeyboardInterrupt
        return scheduler.failures

    def ask_to_stop(self) -> None:
        """SIGTERM: the handler of a run drains, elsewhere the command just ends."""
        self.world.say(self, "is asked to stop")
        if self.driver is None or self.asked:
            raise KeyboardInterrupt
        self.asked, self.asked_at = True, self.world.now
        self.driver.drain(DRAIN)
