"""The signals by which someone ends a command: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def ending_signals() -> tuple[signal.Signals, ...]:
    """Returns the signals that end a command; SIGHUP is none of them under nohup."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hangs_up else ()))


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end a command as Ctrl-C does: by a KeyboardInterrupt in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:
            signal.signal(signum, signal.SIG_IGN)  # the shell and the kernel both send it
        raise KeyboardInterrupt

    handled = [s for s in ending_signals() if s != signal.SIGINT]
    previous = {s: signal.signal(s, interrupt) for s in handled}
    try:
        yield
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


@contextmanager
def children_without_hangup() -> Iterator[None]:
    """Spares the processes that are started meanwhile the SIGHUP of a closed terminal: this process ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # a child inherits the mask
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Puts the handlers of ending signals back in the end: a library, as Ray does, may set its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in ending_signals()}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
