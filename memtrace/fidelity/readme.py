"""
The README's fidelity tables, made from the recordings: ``python -m memtrace.fidelity.readme RECORDINGS README.md``.

The tables stand between two comments in the file; everything else is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import forced_pages, forced_slob, forced_slub, free_running, slab_lists, slub_lists
from .recording import Recording, read_recording
from .table import FORCED, FREE, Row, Table, shown_share
from .validate import validate

BEGIN = "<!-- fidelity: written by `make fidelity` -->"
END = "<!-- end of fidelity -->"


@dataclass(frozen=True, slots=True)
class Subject:
    """A recording that the README shows: its folder, what it is, its kernel profile, where to start."""

    folder: str
    what: str
    kernel: str = "6.1"
    begin: str | None = None


SUBJECTS = (
    Subject("slub_std_512m", "SLUB, 512 MiB, 4 CPUs"),
    Subject("slub_std_numa2_1g", "SLUB, 2 nodes, 1 GiB"),
    Subject("i386_slub_std_1536m", "SLUB, 32-bit, 1.5 GiB"),
    Subject("slub_press_256m", "SLUB, 256 MiB under pressure"),
    Subject("slab_std_512m", "SLAB, 512 MiB"),
    Subject("slob_std_512m", "SLOB, 512 MiB"),
)
"""Instrumented 6.1 kernels, which left exact dumps."""
AS_USED = (
    Subject("debcloud_std_512m", "Debian's 6.1 cloud kernel, 512 MiB"),
    Subject("linux-6.18_find_tar", "6.18, 24 GiB, in mid-life", kernel="6.18"),
)
"""Kernels as people run them: /proc and /sys files only."""

Cell = Callable[[Table], str]


def tables(recordings: Path, told: Callable[[str], None] = lambda _: None) -> list[str]:
    """
    The lines of both tables.

    Parameters
    ----------
    recordings
        Folder of the recordings' folders.
    told
        Called with each recording's name before it is replayed.
    """
    results: dict[Subject, Table] = {}
    for subject in (*SUBJECTS, *AS_USED):
        told(subject.folder)
        results[subject] = validate(_read(recordings, subject), forced=subject in SUBJECTS)
    return [
        "Forced along a recording: each decision judged from the kernel's own state, and put right where it was wrong.",
        "", *_table(FORCED_COLUMNS, {s: results[s] for s in SUBJECTS}), "",
        "Free-running from the same state, never corrected; summed absolute differences over what was recorded:",
        "", *_table(FREE_COLUMNS, {s: results[s] for s in SUBJECTS}), "",
        "Free-running from /proc and /sys files alone, where totals are right almost by themselves:",
        "", *_table(PROC_COLUMNS, {s: results[s] for s in AS_USED}),
    ]  # fmt: skip


def _read(recordings: Path, subject: Subject) -> Recording:
    folder = recordings / subject.folder
    return read_recording(folder / "trace.parquet", folder / "snapshots", kernel=subject.kernel, begin=subject.begin)


def _table(columns: dict[str, Cell], results: dict[Subject, Table]) -> list[str]:
    lines = ["| recording | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for subject, table in results.items():
        lines.append(f"| {subject.what} | " + " | ".join(cell(table) for cell in columns.values()) + " |")
    return lines


def _sum(table: Table, how: str, whats: tuple[str, ...], where: str = "") -> Row | None:
    """All rows of some kinds as one."""
    rows = [row for row in table.rows if row.how == how and row.what in whats and where in ("", row.where)]
    if not rows:
        return None
    return Row(whats[0], how, where, sum(row.compared for row in rows), sum(row.equal for row in rows))


def right(*whats: str) -> Cell:
    """``69,946 of 69,948``, or ``all 1,859``."""

    def cell(table: Table) -> str:
        row = _sum(table, FORCED, whats)
        if row is None or row.compared == 0:
            return "–"
        return f"all {row.compared:,}" if row.wrong == 0 else f"{row.equal:,} of {row.compared:,}"

    return cell


def share(*whats: str) -> Cell:
    """Share of right decisions."""

    def cell(table: Table) -> str:
        row = _sum(table, FORCED, whats)
        return "–" if row is None else shown_share(row)

    return cell


def off(where: str, *whats: str) -> Cell:
    """Summed differences over what was recorded, at one snapshot."""

    def cell(table: Table) -> str:
        row = _sum(table, FREE, whats, where)
        return "–" if row is None or row.compared == 0 else f"{100 * row.wrong / row.compared:.2f} %"

    return cell


def total(where: str, *whats: str) -> Cell:
    """``2,380 → 2,383``: recorded and model."""

    def cell(table: Table) -> str:
        row = next((r for r in table.rows if r.how == FREE and r.what in whats and r.where == where), None)
        if row is None:
            return "–"
        difference = next(iter(table.largest(row, 1)), None)
        model = int(difference.model) if difference is not None else row.compared
        return f"{row.compared:,} / {model:,}"

    return cell


SLAB_LISTS = (
    slub_lists.CPU_SLABS, slub_lists.CPU_FREELISTS, slub_lists.CPU_PARTIALS, slub_lists.NODE_PARTIALS,
    slub_lists.NODE_FREELISTS, slab_lists.CPU_ARRAYS, slab_lists.NODE_ARRAYS, slab_lists.LISTS, forced_slob.GAPS,
)  # fmt: skip
"""Rows that compare contents in order at the later dumps."""

FORCED_COLUMNS: dict[str, Cell] = {
    "page allocations": right(forced_pages.PAGES),
    "refills": right(forced_pages.REFILLS),
    "drains": right(forced_pages.DRAINS),
    "fallbacks": right(forced_pages.FALLBACKS),
    "page lists in order": right(forced_pages.FREE_LISTS, forced_pages.PCP_LISTS),
    "objects": share(forced_slub.OBJECTS, forced_slub.BULK_OBJECTS),
    "slabs given back": right(forced_slub.FREED_SLABS, forced_slob.FREED),
    "lists of slabs and objects": share(*SLAB_LISTS),
}
FREE_COLUMNS: dict[str, Cell] = {
    "slabs at its end, kernel / model": total("end", free_running.TOTAL_SLABS, free_running.SLOB_TOTAL),
    "slabs per cache": off("end", free_running.SLABS, free_running.SLOB_LISTS),
    "fast and slow paths, or misses": off(
        "end", free_running.FAST_SLOW, f"{free_running.SLAB_STATS}: allocmiss", f"{free_running.SLAB_STATS}: freemiss"),
    "free pages by order": off("end", free_running.FREE_PAGES),
    "refills": off("end", free_running.REFILL_COUNT),
    "drains": off("end", free_running.DRAIN_COUNT),
}  # fmt: skip
PROC_COLUMNS: dict[str, Cell] = {
    "slabs at its end, kernel / model": total("end", free_running.TOTAL_SLABS),
    "change of slabs per cache": off("end", free_running.CHANGE),
    "free pages by order": off("end", free_running.FREE_PAGES),
}


def rewritten(text: str, lines: list[str]) -> str:
    """The README with other tables between the comments."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f'README without "{BEGIN}" and "{END}"; expected both, in this order.')
    return "\n".join([before + BEGIN, "", *lines, "", END]) + after


def main() -> None:
    """Rewrite the tables of a README."""
    recordings, readme = Path(sys.argv[1]), Path(sys.argv[2])
    lines = tables(recordings, lambda name: print(name, file=sys.stderr))
    readme.write_text(rewritten(readme.read_text(encoding="utf-8"), lines), encoding="utf-8")


if __name__ == "__main__":
    main()
