"""A headless Chromium that opens a page for the tests, and tells what the page did."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = frozenset({"meta", "br", "hr", "link", "img"})
SECONDS = 1800
"""So that a browser that hangs ends, however busy the machine is."""


class Reader(HTMLParser):
    """Collects elements, ids and what would be fetched; checks that elements close as they opened."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in ("src", "href", "xlink:href", "srcset", "data", "action") and not (value or "").startswith("#"):
                self.fetched.append(value or "")
            if key.startswith("on"):
                self.handlers.append(key)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def read_html(html: str) -> Reader:
    """Elements and text of a page, which must be whole."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


@dataclass(frozen=True)
class Opened:
    """
    A page after a browser has opened it.

    ``console`` holds the lines of its console, ``requests`` the addresses that the page asked the network for (its
    own file is none, nor is what the browser asks for itself), ``dom`` its elements as the browser understood them.
    """

    console: list[str]
    requests: list[str]
    html: str
    dom: Reader = field(repr=False)


def open_page(page: Path, scratch: Path) -> Opened:
    """Open a page; ``scratch`` is an empty folder for the browser's profile. No request leaves the machine."""
    log = scratch / "network.json"
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--user-data-dir={scratch / 'profile'}", "--enable-logging=stderr", f"--log-net-log={log}",
         "--net-log-capture-mode=Everything", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=SECONDS, check=True)
    console = [line for line in done.stderr.splitlines() if re.search(r":CONSOLE[:(]", line)]
    return Opened(console, _requests(log), done.stdout, read_html(done.stdout))


def _requests(log: Path) -> list[str]:
    """Addresses that pages asked for. What a browser wants for itself comes from no origin, and is not theirs."""
    network = json.loads(log.read_text(encoding="utf-8"))
    start = network["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event["params"] for event in network["events"] if event["type"] == start and "url" in event["params"]]
    return [job["url"] for job in asked if job.get("initiator") != "not an origin"]
