"""Where a replay starts: /proc and /sys files, and exact dumps, read into plain data."""

from .exact import ExactDump, StartFiles, find_start, read_exact
from .proc import ProcSnapshot, read_proc

__all__ = ["ExactDump", "ProcSnapshot", "StartFiles", "find_start", "read_exact", "read_proc"]
