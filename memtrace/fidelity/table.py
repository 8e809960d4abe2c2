"""
The fidelity table: what was compared with the recorded kernel, how much, and how much of it was equal.

A row that counts decisions (a page, an object, a refill) says of how many the model's was the recorded one. A row
that compares quantities (slabs, free blocks, counters) has the recorded quantity as ``compared``, and as ``equal``
what is left of it after the summed absolute differences.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORCED = "forced"
FREE = "free-running"

DECISIONS = "decisions"
QUANTITIES = "quantities"

SHOWN = 6
"""Differences that a text table names, of each row that has some."""


@dataclass(frozen=True, slots=True)
class Row:
    """
    One line of the table.

    Attributes
    ----------
    what
        "page allocations at the recorded pfn"
    how
        ``FORCED`` or ``FREE``.
    where
        The snapshot, the zone, or "whole trace".
    kind
        ``DECISIONS`` or ``QUANTITIES``; see the module.
    compared, equal
        In the unit that ``what`` names. ``equal`` is negative when the differences exceed the quantity.
    """

    what: str
    how: str
    where: str
    compared: int
    equal: int
    kind: str = DECISIONS
    note: str = ""

    @property
    def wrong(self) -> int:
        """What is not equal."""
        return self.compared - self.equal

    @property
    def share(self) -> float:
        """Equal over compared, 1 where there was nothing to compare."""
        return self.equal / self.compared if self.compared else 1.0


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the model and the record part: a cache, a zone, a list; ``row`` of the trace, -1 for a whole snapshot."""

    what: str
    how: str
    where: str
    item: str
    recorded: str
    model: str
    size: int
    row: int = -1


@dataclass(slots=True)
class Table:
    """
    The table as it grows, the differences behind it, repairs by kind, and sentences about what was not compared.

    Examples
    --------
    >>> table = Table()
    >>> table.decisions("pages", FORCED, "end", compared=4, equal=3)
    >>> table.rows[0].share
    0.75
    """

    rows: list[Row] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    repairs: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def decisions(self, what: str, how: str, where: str, compared: int, equal: int, note: str = "") -> None:
        """Add a row that counts decisions."""
        self.rows.append(Row(what, how, where, compared, equal, DECISIONS, note))

    def quantities(
        self, what: str, how: str, where: str, recorded: dict[str, int], model: dict[str, int], note: str = ""
    ) -> None:
        """
        Add a row that compares quantities by name, and a difference for each name that is not equal.

        A name that is missing on one side counts as 0 there.
        """
        wrong = 0
        for item in sorted(recorded.keys() | model.keys()):
            real, ours = recorded.get(item, 0), model.get(item, 0)
            wrong += abs(ours - real)
            if ours != real:
                self.differ(what, how, where, item, real, ours, abs(ours - real))
        total = sum(abs(n) for n in recorded.values())
        self.rows.append(Row(what, how, where, total, total - wrong, QUANTITIES, note))

    def differ(
        self, what: str, how: str, where: str, item: str, recorded: object, model: object, size: int = 1, row: int = -1
    ) -> None:
        """Add a difference."""
        self.differences.append(Difference(what, how, where, item, str(recorded), str(model), size, row))

    def repair(self, kind: str, n: int = 1) -> None:
        """Count a repair: the record showed the right object or page where the model had put another first."""
        self.repairs[kind] = self.repairs.get(kind, 0) + n

    def largest(self, row: Row, n: int) -> list[Difference]:
        """The differences behind a row that are largest; of equal ones the first."""
        own = [d for d in self.differences if (d.what, d.how, d.where) == (row.what, row.how, row.where)]
        return sorted(own, key=lambda d: -d.size)[:n]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "rows": [{**asdict(row), "wrong": row.wrong, "share": row.share} for row in self.rows],
            "repairs": dict(sorted(self.repairs.items())),
            "differences": [
                asdict(d) for row in dict.fromkeys(self.rows) for d in self.largest(row, SHOWN)
            ],
            "notes": self.notes,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write fidelity.json, fidelity.parquet (rows) and differences.parquet into a folder that exists."""
        text = json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"
        (folder / "fidelity.json").write_text(text, encoding="utf-8")
        rows = [{**asdict(row), "wrong": row.wrong, "share": row.share} for row in self.rows]
        for name, records, schema in (
            ("fidelity", rows, _ROWS), ("differences", [asdict(d) for d in self.differences], _DIFFERENCES),
        ):  # fmt: skip
            table = pa.Table.from_pylist(records, schema=schema)
            pq.write_table(table, folder / f"{name}.parquet", compression="zstd")

    def text(self) -> list[str]:
        """The table for a terminal, the largest differences below each row that has some."""
        lines = []
        width = max([len(row.what) for row in self.rows], default=4)
        places = max([len(row.where) for row in self.rows], default=5)
        for how in (FORCED, FREE):
            rows = [row for row in self.rows if row.how == how]
            if not rows:
                continue
            head = f"{how + ':':<{width + 2}}  {'where':<{places}}  {'compared':>12}  {'wrong':>9}  {'equal':>10}"
            lines += ["", head]
            lines += [self._line(row, width, places) for row in rows]
        if self.repairs:
            lines += ["", "Repairs (the recorded page or object was put first)"]
            lines += [f"  {n:>9,}  {kind}" for kind, n in sorted(self.repairs.items())]
        lines += self._differences()
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return lines[1:] if lines else lines

    def _line(self, row: Row, width: int, places: int) -> str:
        line = (f"  {row.what:<{width}}  {row.where:<{places}}  {row.compared:>12,}  {row.wrong:>9,}  "
                f"{shown_share(row):>10}")  # fmt: skip
        return f"{line}  {row.note}" if row.note else line

    def _differences(self) -> list[str]:
        lines = []
        for row in dict.fromkeys(self.rows):
            largest = self.largest(row, SHOWN)
            if largest:
                lines += ["", f"Largest differences: {row.what}, {row.how}, {row.where} (recorded, model)"]
                lines += [f"  {d.item:<28}  {d.recorded:>14}  {d.model:>14}"
                          + (f"  at row {d.row:,}" if d.row >= 0 else "") for d in largest]  # fmt: skip
        return lines


def shown_share(row: Row) -> str:
    """Percentage with as many digits as its distance from 100 % needs; never rounded up to 100 %."""
    if row.compared == 0:
        return "–"
    if row.wrong == 0:
        return "100 %"
    if row.share < 0:
        return "< 0 %"  # the model is further off than zero would be
    digits = 1
    while round(100 * row.share, digits) >= 100:
        digits += 1
    return f"{100 * row.share:.{digits}f} %"


_TEXTS = pa.string()
_ROWS = pa.schema([
    ("what", _TEXTS), ("how", _TEXTS), ("where", _TEXTS), ("compared", pa.int64()), ("equal", pa.int64()),
    ("kind", _TEXTS), ("note", _TEXTS), ("wrong", pa.int64()), ("share", pa.float64()),
])  # fmt: skip
_DIFFERENCES = pa.schema([
    ("what", _TEXTS), ("how", _TEXTS), ("where", _TEXTS), ("item", _TEXTS), ("recorded", _TEXTS), ("model", _TEXTS),
    ("size", pa.int64()), ("row", pa.int64()),
])  # fmt: skip
