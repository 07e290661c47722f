"""fit: what a method learns about a model and an attribute, written to out/artifacts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from jobs import explain
from lmmsteer import manifest
from lmmsteer.errors import LmmsteerError
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


def run(members: list[Member]) -> int:
    """Fit what is not fitted yet; a member that cannot be is named, and the others run."""
    store = store_of(members, lambda error: explain.sentence(error, "fit"))
    fits, refused = _resolve(members, store)
    for fit in fits.values():
        manifest.build(store, fit.task.dataset, fit.dataset, fit.identity)
    items = [
        Item(fit.with_parts(manifest.load(store, fit.task.dataset)), "", 1, fit.label)
        for fit in fits.values()
        if not fit.done
    ]
    failures: list[Failure] = []
    if items:
        first = next(iter(fits.values())).config
        labels = {log_name(fit.task): fit.label for fit in fits.values()}
        heard = Listener(store, labels, lambda line: print(line, file=sys.stderr, flush=True))
        with Display(len(items), "fit", unit="fits") as display, heard:

            def on_report(item: Item, report: Report) -> None:
                display.add(1, report.failure is not None)
                heard.take(item.label, report.said)

            journal = Journal(store, "fit")
            failures = fleet.carry_out(lots(items), first.cluster, first.device, journal, on_report)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    missing = sum(not _show(store, fit) for fit in fits.values())
    if not fits:
        return 2
    return 1 if failures or missing or refused else 0


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
