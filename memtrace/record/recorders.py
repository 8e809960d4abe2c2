"""
The two recorders: perf, and the kernel's own tracefs.

A recorder is made ready by ``with``; between ``begin`` and ``end`` events are recorded; ``result`` is then a file
that `open_trace` reads.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import threading
import time
from pathlib import Path

from memtrace.errors import ConfigError

from .rights import Host, Plan

ACK_SECONDS = 60.0
"""perf answers within milliseconds; on a machine out of memory it may take long."""
_BLOCK = 1 << 20


class PerfRecorder:
    """
    ``perf record`` of all CPUs, switched on and off through its control descriptors.

    Parameters
    ----------
    folder
        For its files.
    buffer_bytes
        Ring buffer of each CPU.
    """

    def __init__(self, plan: Plan, folder: Path, buffer_bytes: int) -> None:
        self._data = folder / "perf.data"
        self._log = folder / "perf.log"
        pages = 1 << max(buffer_bytes // os.sysconf("SC_PAGE_SIZE") - 1, 0).bit_length()
        self._command = ["perf", "record", "-q", "-a", "-c", "1", "-m", str(pages), "-D", "-1", "-k", "CLOCK_MONOTONIC",
                         "-o", str(self._data)]  # fmt: skip
        for event in plan.events:
            self._command += ["-e", event]
        self._perf: subprocess.Popen[bytes] | None = None
        self._control = -1
        self._answer = -1

    def __enter__(self) -> PerfRecorder:
        control, self._control = os.pipe()
        self._answer, answer = os.pipe()
        command = [*self._command, "--control", f"fd:{control},{answer}"]
        try:
            with open(self._log, "wb") as log:
                # In a session of its own: an interrupt on the terminal is for us, who then end it in order.
                self._perf = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(control, answer),
                    start_new_session=True,
                )  # fmt: skip
        finally:
            os.close(control)
            os.close(answer)
        return self

    def __exit__(self, *error: object) -> None:
        if self._perf is not None and self._perf.poll() is None:
            self._perf.terminate()
            self._perf.wait()
        for fd in (self._control, self._answer):
            if fd >= 0:
                os.close(fd)

    def begin(self) -> None:
        self._tell("enable")

    def end(self) -> None:
        self._tell("disable")

    def result(self) -> Path:
        assert self._perf is not None
        self._tell("stop", answered=False)
        code = self._perf.wait()
        if code not in (0, -15) or not self._data.exists():
            raise ConfigError(f"perf ended with {code}: {self._said()}; expected a recording. Try --recorder tracefs.")
        return self._data

    def _tell(self, word: str, answered: bool = True) -> None:
        try:
            os.write(self._control, f"{word}\n".encode())
        except BrokenPipeError:
            raise ConfigError(f"perf has ended: {self._said()}; expected it to record. "
                              "Try --recorder tracefs.") from None  # fmt: skip
        if not answered:
            return
        ready, _, _ = select.select([self._answer], [], [], ACK_SECONDS)
        if not ready or b"ack" not in os.read(self._answer, 64):
            raise ConfigError(f'perf does not answer "{word}": {self._said()}; expected it to record. '
                              "Try --recorder tracefs.")  # fmt: skip

    def _said(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        full = shutil.disk_usage(self._log.parent).free == 0
        return " ".join(text.split())[:300] or ("the disk is full" if full else "it says nothing")


class TracefsRecorder:
    """
    An instance of the kernel's tracing of its own, so that nobody else's is disturbed, read while it runs.

    Parameters
    ----------
    folder
        For its files.
    buffer_bytes
        Ring buffer of each CPU.
    """

    def __init__(self, host: Host, plan: Plan, folder: Path, buffer_bytes: int) -> None:
        self._instance = host.tracefs / "instances" / f"memtrace-{os.getpid()}"
        self._events = plan.events
        self._text = folder / "trace.txt"
        self._buffer_kb = max(buffer_bytes >> 10, 64)
        self._stop = threading.Event()
        self._reader: threading.Thread | None = None
        self.hashed = False
        """Whether pointers could not be had unhashed."""

    def __enter__(self) -> TracefsRecorder:
        self._instance.mkdir()
        try:
            self._write("tracing_on", "0")
            self._write("buffer_size_kb", str(self._buffer_kb))
            self._write("trace_clock", "mono")
            try:
                self._write("options/hash-ptr", "0")
            except OSError:
                self.hashed = True
            for event in self._events:
                self._write(f"events/{event.replace(':', '/')}/enable", "1")
        except BaseException:
            self._instance.rmdir()
            raise
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._write("tracing_on", "0")
        self._stop.set()
        if self._reader is not None:
            self._reader.join()
        self._instance.rmdir()

    def begin(self) -> None:
        self._write("tracing_on", "1")

    def end(self) -> None:
        self._write("tracing_on", "0")

    def result(self) -> Path:
        assert self._reader is not None
        self._stop.set()
        self._reader.join()
        return self._text

    def _write(self, name: str, value: str) -> None:
        (self._instance / name).write_text(value, encoding="ascii")

    def _drain(self) -> None:
        """Copies trace_pipe until recording has ended and nothing is left in it."""
        pipe = os.open(self._instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        try:
            with open(self._text, "wb") as out:
                while True:
                    ended = self._stop.is_set()  # asked before reading: what came in until then is still read
                    try:
                        data = os.read(pipe, _BLOCK)
                    except BlockingIOError:
                        data = b""
                    if data:
                        out.write(data)
                    elif ended:
                        return
                    else:
                        time.sleep(0.01)
        finally:
            os.close(pipe)
