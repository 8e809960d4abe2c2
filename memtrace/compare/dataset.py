"""All tables of all cells as one dataset: one Parquet file a table, with the cell's axes in front."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import MetricsError
from ..files import new_file, saying
from ..metrics.run_folder import METRICS
from ..metrics.schema import TABLES
from ..metrics.tables import ZSTD_LEVEL

MEASURES_TABLE = "measures"
BY_SIZE = sorted((table.name for table in TABLES), key=lambda name: name not in ("cpu_caches", "caches"))
"""Tables in the order in which they are written: first those that take longest, so that no thread is left alone."""


def write_dataset(target: Path, cells: Path, columns: Sequence[dict[str, Any]], keys: Sequence[str],
                  jobs: int = 1) -> None:
    """
    Write every table of the run folders ``cells``/KEY to ``target``/TABLE.parquet.

    Parameters
    ----------
    columns
        Of each cell, its columns: number, axes, seed. They come first; one that a table has too is called
        ``cell_NAME`` there.
    keys
        Names of their folders, in the same order.
    jobs
        Tables to write at a time. Each is written by one thread, so the files do not depend on it.

    Raises
    ------
    MetricsError
        A cell's table cannot be read.
    """
    with saying(target):
        target.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as threads:
        # Arrow lets other threads run while it reads, packs and writes.
        list(threads.map(lambda name: _write_table(name, target, cells, columns, keys), BY_SIZE))


def _write_table(name: str, target: Path, cells: Path, columns: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """One table of all cells, whole or not at all."""
    with new_file(target / f"{name}.parquet") as part, contextlib.ExitStack() as files:
        writer: pq.ParquetWriter | None = None
        for values, key in zip(columns, keys, strict=True):
            for group in _groups(cells / key / METRICS / f"{name}.parquet"):
                rows = _with_cell(group, values)
                writer = writer or files.enter_context(_writer(part, rows.schema))
                writer.write_table(rows)


def _groups(source: Path) -> list[pa.Table]:
    """The row groups of a cell's table, or an empty table."""
    try:
        with pq.ParquetFile(source) as file:
            groups = [file.read_row_group(group, use_threads=False) for group in range(file.num_row_groups)]
            return groups or [file.schema_arrow.empty_table()]
    except (pa.ArrowException, OSError) as error:
        raise MetricsError(f"{source}: not readable as Parquet ({str(error).splitlines()[0]}); expected "
                           "a finished cell. Remove its folder and run the study again.") from None


def _writer(place: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Packed as run folders are; statistics so that one cell or one sample is found without reading the others."""
    named = [field.name for field in schema if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type)]
    return pq.ParquetWriter(place, schema, compression="zstd", compression_level=ZSTD_LEVEL, use_dictionary=named,
                            write_statistics=[name for name in ("cell", "t_ns") if name in schema.names])


def write_measures(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write ``target``/measures.parquet: one row a cell, its axes and its measures."""
    with saying(target):
        target.mkdir(parents=True, exist_ok=True)
    with new_file(target / f"{MEASURES_TABLE}.parquet") as part:
        pq.write_table(pa.Table.from_pylist(list(rows)), part, compression="zstd")


def _with_cell(rows: pa.Table, values: dict[str, Any]) -> pa.Table:
    for i, (name, value) in enumerate(values.items()):
        rows = rows.add_column(i, name if name not in rows.column_names else f"cell_{name}",
                               _repeated(value, _type(name), rows.num_rows))
    return rows


def _repeated(value: Any, kind: pa.DataType, n: int) -> pa.Array:
    """A column of one value; texts by number, so that a name of thousands of characters is there once."""
    if pa.types.is_integer(kind):
        return pa.repeat(pa.scalar(value, kind), n)
    number = pa.scalar(None if value is None else 0, pa.int32())
    return pa.DictionaryArray.from_arrays(pa.repeat(number, n), pa.array([] if value is None else [value], kind))


def _type(name: str) -> pa.DataType:
    """By name, not by value: the same axis may be a value in one cell and unset in another."""
    return pa.int32() if name in ("cell", "cpus", "seed") else pa.string()
