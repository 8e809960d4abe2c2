"""What this machine, and this user, can record; and if nothing, exactly what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from memtrace.errors import ConfigError

NEEDED = ("kmem:kmalloc", "kmem:kfree", "kmem:kmem_cache_alloc", "kmem:kmem_cache_free", "kmem:mm_page_alloc",
          "kmem:mm_page_free")  # fmt: skip
USEFUL = ("kmem:mm_page_free_batched", "kmem:mm_page_alloc_zone_locked", "kmem:mm_page_pcpu_drain",
          "kmem:mm_page_alloc_extfrag", "percpu:percpu_alloc_percpu", "percpu:percpu_free_percpu",
          "percpu:percpu_create_chunk", "percpu:percpu_destroy_chunk")  # fmt: skip
OLDER = ("kmem:kmalloc_node", "kmem:kmem_cache_alloc_node", "kmem:mm_page_free_direct", "kmem:mm_pagevec_free")
"""Of kernels that have them; the others are not asked for them."""
RENAMED = {"kmem:mm_page_free": "kmem:mm_page_free_direct", "kmem:mm_page_free_batched": "kmem:mm_pagevec_free"}
FIRST_PERF = (5, 8)
"""``perf record --control`` with file names came in 5.10, with descriptors in 5.8."""
_CAP_SYS_ADMIN = 1 << 21
_CAP_PERFMON = 1 << 38
RECORDERS = ("perf", "tracefs")


@dataclass(frozen=True)
class Host:
    """
    The files and facts of a machine, so that tests can make one up.

    Attributes
    ----------
    tracefs
        Where tracefs is mounted, or should be.
    """

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    tracefs: Path = Path("/sys/kernel/tracing")
    find_program: Callable[[str], str | None] = shutil.which
    perf_version: Callable[[], tuple[int, ...]] = field(default=lambda: perf_version())

    def capable(self, bits: int) -> bool:
        """Whether this process has one of these capabilities."""
        try:
            status = (self.proc / "self" / "status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
        return found is not None and bool(int(found[1], 16) & bits)

    def paranoid(self) -> int:
        try:
            return int((self.proc / "sys/kernel/perf_event_paranoid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 2


@dataclass(frozen=True, slots=True)
class Plan:
    """
    How to record.

    Attributes
    ----------
    recorder
        One of RECORDERS.
    events
        ``system:name``, in the order in which they are asked for.
    missing
        Events that this kernel does not have.
    """

    recorder: str
    events: tuple[str, ...]
    missing: tuple[str, ...]


def perf_version() -> tuple[int, ...]:
    """Version of the installed perf; (0,) when it does not say."""
    run = subprocess.run(["perf", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)", run.stdout)
    return (int(found[1]), int(found[2])) if found else (0,)


def plan(host: Host, wanted: str = "auto") -> Plan:
    """
    Chooses a recorder.

    Parameters
    ----------
    wanted
        ``auto`` (perf when it can be used, else tracefs) or one of RECORDERS.

    Raises
    ------
    ConfigError
        Nothing that was wanted can be used; says what is missing and how to get it.
    """
    reasons = []
    for recorder in RECORDERS if wanted == "auto" else (wanted,):
        obstacle = _perf_obstacle(host) if recorder == "perf" else _tracefs_obstacle(host)
        if not obstacle:
            return _with_events(host, recorder)
        reasons.append(f"{recorder}: {obstacle}")
    raise ConfigError("cannot record on this machine. " + " ".join(reasons))


def _perf_obstacle(host: Host) -> str:
    """Why perf cannot record, as a sentence; "" when it can."""
    if host.find_program("perf") is None:
        return "the program is not installed; expected it in PATH. Install linux-perf (Debian) or linux-tools (Ubuntu)."
    version = host.perf_version()
    if version < FIRST_PERF:
        shown = ".".join(map(str, version))
        return f"version {shown} is too old; expected {'.'.join(map(str, FIRST_PERF))} or later. Install a later one."
    if not host.capable(_CAP_SYS_ADMIN | _CAP_PERFMON) and host.paranoid() > -1:
        return (f"no right to record all CPUs (user {os.geteuid()}, perf_event_paranoid {host.paranoid()}); expected "
                "CAP_PERFMON, root or perf_event_paranoid -1. Run as root: sudo memtrace record …")  # fmt: skip
    return _events_obstacle(host)


def _events_obstacle(host: Host) -> str:
    events = host.tracefs / "events"
    try:
        os.listdir(events)
    except FileNotFoundError:
        return (f"no event formats at {events}; expected tracefs there. Run as root: "
                f"mount -t tracefs nodev {host.tracefs}")  # fmt: skip
    except PermissionError:
        return (f"no permission to read {events} (user {os.geteuid()}); expected root or a tracefs group. "
                "Run as root: sudo memtrace record …")  # fmt: skip
    if not (events / "kmem").is_dir():
        return f"no {events / 'kmem'}; expected a kernel with CONFIG_TRACEPOINTS. Use another kernel."
    return ""


def _tracefs_obstacle(host: Host) -> str:
    """Why tracing cannot be used, as a sentence; "" when it can."""
    obstacle = _events_obstacle(host)
    if obstacle:
        return obstacle
    instances = host.tracefs / "instances"
    if not os.access(instances, os.W_OK):
        return (f"no permission to write {instances} (user {os.geteuid()}); expected root. "
                "Run as root: sudo memtrace record …")  # fmt: skip
    return ""


def _with_events(host: Host, recorder: str) -> Plan:
    def has(event: str) -> bool:
        return host.tracefs.joinpath("events", *event.split(":")).is_dir()

    events = tuple(event for event in (*NEEDED, *USEFUL, *OLDER) if has(event))
    missing = tuple(event for event in (*NEEDED, *USEFUL) if not has(event) and not has(RENAMED.get(event, event)))
    return Plan(recorder, events, missing)
