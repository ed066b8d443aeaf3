"""A thread for the user's code that takes turns with its caller: one of the two runs, the other waits."""

import threading
from collections.abc import Callable


class Unwound(BaseException):
    """Ends the user's code where it stands. `except Exception` does not catch it, and `finally` runs."""


class TaskThread:
    """Runs a function in a thread of its own, from one hand-over to the next."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._task_may_run, self._caller_may_run = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._work, name="task", daemon=True)
        self._is_unwinding = self._has_ended = False
        self._error: BaseException | None = None

    def advance(self) -> bool:
        """Lets the function run until it hands over; returns False if it has ended instead. Raises its error."""
        if self._has_ended:
            return False
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._task_may_run.release()
        self._caller_may_run.acquire()
        if self._has_ended:
            self._thread.join()
            error, self._error = self._error, None  # whoever holds the error holds the frames of the user's code
            if error is not None:
                raise error
        return not self._has_ended

    def hand_over(self) -> None:
        """Called by the function: lets the caller run until it calls `advance` again. Raises Unwound."""
        self.check()
        self._caller_may_run.release()
        self._task_may_run.acquire()
        self.check()

    def check(self) -> None:
        """Called by the function: raises Unwound if the caller wants no more of it."""
        if self._is_unwinding:
            raise Unwound

    def close(self) -> None:
        """Unwinds the function, if it runs, and waits for the end of its thread."""
        self._is_unwinding = True
        if self._thread.ident is not None:
            self._task_may_run.release()
            self._thread.join()
        self._has_ended = True

    def _work(self) -> None:
        try:
            self._function()
        except Unwound:
            pass  # as the caller wanted
        except BaseException as error:  # it is raised again in the caller's thread
            self._error = error
        finally:
            self._has_ended = True
            self._caller_may_run.release()
