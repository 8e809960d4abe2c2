"""CPUs that go offline and come back: what each layer does with what it keeps for them (MODEL 13)."""

from __future__ import annotations

from memtrace.errors import ConfigError
from memtrace.mm.boot import update_pcp
from memtrace.mm.machine import Machine


def online_cpus(machine: Machine) -> list[int]:
    """CPUs that are online, ascending."""
    return [cpu for cpu in range(machine.nr_cpus) if machine.online[cpu]]


def cpu_offline(machine: Machine, cpu: int) -> dict[str, int]:
    """
    Take a CPU offline: what is kept for it goes back, and another does its work from now on.

    The callbacks run on the CPU that takes over. Per-CPU areas stay: every possible CPU has them at all times.

    Kernel: page_alloc_cpu_dead(), slub_cpu_dead(), slab_dead_cpu(), 6.1 (MODEL 13)
    Departs: takes no time; SLAB's arrays are emptied after the page lists, not before them; deferred work (SLAB's
    reaper) is not cancelled, but comes with the CPU's first operation when it is back

    Returns
    -------
    What the event says: the CPU, who takes over, the pages that left its per-CPU lists.

    Raises
    ------
    ConfigError
        It is the last one online.
    """
    if online_cpus(machine) == [cpu]:
        raise ConfigError(f"cpu{cpu} off: it is the machine's last online CPU; expected another one online first.")
    machine.online[cpu] = False
    _share_work(machine)
    drained = 0
    for zone in machine.pages.zones:
        drained += int(zone.pcp[cpu].count)
        machine.pages.drain_pages_zone(zone, cpu)
    _update_high(machine)
    taker = int(machine.runs_on[cpu])
    machine.slab.cpu_dead(cpu, taker)
    machine.it.reset()
    return {"cpu": cpu, "online": 0, "taker": taker, "drained_pages": drained}


def cpu_online(machine: Machine, cpu: int) -> dict[str, int]:
    """
    Bring a CPU back: it begins with empty lists and does its own work again.

    Kernel: page_alloc_cpu_online(), slab_prepare_cpu(), 6.1 (MODEL 13)
    """
    machine.online[cpu] = True
    _share_work(machine)
    _update_high(machine)
    machine.slab.cpu_prepare(cpu)
    machine.it.reset()
    return {"cpu": cpu, "online": 1}


def _share_work(machine: Machine) -> None:
    """An offline CPU's work is done by the next online one of its node, else by the next online one at all."""
    nodes = [int(machine.pages.cpu_node[cpu]) for cpu in range(machine.nr_cpus)]
    online = online_cpus(machine)
    for cpu in range(machine.nr_cpus):
        if machine.online[cpu]:
            machine.runs_on[cpu] = cpu
            continue
        near = [other for other in online if nodes[other] == nodes[cpu]] or online
        machine.runs_on[cpu] = next((other for other in near if other > cpu), near[0])
    machine.nr_offline = machine.nr_cpus - len(online)


def _update_high(machine: Machine) -> None:
    """How many pages a CPU's lists may hold depends on how many CPUs share the node's."""
    online = [0] * machine.nr_nodes
    for cpu in online_cpus(machine):
        online[machine.pages.cpu_node[cpu]] += 1
    update_pcp(machine.pages.zones, online, machine.pcp_params)
