"""What the clock needs of whoever decides the operations: one itinerary for each request."""

from __future__ import annotations

import cython
import numpy as np

from memtrace.errors import ModelError
from memtrace.mm.itinerary import Itinerary
from memtrace.trace.requests import Requests


@cython.cclass
class Decider:
    """
    Decides the requests of one chunk at a time, in row order, without knowing the time.

    ``decide(i)`` leaves in ``it`` what request i did (an empty itinerary when it did nothing that takes
    time), and in ``cache`` and ``site`` whose it was (-1: nobody's).
    """

    it: Itinerary
    cache: cython.int
    site: cython.int
    requests: Requests | None
    n: cython.int
    """Requests in the chunk that is loaded."""
    row: cython.longlong[:]
    ts_ns: cython.longlong[:]
    cpu: cython.short[:]
    op: cython.uchar[:]
    last_ts_ns: cython.longlong

    def __init__(self) -> None:
        self.it = Itinerary()
        self.cache = -1
        self.site = -1
        self.requests = None
        self.n = 0
        self.last_ts_ns = 0

    def load(self, requests: Requests) -> None:
        """
        Take the next chunk of requests.

        Raises
        ------
        ModelError
            When its times go backwards.
        """
        n: int = len(requests)
        if n:
            late = np.flatnonzero(np.diff(requests.ts_ns, prepend=self.last_ts_ns) < 0)
            if len(late):
                raise ModelError(f"a request at {requests.ts_ns[late[0]]} ns follows a later one",
                                 int(requests.row[late[0]]), int(requests.ts_ns[late[0]]))
            self.last_ts_ns = int(requests.ts_ns[n - 1])
        self.requests = requests
        self.n = n
        # As memoryviews, because their items are Python ints when interpreted, not numpy's.
        self.row = requests.row.data
        self.ts_ns = requests.ts_ns.data
        self.cpu = requests.cpu.data
        self.op = requests.op.data

    @cython.ccall
    def decide(self, i: cython.int) -> cython.int:
        """Execute request i; the path it took."""
        raise NotImplementedError

    @cython.ccall
    def waited(self, site: cython.int, wait_ns: cython.longlong) -> cython.void:
        """Be told that an operation of ``site`` waited for locks."""

    def settle(self, t_ns: int) -> None:
        """Take note of what a daemon has just done to the model, at ``t_ns``."""
