"""A process of this program, however it was started: its streams, its parent, its end."""

import functools
import io
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def mend_streams() -> None:
    """See that there is something to print to: a closed stream forgets, and none refuses a character."""
    logging.raiseExceptions = False  # nor is it worth a traceback that a log's line finds no room
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor < number:  # the input was closed, too
                descriptor = os.dup2(descriptor, number)
            os.set_inheritable(descriptor, True)  # joblib's workers need one
            setattr(sys, name, os.fdopen(descriptor, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def forget_output() -> None:
    """Have what is still to be printed go nowhere, or Python would fail once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave(main: Callable[[], int]) -> NoReturn:
    """Do what a script does, and exit by its code; where nobody takes its output, without a traceback."""
    mend_streams()
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        code = 130
    except OSError as error:
        forget_output()
        code = 1
        if not isinstance(error, BrokenPipeError):  # "| head" is no fault
            print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
    sys.exit(code)


@functools.cache
def end_with_parent() -> None:
    """Have a worker end soon after its parent, were that killed: it would wait, or work, for nobody."""
    if multiprocessing.current_process().name == "MainProcess":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # every file is written whole or not at all, so any instant is a safe one

    threading.Thread(target=watch, daemon=True).start()
