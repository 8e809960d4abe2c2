"""
embedded-boot: the boot of a small machine, nearly all of which stays.

Source: boot logs of 32-bit machines with one CPU (kmem-probe-framework: about 10,500 kmalloc events from power-on to
a shell) and M. Mackall's reason for SLOB (linux-tiny, linux-kernel 2003 to 2006): many small objects of odd sizes that
are never freed, among short-lived buffers. Each round is one driver or subsystem: some make a cache of their own and
a per-CPU area; all keep objects, nodes of sysfs and a few pages.
"""

from __future__ import annotations

from collections.abc import Mapping

from .tape import Tape
from .workload import Parameter, Rounds, Workload

SIZES = (6, 12, 17, 20, 28, 32, 40, 52, 64, 76, 92, 120, 128, 168, 240, 332, 512, 700, 1024, 2100, 4096)
WEIGHTS = (6, 9, 8, 9, 8, 9, 7, 7, 8, 5, 5, 5, 4, 4, 3, 3, 2, 2, 1, 0.7, 0.5)
CACHE_EVERY = 8
MAX_CACHES = 64
OBJECTS_OF_CACHE = 12
KERNFS_NODES = 6
PAGES = 2


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return values["kept"] + 2 * values["buffers"] + KERNFS_NODES + PAGES + 2 + OBJECTS_OF_CACHE


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return (values["kept"] + values["buffers"] + 32) * values["gap"]


def _play(tape: Tape, rounds: Rounds) -> None:
    n, gap, kept, buffers = len(rounds), rounds["gap"], rounds["kept"], rounds["buffers"]
    cpu = rounds.cpu[:, None]
    for number, start in zip(rounds.number.tolist(), rounds.start_ns.tolist(), strict=True):
        if number % CACHE_EVERY == 0 and number // CACHE_EVERY < MAX_CACHES:
            name, size = f"driver{number // CACHE_EVERY}_cache", 24 + 52 * (number // CACHE_EVERY % 17)
            tape.create_cache(start, name, size, cpu=number % rounds.cpus)
            tape.objects(start + gap * (1 + rounds.rng.permutation(OBJECTS_OF_CACHE)), None, size=size, cache=name,
                         cpu=number % rounds.cpus, site="driver_probe")  # fmt: skip
            tape.percpu(start + rounds.rng.integers(1, gap + 1, 1), None, size=8 << number // CACHE_EVERY % 5,
                        cpu=number % rounds.cpus, site="driver_register")  # fmt: skip
    after = OBJECTS_OF_CACHE * gap + gap
    if kept:
        tape.objects(rounds.times(kept, gap, after), None, size=rounds.pick(SIZES, WEIGHTS, (n, kept)), cpu=cpu,
                     site="device_add")  # fmt: skip
    if buffers:
        asked = rounds.times(buffers, gap, after + gap // 2)
        tape.objects(asked, asked + rounds.lives(4 * gap, asked.shape), size=rounds.pick(SIZES, WEIGHTS, (n, buffers)),
                     cpu=cpu, site="driver_probe", free_site="driver_probe")  # fmt: skip
    tape.objects(rounds.times(KERNFS_NODES, gap, after + kept * gap), None, size=136, cpu=cpu,
                 cache="kernfs_node_cache", site="__kernfs_new_node")  # fmt: skip
    tape.pages(rounds.times(PAGES, gap, after + (kept + KERNFS_NODES) * gap), None, cpu=cpu,
               gfp="GFP_KERNEL|__GFP_ZERO")  # fmt: skip


WORKLOAD = Workload(
    name="embedded-boot",
    about="the boot of a small machine: caches are made, most objects stay for ever, buffers come and go",
    source="32-bit boot logs of kmem-probe-framework; M. Mackall's SLOB and linux-tiny, 2003-2006",
    parameters=(
        Parameter("kept", "24", "count", "objects that a driver keeps", 0, 100_000),
        Parameter("buffers", "16", "count", "buffers that it frees again", 0, 100_000),
        Parameter("gap", "10us", "time", "between two requests"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
    cpus=1,
)
