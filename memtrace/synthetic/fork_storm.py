"""
fork-storm: processes are born, touch some memory and die, mostly on another CPU than their parent's.

Source: what copy_process() and dup_mmap() of kernel/fork.c ask for, as UnixBench "spawn", make -j or a shell script
make them do; sizes are those of /proc/slabinfo on a 64-bit 6.x kernel. A round is one process.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .tape import Tape
from .workload import Parameter, Rounds, Workload

TASK = (
    ("task_struct", 5824, "dup_task_struct"), ("cred_jar", 184, "prepare_creds"),
    ("files_cache", 704, "dup_fd"), ("fs_cache", 56, "copy_fs_struct"), ("sighand_cache", 2112, "copy_sighand"),
    ("signal_cache", 1152, "copy_signal"), ("mm_struct", 1600, "dup_mm"), ("pid", 192, "alloc_pid"),
)  # fmt: skip
STACK_PAGES = 4
PAGE_TABLES = 6
STEP_NS = 300  # between two requests of one system call


def areas(vmas: int) -> tuple[tuple[str, int, str, int], ...]:
    """(cache, bytes, call site, how many) for an address space of so many areas."""
    return (
        ("vm_area_struct", 192, "vm_area_dup", vmas),
        ("maple_node", 256, "mas_dup_tree", -(-vmas // 8)),
        ("anon_vma_chain", 64, "anon_vma_clone", max(1, vmas // 2)),
        ("anon_vma", 104, "anon_vma_fork", max(1, vmas // 4)),
    )


def _rows(values: Mapping[str, int], cpus: int) -> int:
    objects = len(TASK) + sum(count for *_, count in areas(values["vmas"]))
    return 2 * (objects + STACK_PAGES + PAGE_TABLES + values["touched"])


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return values["gap"]


def _play(tape: Tape, rounds: Rounds) -> None:
    parent = rounds.cpu[:, None]
    elsewhere = rounds.share(rounds["moved"], (len(rounds), 1))
    child = np.where(elsewhere, rounds.rng.integers(0, rounds.cpus, (len(rounds), 1)), parent)
    steps = _rows(rounds.values, rounds.cpus) // 2
    born = steps * STEP_NS
    dies = born + rounds.lives(rounds["life"], (len(rounds),))
    at = 0
    zeroed = "GFP_KERNEL_ACCOUNT|__GFP_ZERO"
    for count in (STACK_PAGES, PAGE_TABLES):
        tape.pages(rounds.times(count, STEP_NS, at * STEP_NS), rounds.times(count, STEP_NS, dies + at * STEP_NS),
                   cpu=parent, free_cpu=child, gfp=zeroed)  # fmt: skip
        at += count
    for cache, size, site, count in (*((*row, 1) for row in TASK), *areas(rounds["vmas"])):
        tape.objects(rounds.times(count, STEP_NS, at * STEP_NS), rounds.times(count, STEP_NS, dies + at * STEP_NS),
                     size=size, cpu=parent, free_cpu=child, cache=cache, site=site, free_site="do_exit",
                     gfp="GFP_KERNEL_ACCOUNT")  # fmt: skip
        at += count
    # The child's own pages come as it touches them, and go first when it exits.
    touched = rounds.times(rounds["touched"], 0, born) + rounds.rng.integers(
        0, np.maximum(dies - born, 1)[:, None], (len(rounds), rounds["touched"])
    )
    tape.pages(touched, rounds.times(rounds["touched"], 1, dies + 1), cpu=child)


WORKLOAD = Workload(
    name="fork-storm",
    about="short-lived processes: task, address space, page tables and pages, freed mostly on another CPU",
    source="kernel/fork.c under UnixBench spawn or make -j; sizes of a 6.x kernel's /proc/slabinfo",
    parameters=(
        Parameter("gap", "200us", "time", "from one fork to the next, over all CPUs"),
        Parameter("life", "5ms", "time", "of a process, on average"),
        Parameter("vmas", "24", "count", "areas of its address space", most=10_000),
        Parameter("touched", "40", "count", "pages it touches", most=100_000),
        Parameter("moved", "75", "percent", "processes that run on a CPU drawn at random, not on their parent's"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
