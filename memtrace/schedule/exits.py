"""Why ``DataPlane.run_until`` returned."""

from __future__ import annotations

EXIT_HORIZON = 0
EXIT_CHUNK = 1
EXIT_MARKER = 2
EXIT_CHECK = 3
EXIT_WAKE = 4
