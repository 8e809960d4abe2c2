"""
Make a long trace by playing a short one again and again, row group by row group.

    python benchmarks/loop_trace.py traces/build-and-serve-6.18.parquet long.parquet --events 50000000

Each round is the trace shifted in time. What was alive at the end of a round is allocated anew in the next one at
the same address, which a replay counts as a missed free. Markers are left out: each would be a sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

GAP_NS = 1000


def loop_trace(source: Path, target: Path, events: int) -> int:
    """
    Write at least ``events`` rows of ``source``'s rounds to ``target``.

    Only one round is in memory at a time.

    Returns
    -------
    Rows written: the next whole number of rounds.
    """
    table = pq.read_table(source)
    table = table.filter(pc.not_equal(table["event"].cast(pa.string()), "marker")).unify_dictionaries()
    column = table.schema.get_field_index("ts_ns")
    first, last = pc.min_max(table["ts_ns"]).as_py().values()
    rounds = -(-events // len(table))
    with pq.ParquetWriter(target, table.schema, compression="zstd", compression_level=1) as writer:
        for i in range(rounds):
            shifted = pc.add(table["ts_ns"], i * (last - first + GAP_NS))
            writer.write_table(table.set_column(column, table.schema.field(column), shifted))
    return rounds * len(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--events", type=int, default=50_000_000)
    args = parser.parse_args()
    print(loop_trace(args.source, args.target, args.events), "rows")


if __name__ == "__main__":
    main()
