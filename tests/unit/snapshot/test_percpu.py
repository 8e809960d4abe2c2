"""percpu_stats: the global part only, and nothing where the file is missing."""

from __future__ import annotations

from pathlib import Path

from memtrace.snapshot.percpu import read_percpu_stats

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
