"""What a person sees on a terminal while a run trains."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pandas as pd


def test_a_terminal_of_80_columns_has_room_for_all_that_a_bar_says(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    words = ["-m", "mnist_exp.run", "model=lenet5", "protocol=published", "epochs=2"]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, stdout=theirs, env=environment | {"TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    except OSError:  # Linux's way to say that nobody writes any more
        pass
    os.close(ours)
    assert process.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert "…" not in plain and lines[0].startswith("lenet5-published-sgd-seed0-")
    (metrics,) = tmp_path.glob("outputs/runs/*/metrics.csv")
    accuracies = pd.read_csv(metrics)["test_accuracy"]
    after = [f"  test accuracy {accuracy:.4f}" for accuracy in accuracies]
    for epoch, accuracy in ((1, ""), (2, after[0]), (2, after[1])):
        status = rf"[━╸╺ ]{{9,}} epoch {epoch}/2  train loss \d\.\d{{4}}{accuracy} [-\d]:[-\d]{{2}}:[-\d]{{2}} left"
        assert any(re.fullmatch(status, line) for line in lines), lines
