"""Mistakes that would lose or falsify answers, each with the tests that must notice it."""

from __future__ import annotations

from dataclasses import dataclass

SIMULATION = "tests/fleet/test_simulation.py::test_no_schedule_breaks_a_promise[0]"


@dataclass(frozen=True)
class Bug:
    """One mistake: `old` in `file` becomes `new`. loss: what a user would have lost by it.

    tests: what pytest is given; at least one of them must fail.
    """

    name: str
    file: str
    old: str
    new: str
    loss: str
    tests: tuple[str, ...]


def _bug(name: str, file: str, old: str, new: str, loss: str, *tests: str) -> Bug:
    return Bug(
        name, file if file.startswith("jobs/") else f"lmmsteer/{file}", old, new, loss, tests
    )


BUGS = (
    # The commit
    _bug(
        "rename-over-a-part",
        "store/claim.py",
        "            self._name(source, target)\n        except",
        "            self.disk.replace(source, target)\n        except",
        "of two writers the later one replaces a part that others have read",
        "tests/test_store.py",
        "tests/test_store_crashes.py",
    ),
    _bug(
        "no-fsync-of-the-file",
        "store/local.py",
        "            self.disk.write(handle, data)\n            self.disk.sync(handle)\n"
        "        except",
        "            self.disk.write(handle, data)\n        except",
        "a part with a name and no bytes after a power cut",
        "tests/test_store_crashes.py",
    ),
    _bug(
        "no-fsync-of-the-folder",
        "store/local.py",
        "            created = self._take(temporary, final)\n            self._sync(final.parent)",
        "            created = self._take(temporary, final)",
        "a part that was counted is gone after a power cut",
        "tests/test_store_crashes.py",
    ),
    _bug(
        "no-reading-back",
        "store/local.py",
        "if self.disk.read(temporary) != data:",
        "if False:",
        "what a failing disk made of a part is committed",
        "tests/test_store.py",
    ),
    _bug(
        "one-temporary-name-for-all",
        "store/claim.py",
        'return folder / f".{name}.{disk.unique()}.tmp"',
        'return folder / f".{name}.{0:032x}.tmp"',
        "two writers of a part write into one file",
        "tests/test_store.py",
        "tests/test_store_crashes.py",
    ),
    _bug(
        "in-place",
        "store/local.py",
        "        temporary = hidden(self.disk, final.parent, final.name)",
        "        temporary = final.parent / final.name",
        "a reader sees half a part",
        "tests/test_store_crashes.py",
        "tests/test_store.py",
    ),
    _bug(
        "a-failed-fsync-is-tried-again",
        "store/local.py",
        "            self.disk.write(handle, data)\n            self.disk.sync(handle)\n"
        "        except",
        "            self.disk.write(handle, data)\n            try:\n"
        "                self.disk.sync(handle)\n            except OSError:\n"
        "                self.disk.sync(handle)\n        except",
        "a second fsync succeeds over pages that the first one dropped",
        "tests/test_store_crashes.py",
    ),
    _bug(
        "a-temporary-is-listed",
        "store/local.py",
        'if not name.startswith("."))',
        "if name)",
        "half-written files count as parts",
        "tests/test_store.py",
    ),
    _bug(
        "living-writers-are-collected",
        "store/local.py",
        "before = self._now(folder) - grace",
        "before = self._now(folder)",
        "a second driver deletes what the first one is writing",
        "tests/test_store_crashes.py",
    ),
    _bug(
        "record-before-data",
        "manifest.py",
        "    store.collect(folder(name))  # What a killed run made is durable before the record"
        " counts it.\n",
        "",
        "a manifest that names parts which a power cut took away",
        "tests/test_manifest.py",
    ),
    _bug(
        "upload-without-exclusion",
        "store/objects.py",
        "        if self.exists(path):\n            return False\n        self.write_bytes",
        "        self.write_bytes",
        "a part in a bucket is replaced by whoever comes later",
        "tests/test_store.py",
        "tests/test_store_s3.py",
        "tests/test_store_retries.py",
    ),
    _bug(
        "a-denied-upload-that-was-done",
        "store/objects.py",
        "                if not self._holds(files, path, data):\n                    raise",
        "                raise",
        "an upload whose answer was lost ends the attempt though it was carried out",
        "tests/test_store_retries.py",
    ),
    _bug(
        "uploads-are-not-read-back",
        "store/objects.py",
        "        if self._written(path) != data:",
        "        if False:",
        "another writer's bytes are taken for ours",
        "tests/test_store_retries.py",
    ),
    _bug(
        "retry-without-bound",
        "store/retries.py",
        "        for number in range(self.tries - 1):",
        "        for number in range(10**6):",
        "a store that stays away holds a run for ever",
        "tests/test_store_retries.py",
    ),
    _bug(
        "retry-of-a-refusal",
        "store/retries.py",
        "                if not passes(error):\n                    raise",
        "                pass",
        "a missing right is asked for again and again",
        "tests/test_store_retries.py",
    ),
    # What a part says of itself
    _bug(
        "seal-always-holds",
        "seal.py",
        "    return digest.hexdigest().encode() == data[start:end]",
        "    return True",
        "a flipped bit goes unnoticed",
        "tests/test_seal.py",
        "tests/test_parts.py",
    ),
    _bug(
        "digest-is-not-compared",
        "parts.py",
        'if meta.get("lmmsteer.digest") != content_digest(table):',
        "if False:",
        "rows that were exchanged are read as answers",
        "tests/test_parts.py",
    ),
    _bug(
        "another-schema-is-read",
        "parts.py",
        "    if not table.schema.equals(schema):",
        "    if False:",
        "columns of another version are taken for this one's",
        "tests/test_parts.py",
    ),
    _bug(
        "verify-skips-the-seal",
        "fleet/verify/contents.py",
        "    if sealed is False:",
        "    if False:",
        "verify calls a damaged part sound",
        "tests/fleet/test_verify.py",
        "tests/corruption/test_campaign.py",
    ),
    _bug(
        "verify-skips-the-picture-digests",
        "fleet/verify/contents.py",
        '    if table.column("sha256").to_pylist() != hashed:',
        "    if False:",
        "a picture that is not the one its row ids hash is accepted",
        "tests/fleet/test_verify.py",
    ),
    _bug(
        "verify-skips-the-order-of-rows",
        "fleet/verify/answers.py",
        "    if rows is not None:\n        _compare_ids(part.table, rows)",
        "    if False:\n        pass",
        "answers of other rows are counted as these",
        "tests/fleet/test_verify.py",
    ),
    _bug(
        "repair-deletes",
        "fleet/verify/repair.py",
        '        store.move(path, f"trash/{where}/{path}")',
        '        __import__("os").remove(str(store.local(path)))',
        "evidence, and what a human could have saved, is gone",
        "tests/fleet/test_verify.py",
        "tests/corruption/test_campaign.py",
    ),
    _bug(
        "repair-moves-what-was-made-anew",
        "fleet/verify/repair.py",
        "return [path for path in bad if _judged(store, bad[path]) and _move(store, path, where)]",
        "return [path for path in bad if _move(store, path, where)]",
        "a good part is moved away by a slower repairer",
        "tests/fleet/test_verify.py",
    ),
    # The gates
    _bug(
        "another-config-goes-on",
        "fingerprint.py",
        "    if different:",
        "    if False:",
        "answers of two configs in one cell",
        "tests/fleet/test_cells.py",
        "tests/test_manifest.py",
    ),
    _bug(
        "another-stack-goes-on",
        "fleet/cells.py",
        "    if asked.stack not in (found.stack, *found.mixed_stacks) and not mixed_stack:",
        "    if False:",
        "answers of two torch versions in one cell, unsaid",
        "tests/fleet/test_cells.py",
    ),
    _bug(
        "orphans-are-adopted",
        "fleet/cells.py",
        "        if found != asked.digest:",
        "        if False:",
        "parts of an unknown config are counted as this one's",
        "tests/fleet/test_cells.py",
    ),
    _bug(
        "manifest-digests-are-not-compared",
        "fleet/shard.py",
        '            if parts.read_footer(store, path).meta.get("lmmsteer.digest") != digest:',
        "            if False:",
        "a worker answers rows of another plan",
        "tests/fleet/test_shard.py",
    ),
    _bug(
        "changed-pictures-are-not-noticed",
        "shards.py",
        "            if digests != (shard.rows_digest, shard.images_digest):",
        "            if False:",
        "a manifest part is made again of other pictures",
        "tests/test_manifest.py",
    ),
    _bug(
        "an-id-twice",
        "manifest.py",
        "    if repeated is not None:",
        "    if False:",
        "two pictures share their answers' ids",
        "tests/test_manifest.py",
    ),
    # What is left, and what came of it
    _bug(
        "resume-does-all-again",
        "fleet/plan.py",
        "        return bytearray(shard.name not in there for shard in shards)",
        "        return bytearray(1 for shard in shards)",
        "every resume pays for the whole sweep",
        SIMULATION,
    ),
    _bug(
        "resume-skips-the-last-shard",
        "fleet/plan.py",
        "            for number in (*range(first, len(shards)), *range(first)):",
        "            for number in (*range(first, len(shards) - 1), *range(first)):",
        "rows that no command ever answers",
        SIMULATION,
    ),
    _bug(
        "zero-after-missing-rows",
        "jobs/generate.py",
        "    return 1 if missing or bad or failures or plan.refused else 0",
        "    return 1 if bad or plan.refused else 0",
        "a script goes on to analyse half a sweep",
        SIMULATION,
    ),
    _bug(
        "max-failed-share-is-ignored",
        "jobs/generate.py",
        "        bad |= share > job.config.max_failed_share",
        "        bad |= False",
        "a run of which most rows failed ends as a success",
        "tests/fleet/test_runs.py::"
        "test_a_broken_picture_is_rows_with_a_reason_and_its_neighbours_do_not_notice",
    ),
    _bug(
        "retry-moves-everything",
        "jobs/resume.py",
        "            if failed and (wanted is None or wanted & set(failed)):",
        "            if True:",
        "retry=true makes whole cells again",
        "tests/fleet/test_runs.py::"
        "test_a_broken_picture_is_rows_with_a_reason_and_its_neighbours_do_not_notice",
    ),
    _bug(
        "an-error-text-as-an-answer",
        "fleet/shard.py",
        "    return answered if error is None else Response.failed(",
        "    return answered if True else Response.failed(",
        "what the model says of a grey filler is counted as an answer",
        "tests/fleet/test_shard.py",
        "tests/fleet/test_decoded.py",
        "tests/fleet/test_runs.py::"
        "test_a_broken_picture_is_rows_with_a_reason_and_its_neighbours_do_not_notice",
    ),
    _bug(
        "a-quarantine-drops-its-row",
        "fleet/shard.py",
        "            for n, request in enumerate(requests)\n        ]\n        self.stage",
        "            for n, request in enumerate(requests)\n            if n not in excluded\n"
        "        ]\n        self.stage",
        "a row that kills a worker is in no part",
        "tests/fleet/test_shard.py",
    ),
    _bug(
        "a-quarantine-changes-its-neighbours",
        "fleet/shard.py",
        "    shown = [replace(q, prompt=FILLER) if n in excluded else q for n, q in"
        " enumerate(requests)]",
        "    shown = list(requests)",
        "a row that kills a worker is shown to the model again",
        "tests/fleet/test_shard.py",
    ),
    # The scheduler
    _bug(
        "deaths-without-bound",
        "fleet/scheduler.py",
        "        elif item.deaths < MAX_DEATHS:",
        "        elif True:",
        "a row that kills workers kills them for ever",
        "tests/fleet/test_scheduler.py",
    ),
    _bug(
        "the-wrong-row-is-blamed",
        "fleet/scheduler.py",
        "        item.excluded = {**(item.excluded or {}), item.probe or 0: reason}",
        "        item.excluded = {**(item.excluded or {}), (item.probe or 0) + 1: reason}",
        "an innocent row gets an error, the killer goes on",
        "tests/fleet/test_scheduler.py",
    ),
    _bug(
        "a-node-is-blamed-on-rows",
        "fleet/scheduler.py",
        '        if cause == "node" and item.losses < MAX_LOSSES:',
        "        if False:",
        "preempted machines quarantine rows",
        "tests/fleet/test_scheduler.py",
    ),
    _bug(
        "what-was-sent-ahead-is-forgotten",
        "fleet/scheduler.py",
        "                if call is not first and not call.item.resolved and not call.item.open:\n"
        "                    self._requeue(call.item)",
        "                pass",
        "a dead worker's second shard is answered by nobody",
        "tests/fleet/test_scheduler.py",
        SIMULATION,
    ),
    _bug(
        "a-twin-counts-twice",
        "fleet/scheduler.py",
        "        call.item.open -= 1\n        if call.item.resolved:\n            return\n",
        "        call.item.open -= 1\n",
        "the rows of a shard that two workers answered are counted twice",
        "tests/fleet/test_scheduler.py",
    ),
    _bug(
        "a-living-worker-is-no-hung-one",
        "fleet/scheduler.py",
        "        if fitting or (stage, count) != (hand.stage, hand.count):",
        "        if True:",
        "a worker that answers its pulse and makes no token holds its shard for ever",
        "tests/fleet/test_driver.py",
    ),
    _bug(
        "the-breaker-never-opens",
        "fleet/scheduler.py",
        "        if folder in self._stopped or budget.failed < BREAKER_ROWS or not budget.spent:",
        "        if True:",
        "a broken cell costs the cluster a day",
        "tests/fleet/test_scheduler.py",
    ),
    _bug(
        "a-drain-sends-more",
        "fleet/scheduler.py",
        "        if self._draining or len(hand.open) >= depth:",
        "        if len(hand.open) >= depth:",
        "a job that is being taken away begins work that it cannot end",
        "tests/fleet/test_driver.py",
        "tests/fleet/test_scheduler.py",
        SIMULATION,
    ),
    _bug(
        "a-full-disk-stops-nothing",
        "fleet/scheduler.py",
        "        if self._storage >= MAX_ALIKE:",
        "        if False:",
        "a cluster computes for hours what nothing can keep",
        "tests/fleet/test_scheduler.py",
    ),
    _bug(
        "a-worker-of-another-stack-joins",
        "fleet/driver.py",
        "        if why is not None:\n            self.fleet.dismiss(event.number)",
        "        if False:\n            self.fleet.dismiss(event.number)",
        "a node with another torch answers part of a cell",
        "tests/fleet/test_driver.py",
    ),
    _bug(
        "the-given-up-are-heard",
        "fleet/driver.py",
        "            self.fleet.dismiss(hand.number)\n            self._up_at = now",
        "            self._up_at = now",
        "a hung worker keeps its card",
        "tests/fleet/test_driver.py",
    ),
    # Rows
    _bug(
        "noise-by-position",
        "engine/sampling.py",
        "    folded = [[_signed(a ^ c), _signed(b ^ d)] for a, b, c, d in words]",
        "    folded = [[at, at] for at in range(len(words))]",
        "an answer hangs on its neighbours in the batch",
        "tests/engine/test_sampling.py",
    ),
    _bug(
        "the-seed-is-ignored",
        "schema.py",
        "    key = json.dumps([image_id, picture_sha256, prompt, seed], ensure_ascii=True)",
        "    key = json.dumps([image_id, picture_sha256, prompt, 0], ensure_ascii=True)",
        "every seed of a prompt has one id and one answer",
        "tests/test_schema.py",
    ),
    _bug(
        "a-shards-pictures-matter",
        "engine/hooks.py",
        "        self.by_row = residual.of is not None or len(self.sets) > 1",
        "        self.by_row = len(self.sets) > 1",
        "a strict answer hangs on how many pictures its shard has",
        "tests/engine/test_strict.py",
        "tests/methods/test_every_family.py",
    ),
    # Pictures
    _bug(
        "a-picture-without-deadline",
        "models/picture_child.py",
        "            with self._deadline(self.limits.seconds):",
        "            with self._deadline(10**6):",
        "a file that never ends holds its worker for ever",
        "tests/models/test_pictures_process.py::"
        "test_a_picture_that_never_ends_is_given_up_at_its_deadline",
    ),
    _bug(
        "a-picture-of-any-size",
        "models/pictures.py",
        "    if width * height > max_pixels:",
        "    if False:",
        "a bomb takes the machine's memory",
        "tests/models/test_pictures_hostile.py",
        "tests/models/test_pictures.py",
    ),
    _bug(
        "a-link-out-of-the-folder",
        "datasets/base.py",
        "        if not real.is_relative_to(root.resolve()):",
        "        if False:",
        "a metadata file of others reads any file of the machine",
        "tests/datasets",
    ),
    _bug(
        "a-killed-decoder-is-the-pictures-fault",
        "models/picture_pool.py",
        "            if not child.doubtful:\n                raise",
        "            raise",
        "a picture fails because the machine was short of memory once",
        "tests/models/test_pictures_process.py",
    ),
)
