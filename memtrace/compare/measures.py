"""The numbers that one run is judged by, and in which direction each is better."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import pandas as pd

from ..errors import ConfigError
from ..report.frames import HUGE_ORDER, RunFrames, df_caches_at_peak, df_hits, df_unusable, percentiles, share
from ..units import PAGE_SIZE, format_size, format_time, parse_size, parse_time


@dataclass(frozen=True, slots=True)
class Measure:
    """
    One number of a run.

    ``unit`` is ``bytes``, ``ns``, ``%`` or empty (a count); ``better`` is -1 when less is better, 1 when more is.
    """

    name: str
    title: str
    unit: str
    better: int
    meaning: str

    def show(self, value: float) -> str:
        """``1.5 MiB`` from the value in the measure's unit; – when the run has none."""
        if value != value:
            return "–"
        if self.unit == "bytes":
            return format_size(value)
        if self.unit == "ns":
            return format_time(value)
        return f"{value:.2f} %" if self.unit == "%" else f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"

    def amount(self, number: str, unit: str, where: str) -> float:
        """
        The value of ``64`` and ``K`` in the measure's unit; ``%`` stands for percentage points.

        Raises
        ------
        ConfigError
            The measure has no such unit; the message begins with ``where``.
        """
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(f"{where}: {number} is not a number; expected one like 2 or 0.5.") from None
        if unit in ("", "%" if self.unit == "%" else ""):
            return value
        if self.unit == "bytes" and unit != "%":
            return float(parse_size(number + unit, where))
        if self.unit == "ns" and unit != "%":
            return float(parse_time(number + unit, where))
        raise ConfigError(f"{where}: {self.name} has no unit {unit}; expected a plain number"
                          f"{' or %' if self.unit == '%' else ''}.")


_SIMULATED = "simulated, on costs of which some are assumed"

MEASURES: tuple[Measure, ...] = (
    Measure("peak_used_bytes", "Peak of memory in use", "bytes", -1,
            "pages that are neither free nor on per-CPU lists, at the sample with most of them, whatever they are for"),
    Measure("peak_slab_bytes", "Peak slab memory", "bytes", -1,
            "pages of all caches at the sample with most; large kmallocs are plain pages, SLOB's from 4 KiB on"),
    Measure("end_slab_bytes", "Slab memory at the end", "bytes", -1, "pages of all caches at the last sample"),
    Measure("waste_bytes", "Waste at the peak", "bytes", -1,
            "of the peak, what nobody asked for: rounding, free objects, slab remainders"),
    Measure("waste_pct", "Share of waste at the peak", "%", -1,
            "of the peak of slab memory, what nobody asked for; of SLOB only its gaps"),
    Measure("rounding_pct", "Rounding", "%", -1, "of all bytes given by slab allocations, those not asked for"),
    Measure("hit_pct", "Fast-path hit rate", "%", 1, "slab allocations served on the fast path; SLOB has none"),
    Measure("frag_pct", "External fragmentation at the end", "%", -1,
            f"free memory in blocks smaller than order {HUGE_ORDER}"),
    Measure("least_free_bytes", "Least free memory", "bytes", 1, "free and per-CPU pages where they were fewest"),
    Measure("alloc_mean_ns", "Mean allocation time", "ns", -1, f"waits for locks included; {_SIMULATED}"),
    Measure("alloc_p99_ns", "99th percentile of allocation time", "ns", -1, _SIMULATED),
    Measure("free_mean_ns", "Mean free time", "ns", -1, f"waits for locks included; {_SIMULATED}"),
    Measure("busy_ns", "Time in the allocators", "ns", -1, f"all operations of all CPUs together; {_SIMULATED}"),
    Measure("wait_ns", "Waiting for locks", "ns", -1, f"all locks together; {_SIMULATED}"),
    Measure("failures", "Allocations that failed", "", -1, "rows of table failures"),
    Measure("unused_rows", "Rows not used", "", -1, "rows of the trace that asked for something and were not replayed"),
)
"""In the order in which they are shown."""

BY_NAME = {measure.name: measure for measure in MEASURES}
NOTHING = float("nan")


def find_measure(name: str, where: str) -> Measure:
    """The measure of a name; ``where`` begins the message of the ConfigError when there is none."""
    if name not in BY_NAME:
        near = difflib.get_close_matches(name, BY_NAME, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(BY_NAME)}."
        raise ConfigError(f'{where}: no measure "{name}"; {hint}')
    return BY_NAME[name]


def measure_run(run: RunFrames) -> dict[str, float]:
    """
    All measures of a run, by name.

    Bytes, simulated ns, percent and counts; nan where the run has nothing to measure (no allocation, no sample).
    """
    return {**_memory(run), **_service(run), **_times(run),
            "failures": float(len(run.read("failures", ["row"]))),
            "unused_rows": NOTHING if run.unused_rows is None else float(run.unused_rows)}


def _memory(run: RunFrames) -> dict[str, float]:
    zones = run.table("zones")
    held = slab_curve(run)
    free = (zones["free_pages"] + zones["pcp_pages"]).groupby(zones["t_ns"]).sum() * PAGE_SIZE
    managed = zones.groupby("t_ns")["managed"].sum() * PAGE_SIZE
    at_peak = df_caches_at_peak(run)
    slabs, waste = float(at_peak["slab_bytes"].sum()), float(at_peak["waste_bytes"].sum())
    index = df_unusable(run)
    order = min(HUGE_ORDER, int(index.columns.max())) if len(index) else 0
    return {
        "peak_used_bytes": float((managed - free).max()) if len(free) else NOTHING,
        "peak_slab_bytes": slabs,
        "end_slab_bytes": float(held.iloc[-1]) if len(held) else NOTHING,
        "waste_bytes": waste,
        "waste_pct": share(waste, slabs) if slabs else NOTHING,
        "frag_pct": 100.0 * float(index[order].iloc[-1]) if len(index) else NOTHING,
        "least_free_bytes": float(free.min()) if len(free) else NOTHING,
    }


def slab_curve(run: RunFrames) -> pd.Series:
    """Bytes in pages of all caches by t_ns."""
    rows = run.read("caches", ["t_ns", "num_slabs", "pagesperslab"]).to_pandas()
    return (rows["num_slabs"] * rows["pagesperslab"] * PAGE_SIZE).groupby(rows["t_ns"]).sum()


def _service(run: RunFrames) -> dict[str, float]:
    hits = df_hits(run)
    allocs, fast = float(hits["allocs"].sum()), float(hits["hits"].sum())
    sites = run.table("callsites")
    given, asked = float(sites["bytes_allocated"].sum()), float(sites["bytes_requested"].sum())
    return {"hit_pct": share(fast, allocs) if allocs and run.allocator != "slob" else NOTHING,
            "rounding_pct": share(given - asked, given) if given else NOTHING}


def _times(run: RunFrames) -> dict[str, float]:
    rows = run.table("latency")
    allocs, frees = rows[rows["op"] == "alloc"], rows[rows["op"] == "free"]
    done, freed = float(allocs["count"].sum()), float(frees["count"].sum())
    return {
        "alloc_mean_ns": float(allocs["sum_ns"].sum()) / done if done else NOTHING,
        "alloc_p99_ns": float(percentiles(allocs)["p99_ns"]) if done else NOTHING,
        "free_mean_ns": float(frees["sum_ns"].sum()) / freed if freed else NOTHING,
        "busy_ns": float(rows["sum_ns"].sum()),
        "wait_ns": float(run.table("locks")["wait_ns"].sum()),
    }
