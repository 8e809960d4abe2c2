"""What ``memtrace.replay`` returns, for scripts and notebooks: a run folder's numbers, tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MetricsError
from ..units import format_time, parse_time

if TYPE_CHECKING:
    import pandas as pd

    from .frames import RunFrames
    from .run_plots import RunPlots


class Run:
    """
    A finished replay: its numbers, its tables as pandas frames, its figures.

    Parameters
    ----------
    path
        A folder that ``memtrace replay`` or ``replay()`` wrote.

    Attributes
    ----------
    path
        The folder. report.html is in it, unless the replay was asked to write none.
    frames
        What the figures are drawn from.

    Raises
    ------
    MetricsError
        When the folder is not a run.

    Examples
    --------
    >>> run = replay("trace.csv")  # doctest: +SKIP
    >>> run.hit_rate(cache="dentry")  # doctest: +SKIP
    >>> run.caches.tail()  # doctest: +SKIP
    >>> run.plot.cache_memory()  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        from .frames import RunFrames

        self.path = Path(path)
        self.frames: RunFrames = RunFrames(path)

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json: config, counts by cause, notes, timings."""
        return self.frames.manifest

    @property
    def plot(self) -> RunPlots:
        """The report's figures, one method each: ``run.plot.latency()``, ``run.plot.hit_rates(ax=axes)``."""
        from .run_plots import RunPlots

        return RunPlots(self.frames)

    def hit_rate(self, cache: str | None = None, cpu: int | None = None) -> float:
        """
        Share of slab allocations that took the fast path, over the whole run.

        Parameters
        ----------
        cache, cpu
            Count only this cache, only this CPU.

        Returns
        -------
        0 to 1; nan where nothing was allocated, and under SLOB, which has no fast path.

        Raises
        ------
        MetricsError
            The run has no such cache or CPU.
        """
        from .frames import df_hits

        rows = df_hits(self.frames)
        if cache is not None:
            self._check_cache(cache)
            rows = rows[rows["cache"] == cache]
        if cpu is not None:
            if not 0 <= cpu < self.frames.cpus:
                raise MetricsError(f"{self.path}: no CPU {cpu}; expected 0 to {self.frames.cpus - 1}.")
            rows = rows[rows["cpu"] == cpu]
        allocs = int(rows["allocs"].sum())
        return int(rows["hits"].sum()) / allocs if allocs and self.frames.has_fast_path else float("nan")

    def hit_rates(self) -> pd.DataFrame:
        """One row a CPU and cache: cpu, cache, hits and allocs (counts over the whole run), rate (0 to 1, or nan)."""
        from .frames import df_hits

        rows = df_hits(self.frames)
        allocs = rows["allocs"].where((rows["allocs"] > 0) & self.frames.has_fast_path)
        return rows.assign(rate=rows["hits"] / allocs)

    def _check_cache(self, cache: str) -> None:
        import difflib

        known = sorted({str(name) for name in self.frames.table("caches")["cache"]})
        if cache not in known:
            near = difflib.get_close_matches(cache, known, 1)
            hint = f"did you mean {near[0]}?" if near else "`caches` lists them."
            raise MetricsError(f'{self.path}: no cache "{cache}"; {hint}')

    def show(self, file: str, at: str | int | None = None) -> str:
        """
        What a file of /proc would have said, in the kernel's own format.

        Parameters
        ----------
        file
            slabinfo, buddyinfo, pagetypeinfo or zoneinfo.
        at
            Simulated time, like ``"1.5s"`` or in ns: the last sample at or before it. The end when not given.
        """
        from .kernel_text import render

        return render(self.frames, file, None if at is None else parse_time(at, "at"))[1]

    def table(self, name: str) -> pd.DataFrame:
        """One of the tables of docs/metrics.md, whole; columns may be added to what is returned."""
        return self.frames.table(name).copy(deep=False)

    @property
    def caches(self) -> pd.DataFrame:
        """Table caches: one row a sample and cache."""
        return self.table("caches")

    @property
    def cpu_caches(self) -> pd.DataFrame:
        """Table cpu_caches: one row a sample, CPU and cache; counters since the replay began."""
        return self.table("cpu_caches")

    @property
    def buddy(self) -> pd.DataFrame:
        """Table buddy: one row a sample, zone, order and migratetype."""
        return self.table("buddy")

    @property
    def zones(self) -> pd.DataFrame:
        """Table zones: one row a sample and zone."""
        return self.table("zones")

    @property
    def fragmentation(self) -> pd.DataFrame:
        """Table fragmentation: one row a sample, zone and order."""
        return self.table("fragmentation")

    @property
    def pcp(self) -> pd.DataFrame:
        """Table pcp, the per-CPU page lists: one row a sample, zone and CPU."""
        return self.table("pcp")

    @property
    def pageblock_map(self) -> pd.DataFrame:
        """Table pageblock_map, what lies where: one row a sample and run of pageblocks."""
        return self.table("pageblock_map")

    @property
    def pageblock_types(self) -> pd.DataFrame:
        """Table pageblock_types: one row a sample, zone and migratetype."""
        return self.table("pageblock_types")

    @property
    def latency(self) -> pd.DataFrame:
        """Table latency: one row an operation, path, CPU and cache; ``bucket_ns`` and ``bucket_count`` hold lists."""
        return self.table("latency")

    @property
    def locks(self) -> pd.DataFrame:
        """Table locks: one row a lock that was taken."""
        return self.table("locks")

    @property
    def callsites(self) -> pd.DataFrame:
        """Table callsites: one row a call site and cache."""
        return self.table("callsites")

    @property
    def failures(self) -> pd.DataFrame:
        """Table failures: one row an allocation that the model could not serve."""
        return self.table("failures")

    @property
    def events(self) -> pd.DataFrame:
        """Table events: one row a rare decision, such as a fallback, reclaim or hotplug."""
        return self.table("events")

    @property
    def percpu(self) -> pd.DataFrame:
        """Table percpu, the percpu allocator's books: one row a sample."""
        return self.table("percpu")

    @property
    def markers(self) -> pd.DataFrame:
        """Table markers: one row a marker of the trace."""
        return self.table("markers")

    def _said(self) -> tuple[str, str]:
        """The trace's name, and in a few words what replayed it."""
        from .style import shorten, visible

        config, frames = self.frames.config, self.frames
        trace = Path(str(self.manifest.get("trace", {}).get("path", ""))).name
        kernel = config.get("kernel", {}).get("name", "?")
        return shorten(visible(trace), 80), (
            f"{frames.trace_rows:,} rows, {format_time(frames.end_ns)}, under {frames.allocator.upper()} of "
            f"Linux {kernel} on {frames.cpus} CPU{'' if frames.cpus == 1 else 's'}")

    def __repr__(self) -> str:
        trace, how = self._said()
        return f"<memtrace.Run of {trace}: {how}; {self.path}>"

    def _repr_html_(self) -> str:
        """For Jupyter: what was replayed, the numbers that matter, and where the report is."""
        from .headline import headline
        from .tables import esc, table
        from .wording import for_notebook

        trace, how = self._said()
        # The report and the command line say the causes below.
        cards = [(card.what, card.value, card.more.replace("by cause below", 'by cause: manifest["counts"]'))
                 for card in headline(self.frames)]
        numbers = table(("measure", "value", "in words"), cards, words=(0, 1, 2))
        report = self.path / "report.html"
        where = (f"Report: <code>{esc(report)}</code>" if report.is_file() else
                 f"Tables, without a report: <code>{esc(self.path)}</code>")
        start = f"<br>Starting state: {esc(self.frames.start_text)}" if self.frames.start_text else ""
        return for_notebook(f"<p><b>{esc(trace)}</b>: {esc(how)}{start}</p>", numbers, f"<p>{where}</p>")
