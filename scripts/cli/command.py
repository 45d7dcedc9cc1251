"""How a command ends: with its exit status and at most one line, from its first import on.

Every command imports this module before all others. Imports take up to seconds, in which somebody may press Ctrl-C;
Python would end in a traceback then, which is not even one of KeyboardInterrupt where the import system wraps it.
"""

from __future__ import annotations

import os
import select
import signal
import sys

TYPE_CHECKING = False  # importing typing and pathlib takes as long as all else here
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT  # what a shell says of a process that SIGINT ended
REPOSITORY = __file__.removesuffix("scripts/cli/command.py")
OWN_PACKAGES = ("", "handler", "scripts", "server")
INSTALL = "scripts/setup.sh --train installs what training, packing and evaluating need"
PROGRAM = getattr(sys.modules["__main__"], "__file__", None) or ""

# pytest wants its own Ctrl-C, and nohup none
if (
    PROGRAM.startswith((f"{REPOSITORY}scripts/", f"{REPOSITORY}server/"))
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to tidy up yet


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main`; turn an expected failure into one line and exit code 2, Ctrl-C into 130.

    When the reader of standard output closes the pipe, as `head` does, the command ends without an error.
    """
    from handler.errors import ServingError
    from scripts.cli.console import ScriptError

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (ScriptError, ServingError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            code = 0
        else:
            print(f"error: {error}", file=sys.stderr)
            code = 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OWN_PACKAGES:
            raise
        print(f"error: this command needs {package}, which is not installed here: {INSTALL}", file=sys.stderr)
        code = 2
    sys.exit(code or 0)


def require(package: str) -> None:
    """Raise ModuleNotFoundError, which `run` reports, for a package that is not installed; it is not imported."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ModuleNotFoundError(name=package)


def _reader_left() -> bool:
    """Return whether nobody reads standard output any more; what is still buffered is dropped then."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True
