"""Worker processes that do not outlive their parent. Imports no torch."""

import functools
import multiprocessing
import os
import threading
import time

import psutil


@functools.cache
def exit_when_parent_dies() -> None:
    """In a worker process: exit soon after the parent has died."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    number = parent.pid  # of when this process was made: it may have died since
    assert number is not None

    def watch() -> None:
        while os.getppid() == number and psutil.pid_exists(number):  # Windows never changes a parent's number
            time.sleep(1)
        os._exit(1)  # every file is written whole or not at all, so any instant is a safe one

    threading.Thread(target=watch, daemon=True).start()
