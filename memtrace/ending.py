"""Being told to end, by a signal, as an exception: so that what is open is closed, and nothing half-written stays."""

from __future__ import annotations

import signal

TOLD_TO_END = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(SystemExit):
    """
    Raised where this process is when a signal tells it to end.

    Attributes
    ----------
    code
        128 + the signal's number, as shells have it.
    signal
        The signal's name.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


def end_in_order() -> None:
    """From now on SIGTERM and SIGHUP raise `Ended`, once; one that is ignored, as under nohup, stays so."""
    for number in TOLD_TO_END:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def _raise(number: int, frame: object) -> None:
    # `timeout` tells a process twice, itself and as one of its group: the second must not stop the cleaning up.
    for each in TOLD_TO_END:
        signal.signal(each, _nothing)
    raise Ended(number)


def _nothing(number: int, frame: object) -> None:
    """Not SIG_IGN, which programs that are started would inherit."""
