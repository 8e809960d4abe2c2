"""All tables of all cells as one dataset: one Parquet file a table, with the cell's axes in front."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import MetricsError
from ..metrics.run_folder import METRICS
from ..metrics.schema import TABLES

MEASURES_TABLE = "measures"


def write_dataset(target: Path, cells: Path, columns: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """
    Write every table of the run folders ``cells``/KEY to ``target``/TABLE.parquet.

    Parameters
    ----------
    columns
        Of each cell, its columns: number, axes, seed. They come first; one that a table has too is called
        ``cell_NAME`` there.
    keys
        Names of their folders, in the same order.

    Raises
    ------
    MetricsError
        A cell's table cannot be read.
    """
    target.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        place = target / f"{table.name}.parquet"
        part = place.with_name(place.name + ".part")
        writer: pq.ParquetWriter | None = None
        try:
            for values, key in zip(columns, keys, strict=True):
                source = cells / key / METRICS / f"{table.name}.parquet"
                try:
                    with pq.ParquetFile(source) as file:
                        for group in range(file.num_row_groups):
                            rows = _with_cell(file.read_row_group(group), values)
                            writer = writer or pq.ParquetWriter(part, rows.schema, compression="zstd")
                            writer.write_table(rows)
                        if not file.num_row_groups:
                            rows = _with_cell(file.schema_arrow.empty_table(), values)
                            writer = writer or pq.ParquetWriter(part, rows.schema, compression="zstd")
                except (pa.ArrowException, OSError) as error:
                    raise MetricsError(f"{source}: not readable as Parquet ({str(error).splitlines()[0]}); expected "
                                       "a finished cell. Remove its folder and run the study again.") from None
        finally:
            if writer is not None:
                writer.close()
        if writer is not None:
            os.replace(part, place)


def write_measures(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write ``target``/measures.parquet: one row a cell, its axes and its measures."""
    target.mkdir(parents=True, exist_ok=True)
    part = target / f"{MEASURES_TABLE}.parquet.part"
    pq.write_table(pa.Table.from_pylist(list(rows)), part, compression="zstd")
    os.replace(part, target / f"{MEASURES_TABLE}.parquet")


def _with_cell(rows: pa.Table, values: dict[str, Any]) -> pa.Table:
    for i, (name, value) in enumerate(values.items()):
        column = pa.repeat(pa.scalar(value, _type(name)), rows.num_rows)
        if not pa.types.is_integer(column.type):
            column = column.dictionary_encode()
        rows = rows.add_column(i, name if name not in rows.column_names else f"cell_{name}", column)
    return rows


def _type(name: str) -> pa.DataType:
    """By name, not by value: the same axis may be a value in one cell and unset in another."""
    return pa.int32() if name in ("cell", "cpus", "seed") else pa.string()
