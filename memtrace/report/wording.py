"""Text from a trace as people can read it, on the page and in a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable


def visible(text: object, drawable: Callable[[str], bool] | None = None) -> str:
    """
    Return ``text`` with what cannot be seen spelled out.

    Control, bidirectional and other invisible characters become ``\\u202e``; an empty string becomes
    ``(no name)``. So does every character that is not ``drawable``, when that is given.
    """
    if text is None or text != text:  # a null of a table; pandas makes it a nan
        return "(none)"
    out = []
    for char in str(text):
        hidden = not drawable(char) if drawable is not None else (
            char != " " and (unicodedata.category(char)[0] in "CZ" or not char.isprintable()))
        out.append(f"\\u{ord(char):04x}" if hidden else char)
    return "".join(out) if "".join(out).strip() else "(no name)"


def shorten(text: object, width: int = 28) -> str:
    """Return ``text`` in at most ``width`` characters, cut in the middle: both ends of a name tell names apart."""
    shown = str(text)
    if len(shown) <= width:
        return shown
    head = width // 2
    return shown[:head] + "…" + shown[len(shown) - (width - 1 - head):]


NOTEBOOK_STYLE = "<style>.memtrace .scroll :is(td,th):not(.n){text-align:left}</style>"
"""Notebooks put all cells of tables to the right, as for numbers; those of ours that are words begin at the left."""


def for_notebook(*parts: str) -> str:
    """Join pieces of HTML to what a notebook shows of an object; "$" in a name does not begin a formula there."""
    return f'<div class="memtrace tex2jax_ignore mathjax_ignore">{NOTEBOOK_STYLE}{"".join(parts)}</div>'
