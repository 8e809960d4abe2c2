"""
slab-test: the loops with which the kernel's slab allocators have been measured since 2007.

Source: Christoph Lameter's module slab_test (vm_benchmark patches, linux-mm 2007 to 2013) and its published tables:
N objects of one size are allocated, then freed in the same order; then one object is allocated and freed again and
again; then all CPUs do the first test at once; then each object is freed on another CPU. Sizes double from 8 to
4096 bytes. The module uses N = 10,000; the default here is smaller, so that a short trace visits all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .tape import Tape
from .workload import Parameter, Rounds, Workload

SIZES = 8 << np.arange(10)


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return 2 * values["n"] * (3 + cpus)


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return 8 * values["n"] * values["gap"] + 4 * values["gap"]


def _play(tape: Tape, rounds: Rounds) -> None:
    n, gap = rounds["n"], rounds["gap"]
    size = SIZES[rounds.number % len(SIZES)][:, None]
    phase = 2 * n * gap
    one = rounds.times(n, gap)
    tape.objects(one, one + n * gap, size=size, cpu=0, site="test_alloc_then_free")
    pairs = rounds.times(n, 2 * gap, phase)
    tape.objects(pairs, pairs + gap, size=size, cpu=0, site="test_pairs")
    # A shared moment: the CPUs meet at the allocators' locks.
    for cpu in range(rounds.cpus):
        together = rounds.times(n, gap, 2 * phase)
        tape.objects(together, together + n * gap, size=size, cpu=cpu, site="test_all_cpus")
    remote = rounds.times(n, gap, 3 * phase)
    tape.objects(remote, remote + n * gap, size=size, cpu=0, free_cpu=rounds.cpus - 1, site="test_remote_free")


WORKLOAD = Workload(
    name="slab-test",
    about="N kmallocs then N kfrees, pairs, all CPUs at once, frees on another CPU; 8 to 4096 bytes, a size a round",
    source="C. Lameter's slab_test module, linux-mm 2007-2013",
    parameters=(
        Parameter("n", "500", "count", "objects of each test"),
        Parameter("gap", "100ns", "time", "between two operations of a CPU"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
