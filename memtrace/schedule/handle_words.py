"""How ``Holdings`` stores what it knows of a handle."""

from __future__ import annotations

OBJECT_WORDS = 4  # address, bytes asked for, bytes given, call-site row << 16 | cpu
PAGE_WORDS = 2  # first pfn, order
NONE = -1
RECLAIMED = -2  # instead of a block's first pfn: the model took the page back, the trace has yet to free it
