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
    if multiprocessing.current_process().name == "MainProcess":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and psutil.pid_exists(parent):  # Windows never changes a parent's number
            time.sleep(1)
        os._exit(1)  # every file is written whole or not at all, so any instant is a safe one

    threading.Thread(target=watch, daemon=True).start()
