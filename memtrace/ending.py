"""Being told to end, by a signal, as an exception: so that what is open is closed, and nothing half-written stays."""

from __future__ import annotations

import os
import signal
import sys
import threading

TOLD_TO_END = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SOON_S = 0.01


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
    usual = sys.unraisablehook
    sys.unraisablehook = lambda lost: _again(lost.exc_value) or usual(lost)


def ending() -> None:
    """The work is done, or taken back: from now on nothing interrupts what is left to be closed."""
    for number in (signal.SIGINT, *TOLD_TO_END):
        signal.signal(number, signal.SIG_IGN)


def _again(lost: BaseException | None) -> bool:
    """Send a signal again that came where Python drops exceptions, as in a weak reference's callback."""
    if not isinstance(lost, Ended | KeyboardInterrupt):
        return False
    number = signal.SIGINT if isinstance(lost, KeyboardInterrupt) else signal.Signals[lost.signal]
    if isinstance(lost, Ended):
        signal.signal(number, _raise)
    soon = threading.Timer(SOON_S, os.kill, (os.getpid(), number))
    soon.daemon = True
    soon.start()
    return True


def _raise(number: int, frame: object) -> None:
    # `timeout` tells a process twice, itself and as one of its group: the second must not stop the cleaning up.
    for each in TOLD_TO_END:
        signal.signal(each, _nothing)
    raise Ended(number)


def _nothing(number: int, frame: object) -> None:
    """Not SIG_IGN, which programs that are started would inherit."""
