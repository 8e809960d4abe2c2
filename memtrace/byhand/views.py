"""What a machine that is called by hand looks like now, as pandas frames."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..mm.constants import MIGRATE_TYPES, NR_ORDERS, NR_PCP_LISTS, PCP_ORDERS
from ..mm.machine import Machine
from ..mm.stats import CACHE_FIELDS, MIGRATETYPES, ZONE_FIELDS
from ..mm.vmstat import VmStat

_PCP_TYPES = 3


def buddyinfo(machine: Machine) -> pd.DataFrame:
    """Free blocks: one row a zone (node, zone), one column an order."""
    rows = {(zone.node, zone.name): [int(n) for n in zone.nr_free] for zone in machine.pages.zones}
    return pd.DataFrame.from_dict(rows, orient="index", columns=range(NR_ORDERS)).set_index(_places(machine))


def zoneinfo(machine: Machine) -> pd.DataFrame:
    """ZONE_FIELDS, one row a zone."""
    buffer = np.zeros(machine.nr_zones * len(ZONE_FIELDS), np.int64)
    VmStat(machine).zones(buffer)
    return pd.DataFrame(buffer.reshape(machine.nr_zones, -1), columns=list(ZONE_FIELDS), index=_places(machine))


def _places(machine: Machine) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples([(z.node, z.name) for z in machine.pages.zones], names=["node", "zone"])


def slabinfo(machine: Machine) -> pd.DataFrame:
    """CACHE_FIELDS, one row a cache that has slabs."""
    buffer = np.zeros((machine.nr_caches, len(CACHE_FIELDS)), np.int64)
    VmStat(machine).caches(buffer.reshape(-1))
    names = pd.Index(machine.cache_names, name="cache")
    frame = pd.DataFrame(buffer, columns=list(CACHE_FIELDS), index=names)
    return frame[frame.num_slabs > 0]


def counters(machine: Machine) -> pd.DataFrame:
    """The allocator's statistics, one row a cache and CPU that used it."""
    vmstat = VmStat(machine)
    names = list(vmstat.stat_names)
    buffer = np.zeros((machine.nr_caches * machine.nr_cpus, 2 + len(names)), np.int64)
    rows = buffer[: vmstat.cpu_caches(buffer.reshape(-1))]
    cache = [machine.cache_names[i] for i in rows[:, 1]]
    index = pd.MultiIndex.from_arrays([cache, rows[:, 0]], names=["cache", "cpu"])
    return pd.DataFrame(rows[:, 2:], columns=names, index=index)


def free_lists(machine: Machine) -> pd.DataFrame:
    """pfns of every list of the buddy system that is not empty."""
    rows = [
        (zone.node, zone.name, order, MIGRATETYPES[mt], pfns)
        for zone in machine.pages.zones
        for order in range(NR_ORDERS)
        for mt in range(MIGRATE_TYPES)
        if (pfns := machine.frames.members(zone.list0 + order * MIGRATE_TYPES + mt))
    ]
    return pd.DataFrame(rows, columns=["node", "zone", "order", "migratetype", "pfns"])


def pcp_lists(machine: Machine) -> pd.DataFrame:
    """pfns of every CPU's page list that is not empty."""
    rows = [
        (cpu, zone.node, zone.name, *_kind(number), pfns)
        for zone in machine.pages.zones
        for cpu in range(machine.nr_cpus)
        for number in range(NR_PCP_LISTS)
        if (pfns := machine.frames.members(zone.pcp[cpu].list0 + number))
    ]
    return pd.DataFrame(rows, columns=["cpu", "node", "zone", "order", "migratetype", "pfns"])


def _kind(number: int) -> tuple[int, str]:
    """Order and migratetype of a per-CPU list; the last two hold huge pages, Movable ones apart (MODEL 3.1)."""
    if number < PCP_ORDERS * _PCP_TYPES:
        return number // _PCP_TYPES, MIGRATETYPES[number % _PCP_TYPES]
    return 9, MIGRATETYPES[number - PCP_ORDERS * _PCP_TYPES]


def percpu_areas(machine: Machine) -> pd.DataFrame:
    """Per-CPU areas by pointer: their chunk, and what of each CPU's unit they take (offset and size in bytes)."""
    percpu = machine.percpu
    rows = [(ptr, chunk.index, percpu.offset_of(ptr), percpu.size_of(ptr))
            for chunk in percpu.live_chunks() for ptr in sorted(percpu.pointer(chunk, bit) for bit in chunk.areas)]
    return pd.DataFrame(rows, columns=["ptr", "chunk", "offset", "size"])
