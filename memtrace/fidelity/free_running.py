"""
An ordinary replay beside the recording: what it counts is compared at every snapshot.

Nothing is corrected on the way, so single pages and objects part early and for good; counts, list lengths and
statistics are what a free-running model can be judged by (EXACT). Files of /proc are read one after another while the
trace goes on, so each is compared at its own ``SNAP_FILE`` marker, or where there is none at the snapshot's
``SNAP_BEGIN``; an exact dump at its ``GT_SNAP``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memtrace.machines import machine_from_exact, machine_from_proc
from memtrace.mm.constants import PCP_AUTO
from memtrace.run import replay
from memtrace.snapshot.percpu import read_percpu_stats
from memtrace.snapshot.proc import read_proc

from .positions import Burst, Drain
from .table import FREE, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from memtrace.config import MachineConfig
    from memtrace.run import Run
    from memtrace.snapshot.exact_dump import ExactDump
    from memtrace.snapshot.proc import ProcSnapshot

    from .recording import Recording, Snapshot

TOTAL_SLABS = "slabs, all caches together"
SLABS = "slabs per cache"
CHANGE = "change of slabs per cache since the start"
FAST_SLOW = "SLUB fast and slow counts per cache and CPU"
SLUB_STATS = "SLUB statistics, all counters"
SLAB_STATS = "SLAB statistics"
SLAB_PAGES = "change of SLOB's pages since the start, large objects too"
SLOB_LISTS = "SLOB pages with room, by list"
SLOB_TOTAL = "SLOB pages with room, all lists together"
PERCPU = "change of percpu areas, chunks and empty pages since the start"
FREE_PAGES = "free pages by zone and order"
FREE_TYPES = "free pages by zone, order and type"
PCP_PAGES = "pages on per-CPU lists, by zone and CPU"
REFILL_COUNT = "refills of per-CPU page lists"
DRAIN_COUNT = "drains of per-CPU page lists"
GIVEN_BACK = "pages given back from per-CPU lists without a free"

UNKNOWN_LIMITS = ("Drains depend on the limit of each CPU's lists, which the kernel's statistics worker lowers once a "
                  "second; when in that second, neither trace nor snapshot tells (docs/deviations.md).")  # fmt: skip
OBJECTS = "objects at the recorded address (chaotic once one has parted)"
PAGES = "requested pages at the recorded pfn (chaotic once one has parted)"

BULK_ONLY = "maple_node"
"""The cache whose bulk calls no tracepoint shows, so that its counters are compared apart (EXACT C 3)."""
PERCPU_FILE = "/sys/kernel/debug/percpu_stats"
_PERCPU = {"nr_cur_alloc": "areas", "nr_chunks": "chunks", "empty_pop_pages": "empty_pages"}
"""Name in percpu_stats -> the run's column."""
_FAST_SLOW = ("alloc_fastpath", "alloc_slowpath", "free_fastpath", "free_slowpath")
_SLAB_STATS = {"allochit": "alloc_fastpath", "allocmiss": "allocmiss", "freehit": "free_fastpath",
               "freemiss": "freemiss", "grown": "alloc_slab"}
"""SLAB's own counter -> the run's column."""


def run_free(recording: Recording, table: Table, out: Path, progress: Callable[[str, int, int], None]) -> Run:
    """
    Replay a recording from its start and compare at every later snapshot.

    Parameters
    ----------
    out
        Run folder to write.
    """
    start = recording.start
    run = replay(
        recording.trace, allocator=recording.allocator, kernel=recording.kernel.name,
        settings=recording.settings, start=start.folder if start is not None else None, out=out, report=False,
        progress=progress,
    )  # fmt: skip
    comparison = _Comparison(recording, table, run)
    for snapshot in recording.later:
        comparison.compare(snapshot)
    comparison.count_page_events()
    comparison.addresses()
    if start is None:
        table.notes.append("No snapshot was given: only what the trace itself shows could be compared.")
    return run


