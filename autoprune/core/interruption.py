"""SIGTERM and SIGHUP, which clusters send before they take a machine back, end work as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class _Interrupt:
    """A handler that raises ``KeyboardInterrupt``."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._process = os.getpid()

    def __call__(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # of someone's worker that was forked off, who knows nothing of this
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
        raise KeyboardInterrupt


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``KeyboardInterrupt`` within; afterwards they do what they would have done.

    So what runs within saves itself, and the process ends as its sender wants, by the handler that was there before if
    there was one. Signals that are ignored (``nohup``) stay ignored. Only the main thread can do this; elsewhere, and
    within itself, it does nothing.
    """
    interrupt = _Interrupt()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN) and not isinstance(handler, _Interrupt):
                before[number] = handler
                signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if interrupt.received is not None:
            for stream in (sys.stdout, sys.stderr):  # the signal may end the process here and now
                if stream is not None:
                    stream.flush()
            signal.raise_signal(interrupt.received)


@contextmanager
def handler_kept(number: int) -> Iterator[None]:
    """Put the handler of a signal back that something within replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(number, before)
