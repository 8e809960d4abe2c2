"""``python -m memtrace``."""

from .cli.main import main

main()