class _Comparison:
    """A finished run and what it is held against."""

    def __init__(self, recording: Recording, table: Table, run: Run) -> None:
        self.recording = recording
        self.table = table
        self.run = run
        self.markers = run.table("markers")
        self.first_dump = recording.start.dump if recording.start is not None else None
        start = recording.start
        self.first_proc = read_proc(start.folder) if start is not None and start.dump is None else None

    # -- when --------------------------------------------------------------------------------------------------------

    def marker_ns(self, text: str, from_row: int = 0) -> int:
        """Simulated time of the first marker of this text from a row on, or of the end of the run."""
        found = self.markers[(self.markers.text.str.strip() == text) & (self.markers.row >= from_row)]
        if len(found):
            return int(found.t_ns.iloc[0])
        return int(self.run.table("zones").t_ns.max())

    def file_ns(self, snapshot: Snapshot, file: str) -> int:
        """When a snapshot's file was read: at its own marker, else when the snapshot was begun, else at the end."""
        if snapshot.row < 0:
            return self.marker_ns("")
        read = self.markers[(self.markers.text.str.strip() == f"SNAP_FILE {file}") & (self.markers.row >= snapshot.row)]
        begun = self.markers[self.markers.row == snapshot.row]
        return int((read if len(read) else begun).t_ns.iloc[0])

    def at(self, name: str, t_ns: int) -> pd.DataFrame:
        """A table's rows of one sample."""
        frame = self.run.table(name)
        return frame[frame.t_ns == t_ns]

    # -- what --------------------------------------------------------------------------------------------------------

    def compare(self, snapshot: Snapshot) -> None:
        """All that this snapshot tells."""
        if snapshot.dump is not None:
            self._dump(snapshot, snapshot.dump)
        if snapshot.proc:
            self._proc(snapshot, read_proc(snapshot.folder))

    def _dump(self, snapshot: Snapshot, dump: ExactDump) -> None:
        t_ns, where = self.marker_ns(dump.marker), snapshot.name
        slabs = slabs_of(dump)
        if slabs:
            self._slabs(where, slabs, t_ns)
        self._slob_lists(where, dump, t_ns)
        self._slub_statistics(where, dump, t_ns)
        self._slab_statistics(where, dump, t_ns)
        blocks: dict[tuple[str, int, int], int] = {}
        for zone in dump.zones:
            for (order, mt), pfns in zone.free_lists.items():
                blocks[f"node {zone.node} {zone.name}", order, mt] = len(pfns)
        self._free_pages(where, blocks, t_ns, types=True)
        pcp = {f"node {zone.node} {zone.name} CPU {p.cpu}": p.count for zone in dump.zones for p in zone.pcp}
        self._pcp(where, pcp, t_ns)

    def _proc(self, snapshot: Snapshot, proc: ProcSnapshot) -> None:
        where = snapshot.name
        if self.recording.allocator == "slob":
            self._slab_pages(snapshot, proc)
        self._percpu(snapshot)
        if snapshot.dump is not None:
            return
        if proc.caches:
            t_ns = self.file_ns(snapshot, "/proc/slabinfo")
            self._slabs(where, {cache.name: cache.num_slabs for cache in proc.caches}, t_ns)
        t_ns = self.file_ns(snapshot, "/proc/buddyinfo")
        blocks = {(f"node {zone.node} {zone.name}", order, 0): sum(counts)
                  for zone in proc.zones for order, counts in enumerate(zone.nr_free)}  # fmt: skip
        self._free_pages(where, blocks, t_ns, types=False)
        t_ns = self.file_ns(snapshot, "/proc/zoneinfo")
        pcp = {f"node {zone.node} {zone.name} CPU {p.cpu}": p.count for zone in proc.zones for p in zone.pcp}
        self._pcp(where, pcp, t_ns)

    def _slab_pages(self, snapshot: Snapshot, proc: ProcSnapshot) -> None:
        """SLOB: pages of small objects and of large ones. No file and no dump lists all that the start had."""
        start = self.recording.start
        if start is None or not start.proc or not proc.vmstat:
            return
        real, ours = [], []
        for taken, state in ((start, read_proc(start.folder)), (snapshot, proc)):
            real.append(sum(n for name, n in state.vmstat.items() if name.startswith("nr_slab_")))
            ours.append(int(self.at("zones", self.file_ns(taken, "/proc/vmstat")).slab_pages.sum()))
        note = f"of {real[1]:,}"
        self.table.quantities(SLAB_PAGES, FREE, snapshot.name, {"all": real[1] - real[0]}, {"all": ours[1] - ours[0]},
                              note)  # fmt: skip

    def _slob_lists(self, where: str, dump: ExactDump, t_ns: int) -> None:
        if not dump.slob_lists:
            return
        real = {f"slob {name}": len(pages) for name, pages in dump.slob_lists.items()}
        frame = self.at("caches", t_ns)
        ours = {str(name): int(n) for name, n in zip(frame.cache, frame.nr_partial, strict=True) if str(name) in real}
        self.table.quantities(SLOB_LISTS, FREE, where, real, ours)
        self.table.quantities(SLOB_TOTAL, FREE, where, {"all": sum(real.values())}, {"all": sum(ours.values())})

    def _percpu(self, snapshot: Snapshot) -> None:
        """Changes: what was allocated before the start shows in no trace."""
        start = self.recording.start
        if start is None or start.row < 0 or snapshot.row < 0:
            return
        states = [read_percpu_stats(taken.folder / "percpu_stats") for taken in (start, snapshot)]
        if not all(states):
            return
        frames = [self.at("percpu", self.file_ns(taken, PERCPU_FILE)) for taken in (start, snapshot)]
        real, ours = {}, {}
        for name, column in _PERCPU.items():
            real[column] = states[1][name] - states[0][name]
            ours[column] = int(frames[1][column].sum()) - int(frames[0][column].sum())
        self.table.quantities(PERCPU, FREE, snapshot.name, real, ours)

    def _slabs(self, where: str, real: dict[str, int], t_ns: int) -> None:
        ours = self._model_slabs(t_ns)
        self.table.quantities(TOTAL_SLABS, FREE, where, {"all": sum(real.values())}, {"all": sum(ours.values())})
        self.table.quantities(SLABS, FREE, where, real, ours)
        before = self._slabs_before()
        if before:
            first = self._model_slabs(int(self.run.table("caches").t_ns.min()))
            changed = {name: n - before.get(name, 0) for name, n in real.items()}
            model = {name: n - first.get(name, 0) for name, n in ours.items()}
            self.table.quantities(CHANGE, FREE, where, changed, model)

    def _model_slabs(self, t_ns: int) -> dict[str, int]:
        frame = self.at("caches", t_ns)
        return {str(name): int(n) for name, n in zip(frame.cache, frame.num_slabs, strict=True) if n}

    def _slabs_before(self) -> dict[str, int]:
        if self.first_dump is not None:
            return slabs_of(self.first_dump)
        if self.first_proc is not None:
            return {cache.name: cache.num_slabs for cache in self.first_proc.caches}
        return {}

    def _slub_statistics(self, where: str, dump: ExactDump, t_ns: int) -> None:
        if not dump.slub or self.first_dump is None:
            return
        before = {cache.name: cache.stats for cache in self.first_dump.slub}
        frame = self.at("cpu_caches", t_ns)
        columns = [name for name in frame.columns if name not in ("t_ns", "cpu", "cache")]
        ours: dict[tuple[str, int, str], int] = {}
        for record in frame.to_dict("records"):
            for column in columns:
                if record[column]:
                    ours[str(record["cache"]), int(record["cpu"]), column] = int(record[column])
        real: dict[tuple[str, int, str], int] = {}
        for cache in dump.slub:
            known = before.get(cache.name, {})
            for counter, values in cache.stats.items():
                old = known.get(counter, (0,) * len(values))
                for cpu, (value, first) in enumerate(zip(values, old, strict=True)):
                    if value != first:
                        real[cache.name, cpu, counter.lower()] = value - first
        for what, keep in (
            (FAST_SLOW, lambda key: key[2] in _FAST_SLOW and key[0] != BULK_ONLY),
            (f"{FAST_SLOW}: {BULK_ONLY}", lambda key: key[2] in _FAST_SLOW and key[0] == BULK_ONLY),
            (SLUB_STATS, lambda key: key[2] not in _FAST_SLOW),
        ):  # fmt: skip
            self.table.quantities(what, FREE, where, _named(real, keep), _named(ours, keep))

    def _slab_statistics(self, where: str, dump: ExactDump, t_ns: int) -> None:
        if not dump.slab or self.first_dump is None:
            return
        before = {cache.name: cache.stats for cache in self.first_dump.slab}
        frame = self.at("cpu_caches", t_ns)
        for counter, column in _SLAB_STATS.items():
            real = {
                cache.name: cache.stats.get(counter, 0) - before.get(cache.name, {}).get(counter, 0)
                for cache in dump.slab
            }
            counts = frame.groupby("cache", observed=True)[column].sum()
            ours = {str(name): int(n) for name, n in counts.items() if n}
            self.table.quantities(f"{SLAB_STATS}: {counter}", FREE, where, real, ours)
            total = {"all": sum(real.values())}
            self.table.quantities(f"{SLAB_STATS}: {counter}, total", FREE, where, total, {"all": sum(ours.values())})

    def _free_pages(self, where: str, blocks: dict[tuple[str, int, int], int], t_ns: int, types: bool) -> None:
        """``blocks``: free blocks by (zone, order, type)."""
        frame = self.at("buddy", t_ns)
        type_of = {"Unmovable": 0, "Movable": 1, "Reclaimable": 2, "HighAtomic": 3, "Isolate": 4}
        ours: dict[tuple[str, int, int], int] = {}
        for node, zone, order, mt, n in zip(frame.node, frame.zone, frame.order, frame.migratetype, frame.nr_free,
                                            strict=True):  # fmt: skip
            ours[f"node {node} {zone}", int(order), type_of[str(mt)]] = int(n)
        self.table.quantities(FREE_PAGES, FREE, where, _pages(blocks, False), _pages(ours, False))
        if types:
            self.table.quantities(FREE_TYPES, FREE, where, _pages(blocks, True), _pages(ours, True))

    def _pcp(self, where: str, real: dict[str, int], t_ns: int) -> None:
        frame = self.at("pcp", t_ns)
        ours = {f"node {node} {zone} CPU {cpu}": int(n) for node, zone, cpu, n in
                zip(frame.node, frame.zone, frame.cpu, frame["count"], strict=True)}  # fmt: skip
        self.table.quantities(PCP_PAGES, FREE, where, real, ours)

    # -- what the trace itself shows ---------------------------------------------------------------------------------

    def count_page_events(self) -> None:
        """
        Refills, drains and pages given back by zone, recorded as bursts and drain rows: at each snapshot and the end.

        A drain is one that a free caused. What the statistics worker and drain_all give back is compared in pages:
        their rows do not show where the kernel let go of the lock between.
        """
        from .forced_pages import PageView

        view = PageView(self._machine(), self.recording.kernel)
        positions = view.read(self.recording)
        bursts = [(a.row, view.zone_name(a.pfns[0]), 1) for a in positions.actions
                  if isinstance(a, Burst) and view.has_lists(a.order, a.mt)]  # fmt: skip
        drains: list[tuple[int, str, int]] = []
        idle: list[tuple[int, str, int]] = []
        for a in positions.actions:
            if isinstance(a, Drain):
                if a.free is None:
                    idle.append((a.row, view.zone_name(a.pfns[0]), sum(1 << order for order in a.orders)))
                else:
                    drains.append((a.row, view.zone_name(a.pfns[0]), 1))
        if not bursts and not drains:
            self.table.notes.append("The trace has no mm_page_alloc_zone_locked and mm_page_pcpu_drain rows: refills "
                                    "and drains were not compared.")  # fmt: skip
            return
        if self.first_dump is None and view.pages.pcp_form == PCP_AUTO:
            self.table.notes.append(UNKNOWN_LIMITS)
        places = [(s.name, s.row, self.marker_ns(s.dump.marker)) for s in self.recording.later
                  if s.row >= 0 and s.dump is not None]  # fmt: skip
        if not places:
            places = [("the end", 1 << 62, int(self.run.table("pcp").t_ns.max()))]
        for where, row, t_ns in places:
            frame = self.at("pcp", t_ns)
            for what, column, events in ((REFILL_COUNT, "refills", bursts), (DRAIN_COUNT, "drains", drains),
                                         (GIVEN_BACK, "given_back", idle)):  # fmt: skip
                real: dict[str, int] = {}
                for at, zone, n in events:
                    if at < row:
                        real[zone] = real.get(zone, 0) + n
                ours: dict[str, int] = {}
                for node, name, n in zip(frame.node, frame.zone, frame[column], strict=True):
                    ours[f"node {node} {name}"] = ours.get(f"node {node} {name}", 0) + int(n)
                self.table.quantities(what, FREE, where, real, {name: n for name, n in ours.items() if n})

    def addresses(self) -> None:
        """Objects and pages at their recorded place: with an exact start only, as no other has places."""
        if self.first_dump is None:
            return
        manifest = self.run.manifest
        for what, compared, equal, parted in (
            (OBJECTS, "object_compared", "object_at_recorded_address", "object_parted_row"),
            (PAGES, "page_compared", "page_at_recorded_pfn", "page_parted_row"),
        ):
            row = manifest["trace"][parted]
            note = f"parts at row {row:,}" if row >= 0 else "never parts"
            counts = manifest["counts"]
            self.table.decisions(what, FREE, "whole trace", counts.get(compared, 0), counts.get(equal, 0), note)

    def _machine(self) -> MachineConfig:
        if self.first_dump is not None:
            return machine_from_exact(self.first_dump)
        if self.first_proc is not None:
            return machine_from_proc(self.first_proc)
        return _machine_of(self.run.manifest["config"]["machine"])


