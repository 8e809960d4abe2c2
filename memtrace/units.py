"""Sizes and times as people write them, and the two constants everything counts in."""

from __future__ import annotations

import re

from .errors import ConfigError

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

_SIZE = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIME = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "": 10**9}


def parse_size(text: str | int, what: str = "size") -> int:
    """Bytes from ``512M``, ``1.5G``, ``64KiB`` or a plain number of bytes."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGTB]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(f'{what} "{text}" is not a size; expected a number with K, M, G or T, like 512M.')
    return int(float(match[1]) * _SIZE[match[2].upper()])


def parse_time(text: str | int, what: str = "time") -> int:
    """Nanoseconds from ``10ms``, ``1.5s``, ``200us`` or ``50ns``; a bare number is seconds."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ns|us|ms|s|m|)\s*", text)
    if match is None:
        raise ConfigError(f'{what} "{text}" is not a time; expected a number with ns, us, ms or s, like 10ms.')
    return round(float(match[1]) * _TIME[match[2]])


def format_size(n_bytes: float) -> str:
    """``1.5 GiB`` from bytes, three significant digits."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{_three_digits(value)} {unit}"
        value /= 1024
    return f"{_three_digits(value)} TiB"


def format_time(t_ns: float) -> str:
    """``1.5 ms`` from nanoseconds, three significant digits."""
    value = float(t_ns)
    for unit in ("ns", "µs", "ms"):
        if abs(value) < 1000:
            return f"{_three_digits(value)} {unit}"
        value /= 1000
    return f"{_three_digits(value)} s"


def _three_digits(value: float) -> str:
    """Three significant digits, never as 1.02e+03."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
