"""A model's SLUB lists and counters beside those of an exact dump."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from memtrace.mm.slub import Slub
from memtrace.mm.slub_slabs import SlubCache
from memtrace.mm.stats import NR_SLUB_STATS, SLUB_STATS
from memtrace.snapshot.exact_dump import ExactDump
from memtrace.snapshot.exact_dump import SlubCache as DumpedCache

CPU_SLABS = "SLUB: cpu slabs"
CPU_FREELISTS = "SLUB: CPU freelists, in order"
CPU_PARTIALS = "SLUB: CPU partial lists, in order"
NODE_PARTIALS = "SLUB: node partial lists, in order"
NODE_FREELISTS = "SLUB: freelists of slabs on node partial lists, in order"
SLABS = "SLUB: slabs by cache and node"
COUNTERS = "SLUB counters, by cache and CPU"


@dataclass(slots=True)
class DumpComparison:
    """
    What was found at one dump.

    Attributes
    ----------
    compared, equal
        By kind (``CPU_SLABS`` ...).
    differing
        (kind, cache, CPU or node, recorded, model) of each difference.
    counted, counted_by_model
        By cache, CPU and counter: counted since the start.
    """

    name: str
    compared: Counter[str] = field(default_factory=Counter)
    equal: Counter[str] = field(default_factory=Counter)
    differing: list[tuple[str, str, int, object, object]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    counted_by_model: dict[str, int] = field(default_factory=dict)

    def note(self, kind: str, cache: str, where: int, real: object, model: object) -> None:
        self.compared[kind] += 1
        if real == model:
            self.equal[kind] += 1
        else:
            self.differing.append((kind, cache, where, real, model))


def chain(slub: Slub, slab: int, idx: int) -> list[int]:
    """Object indexes of a freelist, first to last."""
    seg = slub.sl_seg[slab]
    found = []
    while idx >= 0:
        found.append(idx)
        idx = slub.obj_next[seg + idx]
    return found


def slabs_from(slub: Slub, slab: int) -> list[int]:
    """Rows of the slabs linked from one on."""
    found = []
    while slab >= 0:
        found.append(slab)
        slab = slub.sl_next[slab]
    return found


def compare_dump(slub: Slub, dump: ExactDump, start: ExactDump) -> DumpComparison:
    """
    Compare every list, and what was counted since ``start``.

    Lists that are empty on both sides are not counted.
    """
    out = DumpComparison(dump.name)
    before = {cache.name: cache.stats for cache in start.slub}
    for known in dump.slub:
        index = slub.find_cache(known.name)
        if index < 0:
            continue
        s = slub.caches[index]
        _compare_cpus(out, slub, s, known)
        _compare_nodes(out, slub, s, known)
        _compare_counters(out, slub, s, known, before.get(known.name, {}))
    return out


def _compare_cpus(out: DumpComparison, slub: Slub, s: SlubCache, known: DumpedCache) -> None:
    for cpu in range(slub.nr_cpus):
        real = known.cpu_slabs.get(cpu)
        row = s.c_slab[cpu]
        if real is not None or row >= 0:
            out.note(CPU_SLABS, known.name, cpu, real.slab.pfn if real else -1, slub.sl_pfn[row] if row >= 0 else -1)
            out.note(CPU_FREELISTS, known.name, cpu, real.cpu_freelist if real else [],
                     chain(slub, row, s.c_freelist[cpu]) if row >= 0 else [])
        pfns = [slab.pfn for slab in known.cpu_partials.get(cpu, [])]
        rows = slabs_from(slub, s.c_partial[cpu])
        if pfns or rows:
            out.note(CPU_PARTIALS, known.name, cpu, pfns, [slub.sl_pfn[at] for at in rows])


def _compare_nodes(out: DumpComparison, slub: Slub, s: SlubCache, known: DumpedCache) -> None:
    for node, state in known.nodes.items():
        out.note(SLABS, known.name, node, state.nr_slabs, s.nr_slabs[node])
        rows = slabs_from(slub, s.n_first[node])
        if not state.partial and not rows:
            continue
        out.note(NODE_PARTIALS, known.name, node, [slab.pfn for slab in state.partial],
                 [slub.sl_pfn[at] for at in rows])
        by_pfn = {slub.sl_pfn[at]: at for at in rows}
        for slab in state.partial:
            at = by_pfn.get(slab.pfn)
            if at is not None:
                out.note(NODE_FREELISTS, known.name, node, slab.freelist, chain(slub, at, slub.sl_free[at]))


def _compare_counters(
    out: DumpComparison, slub: Slub, s: SlubCache, known: DumpedCache, before: dict[str, tuple[int, ...]]
) -> None:
    for which, name in enumerate(SLUB_STATS):
        real = known.stats.get(name, (0,) * slub.nr_cpus)
        zero = before.get(name, (0,) * slub.nr_cpus)
        for cpu in range(slub.nr_cpus):
            counted = real[cpu] - zero[cpu]
            model = s.stat[cpu * NR_SLUB_STATS + which]
            if counted or model:
                cell = f"{known.name} CPU {cpu} {name}"
                out.note(COUNTERS, cell, cpu, counted, model)
                out.counted[cell] = counted
                out.counted_by_model[cell] = model
