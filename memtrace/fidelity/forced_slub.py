"""
A recorded SLUB kernel, request by request: does the model choose the same object, slab and moment? (EXACT C)

The model starts from an exact dump and gets the recorded pages; requests come in the kernel's order, as far as the
trace tells it. Every choice is `mm.slub.Slub`'s.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from memtrace.machines import machine_from_exact
from memtrace.run import REPLAYED
from memtrace.start import Start, lay_out_start

from .slub_driver import BURST_ROWS, ForcedSlub, SlubDriver
from .slub_lists import COUNTERS, DumpComparison
from .slub_script import write_script
from .table import FORCED, Table

if TYPE_CHECKING:
    from memtrace.mm.machine import Machine
    from memtrace.snapshot.exact_dump import ExactDump
    from memtrace.trace.source import TraceReader

    from .recording import Recording

OBJECTS = "objects at the recorded address"
BULK_OBJECTS = "bulk objects at the recorded address"
NEW_SLABS = "new slabs taken when the kernel took one"
FREED_SLABS = "slabs given back by the recorded operation"
COUNTER_SUMS = "SLUB counters, summed differences"
WHOLE = "whole trace"


def force_slub(recording: Recording, table: Table) -> None:
    """
    Force SLUB from the start dump to the end of the trace, and compare at every later dump.

    Needs exact dumps of a SLUB kernel; without one it adds a note to the table instead of rows.
    """
    start = recording.start
    if start is None or start.dump is None or start.dump.allocator != "slub":
        table.notes.append("SLUB's objects were not forced: that needs an exact dump of a SLUB kernel to start from.")
        return
    with recording.open(REPLAYED) as reader:
        machine, found = replay_forced(reader, recording, start.dump)
    _objects(table, machine, found)
    for comparison in found.dumps:
        _dump(table, comparison)
    for kind, n in found.repairs.items():
        table.repair(f"SLUB: {kind}", n)
    for kind, n in found.order.items():
        table.repair(f"SLUB, order only: {kind}", n)


def replay_forced(reader: TraceReader, recording: Recording, dump: ExactDump) -> tuple[Machine, ForcedSlub]:
    """The machine after a forced replay, and what was found."""
    script = write_script(reader, recording.first_row)
    start = Start(row=recording.first_row, machine=machine_from_exact(dump), dump=dump)
    machine, cache_map, _ = lay_out_start(start, script.census, recording.kernel, 0, "slub")
    census = script.census
    for addr, cache in zip(census.start_addr.tolist(), census.start_cache.tolist(), strict=True):
        machine.adopt_object(addr, int(cache_map[cache]) if cache >= 0 else -1)
    machine.reset_statistics()
    dumps = {
        reader.vocab.text.code(later.dump.marker): later.dump for later in recording.later if later.dump is not None
    }
    return machine, SlubDriver(machine, script, cache_map, dumps, dump).run()


def _objects(table: Table, machine: Machine, found: ForcedSlub) -> None:
    names = machine.cache_names
    bursts = f"{found.bursts} bursts of errors, each cache's within {BURST_ROWS:,} rows"
    first = {cache: row for row, cache in reversed(found.wrong)}
    for what, compared, right, note in (
        (OBJECTS, found.objects, found.objects_right, bursts),
        (BULK_OBJECTS, found.bulk, found.bulk_right, ""),
        (NEW_SLABS, found.new_slabs, found.new_slabs_right, ""),
    ):
        table.decisions(what, FORCED, WHOLE, sum(compared.values()), sum(right.values()), note)
        for cache, n in (Counter(compared) - Counter(right)).items():
            table.differ(what, FORCED, WHOLE, names[cache], compared[cache], right[cache], n, first.get(cache, -1))
    table.decisions(FREED_SLABS, FORCED, WHOLE, found.freed, found.freed_right)


def _dump(table: Table, comparison: DumpComparison) -> None:
    where = comparison.name
    for kind, n in comparison.compared.items():
        table.decisions(kind, FORCED, where, n, comparison.equal[kind])
    for kind, cache, place, real, model in comparison.differing:
        if kind != COUNTERS:
            table.differ(kind, FORCED, where, f"{cache} {place}", real, model)
    table.quantities(COUNTER_SUMS, FORCED, where, comparison.counted, comparison.counted_by_model)
