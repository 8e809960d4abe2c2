"""
Recorded SLUB kernels replayed: do slabs come and go as they really did?

The numbers compared are those of /proc/slabinfo, at the moment when it was read: the marker ``SNAP_FILE
/proc/slabinfo`` after ``SNAP_BEGIN end``. Every marker has a sample. The last row of a run is not comparable with the
snapshot: the trace goes on after the dump, and allocates some 5,000 dentries while /sys is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import memtrace as mt
from memtrace.snapshot.exact import read_exact
from memtrace.snapshot.proc import read_proc

TOTAL = 0.03
"""
Difference in slabs over all caches that is let pass. Measured: at most 0.8 % (i386, whose clock stands still at times,
so that rows are in a wrong order). What a trace cannot tell is in it: which interrupt came between two rows, and (from
`boot`) a kernel-thread fork of which the recordings show nothing.
"""
EACH = 0.10
"""The same for each cache of at least ``MANY`` slabs. Measured: at most 6 % (kmalloc-512: 73 slabs for 69)."""
MANY = 50
EXACT = 0.8
"""
Share of the caches in use of which every SLUB counter is the kernel's own over the whole trace, started from `start`.
Measured: 52 of 60, 52 of 60, 48 of 51 and, on i386, 51 of 61. Among the others are always maple_node, whose bulk arrays
the trace does not tell apart, and kmem_cache_node, which the model does not allocate.
"""
FROM_COUNTS = {"debcloud_std_512m": 0.15, "linux-6.18_find_tar": 0.20}
"""
Error in the change of slabs over the change itself, for kernels of which nothing is known but counts. Measured: 0.06
and 0.18. Of the latter's 181 wrong slabs 127 are buffer_head's, and lie outside the recording: its trace shows 804 new
pages of that cache, which is what the model takes, and slabinfo grew by 931.
"""


def slabs_at(run: mt.Run, t_ns: int) -> dict[str, int]:
    """Slabs by cache at a sample."""
    frame = run.table("caches")
    frame = frame[frame.t_ns == t_ns]
    return {str(name): int(n) for name, n in zip(frame.cache, frame.num_slabs, strict=True)}


def slabinfo_read_ns(run: mt.Run, snapshot: str) -> int:
    """Simulated time at which a snapshot's slabinfo was read."""
    frame = run.table("markers")
    begun = frame[frame.text.str.strip() == f"SNAP_BEGIN {snapshot}"].row.iloc[-1]
    read = frame[(frame.text.str.strip() == "SNAP_FILE /proc/slabinfo") & (frame.row > begun)]
    return int(read.t_ns.iloc[0])


def real_slabs(folder: Path) -> dict[str, int]:
    return {cache.name: cache.num_slabs for cache in read_proc(folder).caches}


STARTS = [
    ("slub_std_512m", "start"), ("slub_std_512m", "boot"),
    ("slub_std_numa2_1g", "start"), ("slub_press_256m", "start"), ("i386_slub_std_1536m", "start"),
    *(pytest.param((run, "boot"), marks=pytest.mark.slow)
      for run in ("slub_std_numa2_1g", "slub_press_256m", "i386_slub_std_1536m")),
]


@dataclass
class Recording:
    """A replayed recording of an instrumented 6.1 kernel."""

    name: str
    start: str
    snapshots: Path
    run: mt.Run


@pytest.fixture(scope="module", params=STARTS, ids="-".join)
def recording(
    request: pytest.FixtureRequest, ground_truth: Path, tmp_path_factory: pytest.TempPathFactory
) -> Recording:
    """1.5 million events from an exact dump; the validators run along."""
    name, start = request.param
    folder = ground_truth / name
    run = mt.replay(folder / "trace.parquet", start=folder / "snapshots" / start, report=False, check=True,
                    out=tmp_path_factory.mktemp("fidelity") / "run")
    return Recording(name, start, folder / "snapshots", run)


def test_slabs_at_the_end(recording: Recording) -> None:
    """All caches together."""
    real = real_slabs(recording.snapshots / "end")
    model = slabs_at(recording.run, slabinfo_read_ns(recording.run, "end"))
    assert sum(real.values()) > 2000
    assert abs(sum(model.values()) - sum(real.values())) <= TOTAL * sum(real.values())


