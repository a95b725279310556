"""The records of re-evaluations: one file a run, and an index of them.

`reports/<date>.json` is a score record (`e2i compare` takes it) with a part `reevaluation`; of
several on one day the later ones are `<date>-2`, `<date>-3`. The rank of each query lies in
`reports/<date>/`, as of other score records. `reports/reevaluations.json` lists them, the oldest
first; entries are added by compare-and-swap and stay.

Conventions: a run is known by its id: run again, it writes its own record anew, and no other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import ValidationError

from e2i.cache.layout import Document
from e2i.errors import ReportError, StaleWriteError, StorageNotFoundError
from e2i.reevaluation.verdict import Outcome
from e2i.storage import Folder
from e2i.store_layout import join_url

INDEX_NAME = "reevaluations.json"
_ATTEMPTS = 20
_MOST_A_DAY = 10_000


class IndexEntry(Document):
    """One re-evaluation.

    Attributes:
        name: of its record, without `.json`.
        date: when it began, UTC.
        run_id: of the run.
        outcome: what it came to.
        accepted: whether later results are compared with it.
        promotion: number of the promotion that was evaluated.
        checkpoint_sha256: of the bytes that were evaluated.
        manifest_sha256: of the evaluation cache as it was.
        dataset: of the evaluation cache.
        split: of the evaluation cache.
        scores: values by key.
        moved: clips and captions that moved.
        scored: file of what was ranked, below the store.
    """

    name: str
    date: str
    run_id: str
    outcome: Outcome
    accepted: bool
    promotion: int
    checkpoint_sha256: str
    manifest_sha256: str
    dataset: str
    split: str
    scores: dict[str, float]
    moved: int
    scored: str


class Index(Document):
    """`reevaluations.json`."""

    schema_version: Literal[1] = 1
    entries: tuple[IndexEntry, ...] = ()

    def last_accepted(self, dataset: str, split: str, before_run: str) -> IndexEntry | None:
        """The last accepted result of a split, among those before a run."""
        found = None
        for entry in self.entries:
            if entry.run_id == before_run:
                break
            if entry.accepted and (entry.dataset, entry.split) == (dataset, split):
                found = entry
        return found


def read_index(reports: Folder) -> Index:
    """The index; empty where there is none.

    Raises:
        ReportError: it cannot be read.
        StorageError: the store refused.
    """
    return _read_index(reports)[0]


def add_to_index(reports: Folder, entry: IndexEntry) -> None:
    """Add an entry, or replace the one of the same run.

    Raises:
        StaleWriteError: others keep adding entries.
        ReportError: the index cannot be read.
        StorageError: the store refused.
    """
    for _ in range(_ATTEMPTS):
        index, version = _read_index(reports)
        entries = list(index.entries)
        places = [place for place, one in enumerate(entries) if one.run_id == entry.run_id]
        if places:
            entries[places[0]] = entry
        else:
            entries.append(entry)
        try:
            reports.replace(INDEX_NAME, Index(entries=tuple(entries)).as_bytes(), version)
        except StaleWriteError:
            continue
        return
    raise StaleWriteError(
        f"{join_url(reports.url, INDEX_NAME)} keeps changing: got {_ATTEMPTS} writes by others, "
        "expected a pause. Run again."
    )


def _read_index(reports: Folder) -> tuple[Index, str | None]:
    try:
        data, version = reports.read_versioned(INDEX_NAME)
    except StorageNotFoundError:
        return Index(), None
    try:
        return Index.model_validate_json(data), version
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ReportError(
            f"{join_url(reports.url, INDEX_NAME)} cannot be read: got {where}: {first['msg']}, "
            "expected what `e2i reevaluate` writes. Restore the file, or delete it: the next "
            "result is then compared with the scores at promotion."
        ) from error


def write_record(
    reports: Folder,
    day: str,
    run_id: str,
    make: Callable[[str], Mapping[str, object]],
) -> str:
    """Store a record under the first name of its day that is free, or the run's own; the name.

    The name is taken before anything is written, so that of runs at once none writes into another's
    folder.

    Args:
        reports: where.
        day: such as 2026-11-26.
        run_id: of the run.
        make: writes what lies beside the record of a name, and gives the record.

    Raises:
        StorageError: the store refused.
    """
    claim = json.dumps({"reevaluation": {"run_id": run_id}}).encode()
    for number in range(1, _MOST_A_DAY):
        name = day if number == 1 else f"{day}-{number}"
        held = _run_of(reports, f"{name}.json")
        if held == run_id or (held is None and reports.create(f"{name}.json", claim)):
            record = json.dumps(make(name), indent=2, allow_nan=False) + "\n"
            reports.write(f"{name}.json", record.encode())
            return name
    raise ReportError(
        f"there is no name left for a record: got {_MOST_A_DAY} of {day} in {reports.url}, "
        "expected fewer. Move some of them elsewhere."
    )


def _run_of(reports: Folder, name: str) -> str | None:
    """The run that a record is of: empty for another file, None where there is none."""
    try:
        content = json.loads(reports.read(name))
        return str(content["reevaluation"]["run_id"])
    except StorageNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return ""
