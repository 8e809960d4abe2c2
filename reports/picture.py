"""
Draws docs/picture.png, the picture in the README: two figures of the bundled real trace's replay.

`make reports` calls it.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt

import memtrace

TRACE = "traces/build-and-serve-6.18"


def main(out: str) -> None:
    run = memtrace.replay(f"{TRACE}.parquet", start=f"{TRACE}/start", kernel="6.18", report=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(16, 6.4), layout="constrained")
    run.plot.cache_memory(left, top=8)
    run.plot.latency(right)
    left.set_title("Where the memory is")
    right.set_title("What an operation takes, by its path")
    figure.savefig(out)


if __name__ == "__main__":
    main(sys.argv[1])
