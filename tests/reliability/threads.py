"""Stop single threads of another process, as a debugger does: SIGSTOP stops all of them.

Linux alone, for a process that this one may trace (its own descendants, or root); raises NotPermitted elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.reliability.surroundings import NotPermitted

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17  # requests of ptrace(2)
ALL_KINDS = 0x40000000  # __WALL: threads too
REAP_S = 0.05  # the parent of a process that ended learns it when the tracer has seen its threads end


@contextlib.contextmanager
def helpers_stopped(pid: int) -> Iterator[None]:
    """Stop all threads of an idle process but its first one, until the end or until the process has ended."""
    threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir() if entry.name != str(pid)]
    began, over, problem = threading.Event(), threading.Event(), [0]

    def trace() -> None:  # one thread must make all the calls
        problem[0] = _stop(threads)
        began.set()
        while not over.wait(REAP_S):
            _reap(threads)
        for number in threads:
            _ptrace(DETACH, number)
        _reap(threads)

    tracer = threading.Thread(target=trace)
    tracer.start()
    began.wait()
    try:
        if problem[0]:
            raise NotPermitted(f"threads cannot be stopped: {os.strerror(problem[0])}")
        yield
    finally:
        over.set()
        tracer.join()


def _stop(threads: Sequence[int]) -> int:
    """Stop threads; return the number of the error, 0: there is none."""
    for number in threads:
        if error := _ptrace(SEIZE, number) or _ptrace(INTERRUPT, number):
            return error
    for number in threads:
        os.waitpid(number, ALL_KINDS)
    return 0


def _reap(threads: Sequence[int]) -> None:
    """Take note of threads that have ended: until then their process does not end for its parent."""
    for number in threads:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(number, ALL_KINDS | os.WNOHANG)


def _ptrace(request: int, thread: int) -> int:
    if not sys.platform.startswith("linux"):
        raise NotPermitted("threads can be stopped on Linux alone")
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.restype = ctypes.c_long
    arguments = (ctypes.c_long(request), ctypes.c_long(thread), ctypes.c_void_p(0), ctypes.c_void_p(0))
    return ctypes.get_errno() if library.ptrace(*arguments) < 0 else 0
