"""Two runs side by side: what changed, by cache, call site, zone and latency path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..report.frames import HUGE_ORDER, NO_CACHE, NO_SITE, RunFrames, df_latency, share
from ..report.wording import shorten, visible
from ..units import PAGE_SIZE, format_size, format_time
from .measures import MEASURES, NOTHING, measure_run

KEYS = {"caches": ["cache"], "callsites": ["call_site", "cache"], "zones": ["node", "zone"], "latency": ["op", "path"]}
"""Table -> what tells its rows apart."""
LEADING = {"caches": "peak_bytes", "callsites": "waste_bytes", "zones": "least_free_bytes", "latency": "sum_ns"}
"""Table -> the column whose change puts its rows in order: the largest first."""
TITLES = {"caches": "Caches", "callsites": "Call sites", "zones": "Zones", "latency": "Latency paths"}
NAME_WIDTH = 44


@dataclass(frozen=True)
class Difference:
    """
    B minus A.

    Attributes
    ----------
    a, b
        The measures of each run (``measures.MEASURES``).
    tables
        By name of ``KEYS``: its key columns, then for each value ``NAME_a``, ``NAME_b`` and ``NAME_delta``; rows by
        the size of the leading column's change, largest first. A row that only one run has is 0 in the other.
    notes
        Sentences: what makes the two runs unequal besides what was meant to.
    """

    a: dict[str, float]
    b: dict[str, float]
    tables: dict[str, pd.DataFrame]
    names: tuple[str, str] = ("A", "B")
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; what a run cannot say is None."""
        return {
            "runs": list(self.names),
            "notes": self.notes,
            "measures": [{"name": m.name, "unit": m.unit, "better": "less" if m.better < 0 else "more",
                          "a": _plain(self.a[m.name]), "b": _plain(self.b[m.name]),
                          "delta": _plain(self.b[m.name] - self.a[m.name]),
                          "change_pct": _plain(change_pct(self.a[m.name], self.b[m.name]))} for m in MEASURES],
            "tables": {name: [{key: _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
                       for name, frame in self.tables.items()},
        }

    def text(self, top: int = 10) -> list[str]:
        """Lines for a terminal: all measures, and the ``top`` rows of each table that changed."""
        lines = [f"A: {self.names[0]}", f"B: {self.names[1]}", *(f"note: {note}" for note in self.notes), ""]
        lines += [_line("measure", "A", "B", "B − A", "")]
        for m in MEASURES:
            a, b = self.a[m.name], self.b[m.name]
            verdict = "" if not b - a or (b - a) != (b - a) else "better" if (b - a) * m.better > 0 else "worse"
            lines.append(_line(m.name, m.show(a), m.show(b), _signed(m.show, b - a) + percent(a, b), verdict))
        for name, frame in self.tables.items():
            lines += ["", *_table_text(name, frame, top)]
        return lines


def compare_runs(a: RunFrames, b: RunFrames, names: tuple[str, str] = ("A", "B")) -> Difference:
    """
    Compare two runs.

    Raises
    ------
    MetricsError
        A table of one of them is missing or broken.
    """
    makers = {"caches": _caches, "callsites": _callsites, "zones": _zones, "latency": _latency}
    tables = {name: _joined(name, make(a), make(b)) for name, make in makers.items()}
    return Difference(measure_run(a), measure_run(b), tables, names, _notes(a, b))


def _notes(a: RunFrames, b: RunFrames) -> list[str]:
    notes = []
    traces = [run.manifest.get("trace", {}) for run in (a, b)]
    if traces[0].get("digest") != traces[1].get("digest"):
        notes.append("the two runs replayed different traces; sums and counts depend on how long each is.")
    if a.config.get("time_window_ns") != b.config.get("time_window_ns"):
        notes.append("the two runs replayed different parts of the trace.")
    if a.start_text != b.start_text:
        notes.append(f"they start differently: A from {a.start_text or 'an unknown state'}; "
                     f"B from {b.start_text or 'an unknown state'}.")
    if a.manifest.get("versions", {}).get("memtrace") != b.manifest.get("versions", {}).get("memtrace"):
        notes.append("they were made by different versions of memtrace.")
    if a.manifest.get("costs") != b.manifest.get("costs"):
        notes.append("their cost tables differ, so their times cannot be compared.")
    return notes


def _caches(run: RunFrames) -> pd.DataFrame:
    rows = run.read("caches", ["t_ns", "cache", "num_slabs", "pagesperslab"]).to_pandas()
    rows["cache"] = rows["cache"].astype(str)
    rows["bytes"] = rows["num_slabs"] * rows["pagesperslab"] * PAGE_SIZE
    last = rows["t_ns"] == rows["t_ns"].max()
    hits = run.last("cpu_caches").groupby("cache")[["alloc_fastpath", "alloc_slowpath", "alloc_cpu_sheaf"]].sum()
    out = pd.DataFrame({"peak_bytes": rows.groupby("cache")["bytes"].max(),
                        "end_bytes": rows[last].groupby("cache")["bytes"].sum()})
    out["allocs"] = hits.sum(axis=1)
    out["slow_allocs"] = hits["alloc_slowpath"]
    return out.fillna(0).rename_axis("cache").reset_index()


def _callsites(run: RunFrames) -> pd.DataFrame:
    rows = run.table("callsites").copy()
    rows["call_site"] = rows["call_site"].fillna(NO_SITE)
    rows["cache"] = rows["cache"].fillna(NO_CACHE)
    rows["waste_bytes"] = rows["bytes_allocated"] - rows["bytes_requested"]
    kept = ["call_site", "cache", "waste_bytes", "peak_bytes", "live_bytes", "allocs", "slowpath", "wait_ns"]
    return rows[kept]


def _zones(run: RunFrames) -> pd.DataFrame:
    rows = run.table("zones")
    free = (rows["free_pages"] + rows["pcp_pages"]) * PAGE_SIZE
    frame = pd.DataFrame({"node": rows["node"].astype("int64"), "zone": rows["zone"], "free": free,
                          "slab": rows["slab_pages"] * PAGE_SIZE})
    by = frame.groupby(["node", "zone"])
    out = pd.DataFrame({"least_free_bytes": by["free"].min(), "end_free_bytes": by["free"].last(),
                        "peak_slab_bytes": by["slab"].max()}).reset_index()
    index = run.last("fragmentation")
    index = index[index["order"] == HUGE_ORDER].set_index(["node", "zone"])["unusable_index"] / 10
    return out.merge(index.rename("unusable_pct").reset_index(), on=["node", "zone"], how="left")


def _latency(run: RunFrames) -> pd.DataFrame:
    rows = df_latency(run)
    rows["mean_ns"] = rows["sum_ns"] / rows["count"].where(rows["count"] > 0)
    return rows[["op", "path", "sum_ns", "count", "mean_ns", "p50_ns", "p99_ns"]]


def _joined(name: str, a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Both runs' rows side by side, in order of what matters."""
    keys = KEYS[name]
    # As plain objects: a column of an empty run has no type of its own to be merged with.
    a, b = (side.astype(dict.fromkeys(keys, object)) for side in (a, b))
    both = a.merge(b, on=keys, how="outer", suffixes=("_a", "_b"))
    values = [column for column in a.columns if column not in keys]
    out = both[keys].copy()
    for value in values:
        # What a run does not have took no memory and no time; a mean of nothing is no number.
        fill = NOTHING if value.startswith(("mean", "p50", "p99", "unusable")) else 0
        for side in ("a", "b"):
            out[f"{value}_{side}"] = both[f"{value}_{side}"].fillna(fill)
        out[f"{value}_delta"] = out[f"{value}_b"] - out[f"{value}_a"]
    return (out.assign(_size=out[f"{LEADING[name]}_delta"].abs())
            .sort_values(["_size", *keys], ascending=[False, *[True] * len(keys)], ignore_index=True)
            .drop(columns="_size"))


def change_pct(a: float, b: float) -> float:
    """Change from ``a`` to ``b`` in percent of ``a``; nan where ``a`` is 0 and ``b`` is not."""
    return share(b - a, abs(a)) if a else 0.0 if b == a else NOTHING


def percent(a: float, b: float) -> str:
    """`` (+3.1 %)``, or nothing where it says nothing."""
    change = change_pct(a, b)
    return f" ({change:+.1f} %)" if change == change and change else ""


def _signed(show: Any, delta: float) -> str:
    return show(delta) if delta != delta or delta <= 0 else f"+{show(delta)}"


def _show(column: str, value: float) -> str:
    if value != value:
        return "–"
    if "bytes" in column:
        return format_size(value)
    if column.endswith("_ns"):
        return format_time(value)
    return f"{value:.1f} %" if column.endswith("_pct") else f"{value:,.0f}"


def _line(name: str, a: str, b: str, delta: str, verdict: str) -> str:
    return f"  {name:<{NAME_WIDTH}} {a:>12} {b:>12} {delta:>24}  {verdict}".rstrip()


def _table_text(name: str, frame: pd.DataFrame, top: int) -> list[str]:
    """A table's rows whose leading value changed, as lines."""
    value = LEADING[name]
    changed = frame[frame[f"{value}_delta"] != 0]
    lines = [_line(f"{TITLES[name]} by {value}", "A", "B", "B − A", "")]
    for row in changed.head(top).to_dict("records"):
        key = " ".join(shorten(visible(row[column]), NAME_WIDTH // len(KEYS[name])) for column in KEYS[name])
        a, b = float(row[f"{value}_a"]), float(row[f"{value}_b"])
        lines.append(_line(key, _show(value, a), _show(value, b),
                           _signed(lambda n: _show(value, n), b - a) + percent(a, b), ""))
    left = len(changed) - top
    if left > 0:
        lines.append(f"  {left:,} more changed; --json has all")
    if changed.empty:
        lines.append("  no change")
    return lines


def _plain(value: Any) -> Any:
    """A number or text as JSON has them."""
    if isinstance(value, str):
        return value
    number = float(value)
    if number != number:
        return None
    return int(number) if number == int(number) else number
