"""The core as plain Python decides what the compiled core decides: address by address, table by table."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from small_machines import booted, config, free_everything_idle, free_lists, open_zone, stats

import memtrace as mt
from memtrace.compiled import status
from memtrace.config import SlubParams
from memtrace.kernels import load_kernel
from memtrace.metrics.schema import TABLES
from memtrace.mm.boot import boot
from memtrace.mm.gfp import GFP_ATOMIC, GFP_BIT_RECLAIMABLE, GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from memtrace.mm.machine import Machine

pytestmark = pytest.mark.skipif(
    status() != "compiled", reason="the core is not compiled, so there is nothing to compare"
)
GFP = (GFP_KERNEL, GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL | GFP_BIT_RECLAIMABLE, 0)


KERNELS = ("6.1", "6.18", "2.6.24")


def small_machine(rng: random.Random, kernel: str) -> Machine:
    """With everything the plain reference has not: shuffled freelists, dice between nodes, kmalloc's classes."""
    zones = [open_zone("DMA", 2, 4), open_zone("DMA32", 8, 8), open_zone("Normal", 16, 8, node=1)]
    if kernel != "6.1":
        rules = load_kernel(kernel).with_setting("slub.sheaf_caches", "kmalloc-64:kmalloc-1k:kmalloc-4k")
        return boot(config(*zones, cpus=4), rules, rng.randrange(1 << 30))
    return booted(
        *zones, cpus=4, batch=rng.choice([1, 7, 31]), high=rng.choice([0, 60, 300]), seed=rng.randrange(1 << 30),
        memcg=rng.random() < 0.5, slub=SlubParams(freelist_random=True, cpu_partial=rng.choice([-1, 3])),
    )


def stream(seed: int, steps: int = 700) -> list[object]:
    """Everything that a random stream of requests returns and leaves behind; every second one under 6.1."""
    rng = random.Random(seed)
    machine = small_machine(rng, KERNELS[seed // 2 % 2 + 1] if seed % 2 else "6.1")
    seen: list[object] = []
    objects: list[int] = []
    blocks: list[tuple[int, int]] = []
    for _ in range(steps):
        machine.it.reset()
        cpu, node, gfp, what = rng.randrange(4), rng.choice([-1, -1, 0, 1]), rng.choice(GFP), rng.random()
        if what < 0.5:
            n = rng.choice([1, 20])
            addrs = [machine.kmalloc(rng.choice([8, 60, 700, 3000, 9000]), gfp, node, cpu) for _ in range(n)]
            objects += [addr for addr in addrs if addr]
            seen.append(addrs)
        elif what < 0.7 and objects:
            rng.shuffle(objects)
            addrs = [objects.pop() for _ in range(min(len(objects), rng.choice([1, 20])))]
            if rng.random() < 0.3:
                machine.bulk_free(array("q", addrs), len(addrs), cpu)
            else:
                for addr in addrs:
                    machine.kfree(addr, cpu)
        elif what < 0.85:
            order = rng.choice([0, 0, 1, 3, 5, 9])
            blocks.append((machine.page_alloc(order, gfp, node, cpu), order))
            seen.append(blocks[-1])
            if blocks[-1][0] < 0:
                blocks.pop()
        elif blocks:
            pfn, order = blocks.pop(rng.randrange(len(blocks)))
            machine.page_free(pfn, order, cpu)
        it = machine.it
        seen.append([it.path, *((it.lock[i], it.cls[i], it.count[i]) for i in range(it.n))])
    machine.validate()
    seen.append([stats(machine, cache) for cache in range(machine.nr_caches)])
    free_everything_idle(machine)
    seen.append([sorted(free_lists(machine, zone).items()) for zone in machine.pages.zones])
    return seen


def digests(first: int, end: int) -> list[str]:
    """Of each stream, so that the first that differs can be named."""
    return [hashlib.sha256(json.dumps(stream(seed)).encode()).hexdigest() for seed in range(first, end)]


def interpreted(*call: str) -> str:
    """Standard output of this file's ``call`` in a process that runs the sources."""
    code = f"import runpy; runpy.run_path({__file__!r}, run_name='interpreted')"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(mt.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code, *call], env={**os.environ, "MEMTRACE_INTERPRETED": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def replayed(trace: Path, start: str, out: Path) -> None:
    mt.replay(trace, start=start or None, machine=None if start else "vm-512m-4cpu", out=out, report=False, check=True)


def test_random_streams() -> None:
    """Addresses, itineraries, counters and final free lists of 30 streams."""
    first = digests(0, 30)
    assert len(set(first)) == 30
    assert first == json.loads(interpreted("streams", "0", "30"))


@pytest.mark.parametrize(("name", "start"), [
    ("hello.csv", ""),
    ("build-and-serve-6.18-first20k.csv", ""),
    pytest.param("build-and-serve-6.18-first20k.csv", "build-and-serve-6.18/start", marks=pytest.mark.slow),
])
def test_traces(bundled: Path, tmp_path: Path, name: str, start: str) -> None:
    """All tables of a run, byte by byte."""
    folder = str(bundled / start) if start else ""
    replayed(bundled / name, folder, tmp_path / "compiled")
    interpreted("replay", str(bundled / name), folder, str(tmp_path / "interpreted"))
    for table in TABLES:
        file = f"metrics/{table.name}.parquet"
        assert (tmp_path / "compiled" / file).read_bytes() == (tmp_path / "interpreted" / file).read_bytes(), file


if __name__ == "interpreted":
    assert status() == "interpreted"
    if sys.argv[1] == "streams":
        print(json.dumps(digests(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        replayed(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