def test_slabs_of_large_caches(recording: Recording) -> None:
    """Each cache."""
    real = real_slabs(recording.snapshots / "end")
    model = slabs_at(recording.run, slabinfo_read_ns(recording.run, "end"))
    large = {name: n for name, n in real.items() if n >= MANY}
    assert len(large) >= 6
    off = {name: (n, model.get(name, 0)) for name, n in large.items() if abs(model.get(name, 0) - n) > EACH * n}
    assert off == {}, "(real, model)"


def test_counters(recording: Recording) -> None:
    """Every counter of /sys/kernel/slab, summed over CPUs, from the first dump to the last."""
    if recording.start == "boot":
        pytest.skip("a kernel-thread fork between `boot` and `start` is missing in every trace")
    first, last = (read_exact(recording.snapshots / name / "gt_snap.txt.gz") for name in ("start", "end"))
    markers = recording.run.table("markers")
    t_ns = markers[markers.text.str.strip() == last.marker].t_ns.iloc[0]
    frame = recording.run.table("cpu_caches")
    counted = frame[frame.t_ns == t_ns].drop(columns=["t_ns", "cpu"]).groupby("cache", observed=True).sum()
    before = {cache.name: cache.stats for cache in first.slub}
    used, exact = set(), set()
    for cache in last.slub:
        known = before.get(cache.name, {})
        real = {name.lower(): sum(n) - sum(known.get(name, ())) for name, n in cache.stats.items()}
        model = counted.loc[cache.name] if cache.name in counted.index else {}
        if any(real.values()):
            used.add(cache.name)
            if all(int(model.get(name, 0)) == n for name, n in real.items()):
                exact.add(cache.name)
    assert len(used) > 40
    assert len(exact) >= EXACT * len(used), sorted(used - exact)


def test_nothing_was_lost(recording: Recording) -> None:
    """No request failed that the kernel served, no free of something the model never held."""
    counts = recording.run.manifest["counts"]
    assert recording.run.manifest["operations"] > 900_000
    assert "start_object_unplaced" not in counts
    # The pressed machine lives on reclaim, which is not modelled: of 218,000 page requests a few fail.
    allowed = 50 if recording.name == "slub_press_256m" else 0
    for cause in ("model_alloc_failed", "model_page_alloc_failed", "free_of_nothing"):
        assert counts.get(cause, 0) <= allowed, cause
    zones, caches = (recording.run.table(name) for name in ("zones", "caches"))
    last = zones.t_ns.max()
    in_slabs = int(zones[zones.t_ns == last].slab_pages.sum())
    caches = caches[caches.t_ns == last]
    # Slabs of a smaller order than preferred make it less.
    assert 0 <= int((caches.num_slabs * caches.pagesperslab).sum()) - in_slabs <= allowed


@pytest.mark.parametrize("name", sorted(FROM_COUNTS))
def test_change_from_counts(name: str, ground_truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kernels as people run them, started from /proc and /sys files: how slabs change until the end."""
    folder = ground_truth / name
    run = mt.replay(folder / "trace.parquet", start=folder / "snapshots" / "start", report=False, check=True,
                    out=tmp_path / "run")
    frame = run.table("caches")
    end_ns = slabinfo_read_ns(run, "end") if len(run.table("markers")) else int(frame.t_ns.max())
    first, last = slabs_at(run, int(frame.t_ns.min())), slabs_at(run, end_ns)
    before, after = real_slabs(folder / "snapshots" / "start"), real_slabs(folder / "snapshots" / "end")
    off = {cache: (n, before.get(cache, 0)) for cache, n in first.items() if n != before.get(cache, 0)}
    assert sum(abs(n - real) for n, real in off.values()) <= 1, "the layout meets the snapshot's counts"
    changed = {cache: after.get(cache, 0) - before.get(cache, 0) for cache in {*after, *last}}
    error = sum(abs(last.get(cache, 0) - before.get(cache, 0) - real) for cache, real in changed.items())
    change = sum(map(abs, changed.values()))
    with capsys.disabled():
        print(f"\n{name}: slabs changed by {change} in all, wrong by {error} ({error / change:.3f})")
    assert change > 500
    assert error <= FROM_COUNTS[name] * change
