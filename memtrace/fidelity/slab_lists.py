"""A model's SLAB arrays and lists beside those of an exact dump."""

from __future__ import annotations

from collections import Counter

from memtrace.mm.constants import SLABS_FREE, SLABS_PARTIAL
from memtrace.mm.restore_slab import direct_map_base
from memtrace.mm.slab import Slab
from memtrace.mm.slab_slabs import ArrayCache, SlabCache
from memtrace.snapshot.exact_dump import ArrayCache as DumpedArray
from memtrace.snapshot.exact_dump import ExactDump
from memtrace.snapshot.exact_dump import SlabCache as DumpedCache

from .table import FORCED, Table

CPU_ARRAYS = "SLAB: CPU arrays identical in order"
NODE_ARRAYS = "SLAB: shared and alien arrays identical in order"
LISTS = "SLAB: partial and free lists identical in order"
NODES = "SLAB: limits and colours of nodes"
SLABS = "SLAB: slabs by cache"


class _Comparison:
    """Decisions of one dump by kind."""

    def __init__(self, table: Table, where: str) -> None:
        self.table = table
        self.where = where
        self.compared: Counter[str] = Counter()
        self.equal: Counter[str] = Counter()

    def note(self, what: str, item: str, recorded: object, model: object) -> None:
        self.compared[what] += 1
        if recorded == model:
            self.equal[what] += 1
        else:
            self.table.differ(what, FORCED, self.where, item, _length(recorded), _length(model))


def _length(value: object) -> str:
    return f"{len(value)} long" if isinstance(value, list) else str(value)


def compare_lists(slab: Slab, dump: ExactDump, table: Table) -> None:
    """Add a row for each kind of list of a dump, with the differences."""
    base = direct_map_base(dump)
    found = _Comparison(table, dump.name)
    real, ours = {}, {}
    for known in dump.slab:
        index = slab.find_cache(known.name)
        if index < 0:
            continue
        s = slab.caches[index]
        _compare_cache(slab, s, known, base, found)
        real[known.name] = sum(node.total_slabs for node in known.nodes.values())
        ours[known.name] = sum(node.total_slabs for node in s.nodes)
    for what in (CPU_ARRAYS, NODE_ARRAYS, LISTS, NODES):
        table.decisions(what, FORCED, dump.name, found.compared[what], found.equal[what])
    table.quantities(SLABS, FORCED, dump.name, real, ours)


def _compare_cache(slab: Slab, s: SlabCache, known: DumpedCache, base: int, found: _Comparison) -> None:
    for cpu, array in known.cpu_caches.items():
        if cpu < slab.nr_cpus:
            found.note(CPU_ARRAYS, f"{known.name} CPU {cpu}", _recorded(array, base), _held(s.cpu_cache[cpu]))
    for at, node in known.nodes.items():
        n = s.nodes[at]
        if node.shared is not None:
            found.note(NODE_ARRAYS, f"{known.name} shared N{at}", _recorded(node.shared, base), _held(n.shared))
        for other, array in node.alien.items():
            found.note(NODE_ARRAYS, f"{known.name} alien N{at}:{other}", _recorded(array, base), _held(n.alien[other]))
        for which, pages in ((SLABS_PARTIAL, node.partial), (SLABS_FREE, node.free)):
            if pages or slab.slabs_on(s.index, at, which):
                found.note(LISTS, f"{known.name} list {which} N{at}", [page.pfn for page in pages],
                           slab.slabs_on(s.index, at, which))
        found.note(NODES, f"{known.name} N{at}", (node.free_limit, node.colour_next), (n.free_limit, n.colour_next))


def _recorded(array: DumpedArray, base: int) -> list[int]:
    return [entry - base for entry in array.entries]


def _held(ac: ArrayCache) -> list[int]:
    return list(ac.entry)[: ac.avail]
