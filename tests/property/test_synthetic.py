"""Whatever the parameters: a generated trace pairs completely, and equal numbers give equal bytes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.errors import ConfigError
from memtrace.run import replay
from memtrace.synthetic import LIVES, Parameter, Rounds, Tape, Workload
from memtrace.synthetic.catalogue import NAMES, load_workload
from memtrace.synthetic.write import Plan, generate, plan, synth, write_trace
from memtrace.trace import schema
from memtrace.trace.census import take_census
from memtrace.trace.schema import EventChunk
from memtrace.trace.source import open_trace

ALLOCS = {schema.EV_KMALLOC: schema.EV_KFREE, schema.EV_CACHE_ALLOC: schema.EV_CACHE_FREE,
          schema.EV_PAGE_ALLOC: schema.EV_PAGE_FREE, schema.EV_PERCPU_ALLOC: schema.EV_PERCPU_FREE,
          schema.EV_CACHE_ALLOC_BULK: schema.EV_CACHE_FREE}  # fmt: skip
NO_PAIR = {schema.EV_MARKER, schema.EV_CACHE_CREATE}
STAYS = {"embedded-boot"}
SMALL_MOST = {"forks": 4}


def rows(what: Plan) -> EventChunk:
    """The whole trace as one chunk; its pieces are in order and begin where the one before ended."""
    whole = EventChunk.empty(0)
    for chunk, _ in generate(what):
        assert chunk.row0 == len(whole)
        for name, _, _ in schema.CHUNK_COLUMNS:
            setattr(whole, name, np.concatenate([getattr(whole, name), getattr(chunk, name)]))
    return whole


def check_pairs(trace: EventChunk, cpus: int, may_stay: bool) -> None:
    """Times never go back; each free is of something alive, of its kind, by name and order; all ends that may."""
    assert (np.diff(trace.ts_ns) >= 0).all()
    assert trace.cpu.min() >= 0 and trace.cpu.max() < cpus
    kinds = {free: alloc for alloc, free in ALLOCS.items()} | {schema.EV_CACHE_FREE_BULK: schema.EV_CACHE_ALLOC}
    alive: dict[tuple[bool, int], tuple[int, int, int]] = {}
    spans: list[tuple[int, int]] = []
    for event, ptr, name, order in zip(
        trace.event.tolist(), trace.ptr.tolist(), trace.name.tolist(), trace.order.tolist(), strict=True
    ):
        key = (event in (schema.EV_PAGE_ALLOC, schema.EV_PAGE_FREE), ptr)
        one_kind = schema.EV_CACHE_ALLOC if event == schema.EV_CACHE_ALLOC_BULK else event
        if event in ALLOCS:
            assert key not in alive
            alive[key] = (one_kind, name, order)
            if key[0]:
                spans.append((ptr, ptr + (1 << order)))
        elif event not in NO_PAIR:
            kind = kinds[event]
            kind = schema.EV_CACHE_ALLOC if kind == schema.EV_CACHE_ALLOC_BULK else kind
            assert alive.pop(key) == (kind, name, order)
    assert may_stay or not alive
    spans.sort()
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    workload = load_workload(draw(st.sampled_from(NAMES)))
    chosen = {}
    for p in workload.parameters:
        if draw(st.booleans()):
            low, high = {"percent": (0, 100), "time": (p.least, 10**7), "size": (1, 9000),
                         "count": (p.least, SMALL_MOST.get(p.name, min(p.most, 40)))}[p.kind]  # fmt: skip
            chosen[p.name] = f"{draw(st.integers(low, high))}{'ns' if p.kind == 'time' else ''}"
    events, cpus, seed = draw(st.integers(1, 3000)), draw(st.integers(1, 5)), draw(st.integers(0, 9))
    return plan(workload, events, cpus, seed, chosen)


@given(plans())
def test_any_parameters_give_a_trace_that_pairs(what: Plan) -> None:
    trace = rows(what)
    assert 0 < len(trace) <= what.rounds * what.rows_per_round
    check_pairs(trace, what.cpus, what.workload.name in STAYS)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_replays_under_every_allocator(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    small = {"forks": "5"} if "spike" in name else {}
    written = write_trace(plan(load_workload(name), events=6000, settings=small), path)
    for allocator in ("slub", "slab", "slob"):
        run = replay(path, allocator=allocator, out=tmp_path / allocator, report=False, check=True)
        markers = run.manifest["trace"]["rows"] - run.manifest["operations"]
        assert run.manifest["counts"] == {} and run.manifest["notes"] == []
        assert run.manifest["trace"]["rows"] == written.rows
        assert markers == (3 if "spike" in name else 0)


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_bytes_in_both_formats(name: str, tmp_path: Path) -> None:
    def one(seed: int, file: str) -> bytes:
        return synth(name, tmp_path / file, events=2000, seed=seed, force=True).read_bytes()

    for suffix in ("parquet", "csv"):
        assert one(1, f"a.{suffix}") == one(1, f"b.{suffix}")
    with open_trace(tmp_path / "a.parquet") as parquet, open_trace(tmp_path / "a.csv") as csv:
        a, b = take_census(parquet), take_census(csv)
        assert a.events == b.events and a.counts == b.counts == {}
        assert not parquet.problems and not csv.problems
    if name not in ("slab-test", "page-cache-churn"):  # nothing in these is left to chance
        assert one(1, "a.csv") != one(2, "a.csv")


def test_blocks_of_rounds_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are played in blocks; where nothing is left to chance their size changes nothing."""
    what = plan(load_workload("page-cache-churn"), 20_000, settings={"keep": "7"})
    whole = rows(what)
    monkeypatch.setattr("memtrace.synthetic.write.ROWS_PER_BLOCK", 500)
    parts = rows(what)
    assert len(whole) == len(parts)
    for name in ("ts_ns", "cpu", "event"):
        order = np.lexsort((parts.event, parts.cpu, parts.ts_ns))
        same = np.lexsort((whole.event, whole.cpu, whole.ts_ns))
        assert (getattr(whole, name)[same] == getattr(parts, name)[order]).all()
    check_pairs(parts, what.cpus, may_stay=False)


