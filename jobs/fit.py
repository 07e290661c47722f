"""fit: what a method learns about a model and an attribute, written to out/artifacts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jobs import explain
from lmmsteer import manifest
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet import cluster as clusters
from lmmsteer.fleet import run as fleet
from lmmsteer.fleet.fits import Fit, resolve_fit
from lmmsteer.fleet.journal import Journal
from lmmsteer.fleet.launcher import Member
from lmmsteer.fleet.plan import store_of
from lmmsteer.fleet.progress import Display
from lmmsteer.fleet.task import Report
from lmmsteer.fleet.telling import Listener, log_name
from lmmsteer.fleet.work import Failure, Item, lots
from lmmsteer.store import Store

MOST = 64  # Hands at the fits of a command: more would find nothing to do.


def run(members: list[Member]) -> int:
    """Fit what is not fitted yet; a member that cannot be is named, and the others run."""
    store = store_of(members, lambda error: explain.sentence(error, "fit"))
    fits, refused = _resolve(members, store)
    for fit in fits.values():
        manifest.build(store, fit.task.dataset, fit.dataset, fit.identity)
    items = _items(store, [fit for fit in fits.values() if not fit.done])
    failures: list[Failure] = []
    if items:
        first = next(iter(fits.values())).config
        mine = {fit.label for fit in fits.values()}
        labels = {log_name(fit.task): fit.label for fit in fits.values()}
        heard = Listener(store, labels, lambda line: print(line, file=sys.stderr, flush=True))
        count = sum(item.label in mine for item in items)
        with Display(count, "fit", unit="fits") as display, heard:

            def on_report(item: Item, report: Report) -> None:
                if item.label in mine:
                    display.add(1, report.failure is not None)
                    heard.take(item.label, report.said)

            journal = Journal(store, "fit")
            found = fleet.carry_out(lots(items), first.cluster, first.device, journal, on_report)
            # A hand that could not help is in the log; whether the fit is there is what counts.
            failures = [failure for failure in found if failure.label in mine]
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    missing = sum(not _show(store, fit) for fit in fits.values())
    if not fits:
        return 2
    return 1 if failures or missing or refused else 0


def _items(store: Store, fits: Sequence[Fit]) -> list[Item]:
    """The fits, and behind them helping hands for the workers that would have none."""
    if not fits:
        return []
    tasks = [(fit, fit.with_parts(manifest.load(store, fit.task.dataset))) for fit in fits]
    config = fits[0].config
    known = config.cluster.workers is not None or clusters.address_of(config.cluster) is None
    workers = clusters.workers_wanted(config.cluster, config.device, MOST) if known else 1
    hands = max(1, workers // len(fits))
    return [
        Item(
            replace(task, hand=hand, hands=hands),
            "",
            1,
            f"{fit.label} (hand {hand + 1} of {hands})" if hand else fit.label,
        )
        for hand in range(hands)
        for fit, task in tasks
    ]


def _resolve(members: list[Member], store: Store) -> tuple[dict[str, Fit], int]:
    fits: dict[str, Fit] = {}
    refused = 0
    for member in members:
        try:
            if member.config is None:
                raise explain.sentence(member.error or ValueError("no config"), "fit")
            fit = resolve_fit(member, store)
            fits[fit.task.path] = fit
        except LmmsteerError as error:
            refused += 1
            prefix = f"{member.label}: " if len(members) > 1 else ""
            print(f"lmmsteer: {prefix}{error.what}\n{error.mend}", file=sys.stderr)
    return fits, refused


def _show(store: Store, fit: Fit) -> bool:
    """One line about the artifact; False where it is not there."""
    if not store.exists(fit.task.path):
        return False
    about = fit.read(store).metadata
    print(f"{fit.label}: {_said(about)} ({store.root}/{fit.task.path})")
    return True


def _said(about: Mapping[str, Any]) -> str:
    """What a fit came to, in its own figures."""
    if about.get("score_after") is not None:
        scores = f"{about['score_before']:.2f} -> {about['score_after']:.2f}"
        return f"layer {about['layer']}, {about['score']} {scores}"
    named = {key: value for key, value in about.items() if "accuracy" in key and value is not None}
    return ", ".join(f"{key.replace('_', ' ')} {value:.2f}" for key, value in sorted(named.items()))