def slabs_of(dump: ExactDump) -> dict[str, int]:
    """Slabs by cache; empty for SLOB, whose pages belong to no cache."""
    found = {cache.name: sum(node.nr_slabs for node in cache.nodes.values()) for cache in dump.slub}
    found.update({cache.name: sum(node.total_slabs for node in cache.nodes.values()) for cache in dump.slab})
    return found


def _named(counts: dict[tuple[str, int, str], int], keep: Callable[[tuple[str, int, str]], bool]) -> dict[str, int]:
    return {f"{cache} CPU {cpu} {counter}": n for (cache, cpu, counter), n in counts.items()
            if keep((cache, cpu, counter))}  # fmt: skip


def _pages(blocks: dict[tuple[str, int, int], int], types: bool) -> dict[str, int]:
    """Pages in free blocks, by zone and order, and by type."""
    found: dict[str, int] = {}
    for (zone, order, mt), n in blocks.items():
        name = f"{zone} order {order} type {mt}" if types else f"{zone} order {order}"
        found[name] = found.get(name, 0) + (n << order)
    return found


def _machine_of(config: dict[str, Any]) -> MachineConfig:
    from memtrace.config import MachineConfig, ZoneConfig

    return MachineConfig(**{**config, "zones": tuple(ZoneConfig(**zone) for zone in config["zones"])})
