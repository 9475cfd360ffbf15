"""SIGINT and SIGTERM."""

import signal
import threading

from mnist_exp.errors import Interrupted


def install_signal_handlers() -> None:
    """Turn SIGINT and SIGTERM into `Interrupted`, unless a cluster's launcher has its own handler for them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # SLURM sends SIGTERM to a job that it preempts, and requeues it only if it then has to kill it: so
        # submitit ignores SIGTERM, and SIGKILL is safe. Before a time limit, SIGUSR2 has submitit requeue
        # the job and end it by SystemExit; Ray's workers are ended in the same way.
        current = signal.getsignal(number)
        if not callable(current) or current in (signal.default_int_handler, _interrupt):
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    # Every file is written whole or not at all, so any instant is a safe one to stop at. A second signal
    # must not cut the way out short, nor may a thread of joblib's that finds its workers gone print about it.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    threading.excepthook = lambda _: None
    raise Interrupted(number)
