"""A user's script, checked by mypy as strictly as can be: memtrace says of which types everything is."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

SCRIPT = '''
from pathlib import Path

import matplotlib.pyplot as plt

import memtrace as mt


def worst_cache(run: mt.Run) -> str:
    rates = run.hit_rates()
    return str(rates.loc[rates["rate"].idxmin(), "cache"])


def main() -> None:
    mt.synth("ping-pong", Path("ping-pong.parquet"), events=10_000, seed=3)
    run = mt.replay("ping-pong.parquet", allocator="slub", cpus=4, memory="1G", settings=["slub.cpu_partial=0"])
    rate: float = run.hit_rate(cache=worst_cache(run), cpu=1)
    print(rate, run.caches.tail(), run.manifest["notes"], run.show("slabinfo", at="10ms"))
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    run.plot.latency(ax=left)
    run.plot.cache_memory(right, top=5).set_title("mine")
    figure.savefig("figure.png")

    study = mt.compare(["ping-pong.parquet"], allocator=["slub", "slab"], settings={"slub.cpu_partial": [0, 30]})
    print(study.conclusions, study.winners, study.run(0).hit_rate())
    study.plot.measure("peak_slab_bytes")[0].set_title("mine")

    kernel = mt.Kernel(cpus=2, memory="64M")
    address: int = kernel.kmalloc(100, mt.GFP_KERNEL)
    kernel.kfree(address)
    try:
        mt.replay("missing.csv")
    except (mt.TraceError, mt.ConfigError) as error:
        print(error)


if __name__ == "__main__":
    main()
'''
WRONG = (
    ("run.hit_rate(cache=7)", 'Argument "cache" to "hit_rate" of "Run" has incompatible type'),
    ("run.plot.pie()", '"RunPlots" has no attribute "pie"'),
    ("mt.replay(7)", 'Argument 1 to "replay" has incompatible type'),
)


def mypy(script: Path, root: Path) -> str:
    """What mypy says of a script outside the project, with no configuration but ``--strict``."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "--no-color-output",
         "--cache-dir", str(root / ".mypy_cache" / "user"), script.name],
        cwd=script.parent, env={**os.environ, "MYPYPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_script_is_accepted_and_its_mistakes_are_found(tmp_path: Path, root: Path) -> None:
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(SCRIPT, encoding="utf-8")
    assert "Success" in mypy(right, root)
    wrong.write_text("import memtrace as mt\n\nrun = mt.Run('folder')\n" + "\n".join(line for line, _ in WRONG),
                     encoding="utf-8")
    said = mypy(wrong, root).splitlines()
    for (line, expected), found in zip(WRONG, said, strict=False):
        assert expected in found, line
    assert f"Found {len(WRONG)} errors" in said[-1]


def test_the_mark_of_a_typed_package_is_shipped(root: Path) -> None:
    shipped = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert "py.typed" in shipped["memtrace"] and (root / "memtrace" / "py.typed").is_file()
