"""Standard output and error, whatever they are connected to."""

import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mnist_exp.errors import UserError


def ensure_std_streams() -> None:
    """Replace closed streams with the null device, and characters that a stream cannot encode with "?"."""
    logging.raiseExceptions = False  # a log line that cannot be written is not worth a traceback
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


def silence_stdout() -> None:
    """Discard what is still to be printed, or Python would fail once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a script's main function and exit with its code; what the user can put right gets a line, no traceback."""
    ensure_std_streams()
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        code = 130
    except (UserError, OSError) as error:
        if isinstance(error, OSError):
            silence_stdout()
        code = 1
        if not isinstance(error, BrokenPipeError):  # "| head" is no fault
            print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
    sys.exit(code)
