"""percpu_stats: the global part only, and nothing where the file is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.errors import TraceError
from memtrace.snapshot.percpu import read_percpu_chunks, read_percpu_stats

TEXT = """Percpu Memory Statistics
Allocation Info:
----------------------------------------
  unit_size           :       524288
  static_size         :       171432

Global Stats:
----------------------------------------
  nr_cur_alloc        :          394
  nr_chunks           :            2
  empty_pop_pages     :            4

Per Chunk Stats:
----------------------------------------
Chunk: <- First Chunk
  nr_alloc            :          374
  empty_pop_pages     :            0
"""


def test_global_part(tmp_path: Path) -> None:
    (tmp_path / "percpu_stats").write_text(TEXT)
    assert read_percpu_stats(tmp_path / "percpu_stats") == {
        "unit_size": 524288, "static_size": 171432, "nr_cur_alloc": 394, "nr_chunks": 2, "empty_pop_pages": 4,
    }  # fmt: skip


def test_no_file(tmp_path: Path) -> None:
    assert read_percpu_stats(tmp_path / "percpu_stats") == {}


def test_each_chunk(tmp_path: Path) -> None:
    assert read_percpu_chunks(tmp_path) is None
    chunk = ("  nr_alloc : {0}\n  max_alloc_size : 8\n  empty_pop_pages : 1\n  first_bit : 2\n  free_bytes : 3\n"
             "  contig_bytes : 0\n  sum_frag : 0\n  max_frag : 0\n  cur_min_alloc : 4\n  cur_med_alloc : 8\n")
    sizes = "unit_size static_size reserved_size dyn_size atom_size nr_alloc nr_dealloc nr_cur_alloc empty_pop_pages"
    (tmp_path / "percpu_stats").write_text(
        "Percpu Memory Statistics\n" + "".join(f"  {name} : {i}\n" for i, name in enumerate(sizes.split()))
        + "Per Chunk Stats:\n----\nChunk: <- First Chunk\n" + chunk.format(7) + "\nChunk:\n" + chunk.format(5))
    stats = read_percpu_chunks(tmp_path)
    assert stats is not None
    assert (stats.unit_size, stats.static_size, stats.empty_pop_pages) == (0, 1, 8)
    assert [(c.first, c.nr_alloc, c.contig_bytes) for c in stats.chunks] == [(True, 7, 0), (False, 5, 0)]
    (tmp_path / "percpu_stats").write_text("  unit_size : 4096\n")
    with pytest.raises(TraceError, match=r"percpu_stats: no line 'static_size'"):
        read_percpu_chunks(tmp_path)
