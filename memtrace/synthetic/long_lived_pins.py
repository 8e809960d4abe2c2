"""
long-lived-pins: one object in many stays, and keeps its slab; one page in many, and keeps its page block.

Source: the oldest complaint about both layers: Bonwick 1994, 3.2 (external fragmentation of slabs), and the anti-
fragmentation work of M. Gorman (linux-mm 2006 to 2018), whose adverse workloads mix short-lived movable pages with
unmovable ones that stay. A round is a burst of both, of which every n-th is pinned.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .tape import Tape
from .workload import Parameter, Rounds, Workload


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return 2 * (values["objects"] + values["pages"] + values["pages"] // values["every"])


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return max(values["objects"], values["pages"]) * values["gap"]


def _play(tape: Tape, rounds: Rounds) -> None:
    objects, pages, every, gap = rounds["objects"], rounds["pages"], rounds["every"], rounds["gap"]
    cpu = rounds.cpu[:, None]
    pinned = rounds["pinned"] * _period_ns(rounds.values, rounds.cpus)
    if objects:
        asked = rounds.times(objects, gap)
        pins = np.arange(objects) % every == every - 1
        life = np.where(pins, pinned, 0) + rounds.lives(rounds["life"], asked.shape)
        tape.objects(asked, asked + life, size=rounds["size"], cpu=cpu, site="session_create",
                     free_site="session_destroy", gfp="GFP_KERNEL_ACCOUNT")  # fmt: skip
    if pages:
        asked = rounds.times(pages, gap, gap // 2)
        tape.pages(asked, asked + rounds.lives(rounds["life"], asked.shape), cpu=cpu)
        kept = asked[:, every - 1 :: every]
        tape.pages(kept, kept + pinned + 1, cpu=cpu, gfp="GFP_KERNEL_ACCOUNT|__GFP_ZERO")


WORKLOAD = Workload(
    name="long-lived-pins",
    about="most objects and pages go soon, every n-th stays: slabs and page blocks that are nearly empty and not free",
    source="Bonwick 1994, 3.2; M. Gorman's anti-fragmentation series, linux-mm 2006-2018",
    parameters=(
        Parameter("objects", "256", "count", "objects of a burst", 0),
        Parameter("size", "192", "size", "of an object", most=65_536),
        Parameter("pages", "256", "count", "pages of a burst", 0),
        Parameter("every", "16", "count", "one in so many is pinned"),
        Parameter("life", "20ms", "time", "of what is not pinned, on average"),
        Parameter("pinned", "1000", "count", "rounds for which a pin stays"),
        Parameter("gap", "1us", "time", "between two requests"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