def one_round(play: object) -> Workload:
    return Workload("mine", "", "", (Parameter("n", "4", "count", ""),), lambda v, c: 8, lambda v, c: 100, play)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t, r: t.objects(r.times(2, 1), r.times(2, 1), size=8, cpu=0, site="s"), "free to come later"),
        (lambda t, r: t.objects(r.start_ns - 1, None, size=8, cpu=0, site="s"), "not before its round begins"),
        (lambda t, r: t.objects(r.start_ns, None, size=0, cpu=0, site="s"), "size 0; expected 1"),
        (lambda t, r: t.objects(r.start_ns, None, size=8, cpu=4, site="s"), "CPU 4; expected 0 to 3"),
        (lambda t, r: t.objects(r.start_ns, None, size=8, cpu=0, site="s", gfp="GFP_KERNAL"), "no flag is called"),
        (lambda t, r: t.objects(r.start_ns, None, size=8, cpu=0, site="s", bulk_free=True), "bulk operations"),
        (lambda t, r: t.pages(r.start_ns, None, cpu=0, order=11), "order 11; expected 0 to 10"),
        (lambda t, r: t.pages(r.start_ns, None, cpu=0, gfp="GFP_KERNEL"), "could be a slab's"),
        (lambda t, r: t.objects(r.start_ns, 1 << 64, size=8, cpu=0, site="s"), "64 bits"),
        (lambda t, r: None, "made no rows"),
    ],
)
def test_a_wrong_workload_is_told_what_is_wrong(call: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        write_trace(plan(one_round(call), 8), tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_memory_holds_what_is_alive_and_not_the_trace() -> None:
    """The first chunk is there before the last round has been played."""
    played: list[int] = []

    def play(tape: Tape, rounds: Rounds) -> None:
        played.append(len(rounds))
        tape.objects(rounds.start_ns, LIVES, size=8, cpu=0, site="s")

    chunks = generate(plan(one_round(play), 8_000_000))
    next(chunks)
    assert len(played) == 1 and played[0] < 100_000


def test_numbers_and_text_mean_the_same(tmp_path: Path) -> None:
    a = synth("net-rx", tmp_path / "a.csv", events=900, settings={"gap": "2us", "budget": "8", "dropped": "50"})
    same = {"gap": 2000, "budget": 8, "dropped": 50}
    b = synth(load_workload("net-rx"), tmp_path / "b.csv", events=900, settings=same)
    assert a.read_bytes() == b.read_bytes()


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_shares_and_picks_are_what_was_asked(seed: int) -> None:
    rounds = Rounds(np.arange(4), np.arange(4), 4, 1, np.random.default_rng(seed), {})
    assert not rounds.share(0, (100,)).any() and rounds.share(100, (100,)).all()
    drawn = Counter(rounds.pick((3, 5, 9), (0, 1, 3), (4000,)).tolist())
    assert 3 not in drawn and 2.4 < drawn[9] / drawn[5] < 3.8
    assert rounds.lives(10, (1000,)).min() >= 1
