"""The command: ``python -m mnist_exp.run [KEY=VALUE …]``, with ``-m`` for a sweep.

Hydra composes the settings, `mnist_exp.job` trains. PyTorch is imported only once there is something to
train, so that ``--help``, ``--cfg job`` and shell completion answer at once.
"""

import os
import signal
import sys
import time
import traceback
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from mnist_exp.cli import hydra_internals, sweep
from mnist_exp.cli.messages import REPEAT, format_accuracy, job_failure_reason, user_message
from mnist_exp.cli.signals import install_signal_handlers
from mnist_exp.cli.streams import ensure_std_streams, silence_stdout
from mnist_exp.errors import Interrupted, UserError
from mnist_exp.machine.parent import exit_when_parent_dies
from mnist_exp.runs.sweeps import SweepFolder


def run_job(settings: DictConfig) -> float:
    """One run: alone, or as a job of a sweep, in whatever process the launcher chose.

    Returns:
        A score for sweepers to maximise: the last epoch's validation accuracy, or its test accuracy
        where `data.validation_size` is 0.
    """
    install_signal_handlers()
    exit_when_parent_dies()
    context = HydraConfig.get()
    in_sweep = context.mode == RunMode.MULTIRUN
    outcome: dict[str, Any] = {"overrides": " ".join(context.overrides.task)}
    start = time.perf_counter()
    try:
        choices = hydra_internals.group_choices()
        config = hydra_internals.to_config(settings)
        if in_sweep:
            sweep.check_shared_folder(Path(context.runtime.cwd), config)
        os.chdir(context.runtime.cwd)  # whatever hydra.job.chdir says, paths are relative to this folder
        from mnist_exp.cli.progress import Lines, LiveBar
        from mnist_exp.job import train_run

        display = LiveBar if sys.stdout.isatty() and not in_sweep else Lines
        result = train_run(config, choices, hydra_internals.run_files(settings), display)
        outcome.update(status="skipped" if result.skipped else "finished", **vars(result))
        if not in_sweep:
            parts = [format_accuracy(result.metrics)]
            if "validation_accuracy" in result.metrics:  # then the first part shows that one
                parts.append(f"test accuracy {result.metrics['test_accuracy']:.4f}")
            print(f"{', '.join(parts)}, test loss {result.metrics['test_loss']:.4f}; {result.folder}")
        return result.selection_score
    except BaseException as error:
        stopped = isinstance(error, Interrupted | SystemExit)
        outcome.update(status="stopped" if stopped else "failed", reason=job_failure_reason(error))
        if not in_sweep and isinstance(error, Exception):
            raise sweep.HydraBypass(error) from error
        raise
    finally:
        if in_sweep:
            outcome["seconds"] = time.perf_counter() - start
            SweepFolder(Path(context.sweep.dir)).write_result(int(context.job.num), outcome)


def main() -> None:
    """Run the command line and exit; a user's mistake gets one message and a non-zero exit code.

    Leaves no state behind, so that it can be called again in the same process (``%run`` in IPython).
    """
    debugging = "HYDRA_FULL_ERROR" in os.environ
    arguments, handlers = [*sys.argv], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sweep.started.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise its errors, not print them
    try:
        code = _run_command(debugging)
    finally:
        sys.argv[:] = arguments
        if not debugging:
            del os.environ["HYDRA_FULL_ERROR"]
        for number, handler in handlers.items():
            signal.signal(number, handler)
    sys.exit(code)


def _run_command(debugging: bool) -> int:
    code, refused = 0, None
    ensure_std_streams()
    install_signal_handlers()
    try:
        hydra_internals.start(run_job)
    except Interrupted as error:
        print(f"\nmnist_exp: {error}; finished epochs are kept. {REPEAT.capitalize()}", file=sys.stderr)
        code = 128 + error.signal_number
    except (Exception, sweep.HydraBypass) as error:
        cause = error.error if isinstance(error, sweep.HydraBypass) else error
        if isinstance(cause, BrokenPipeError):
            silence_stdout()
        message = user_message(cause)
        if debugging or message is None:
            traceback.print_exception(cause)
        else:
            print(f"mnist_exp: {message}", file=sys.stderr)
        # Permanent errors would stop every job. They are in the plan, so that make status lists no job as waiting.
        is_permanent = isinstance(cause, UserError | HydraException | ImportError | RuntimeError)
        refused = message if is_permanent and not isinstance(cause, BrokenProcessPool) else None
        code = 1
    try:
        for folder in sweep.started:
            if not sweep.print_summary(folder, refused):
                code = code or 1
        sys.stdout.flush()
    except Exception as error:  # the job results or the standard output are unavailable
        silence_stdout()
        print(f"mnist_exp: the sweep's summary cannot be shown: {job_failure_reason(error)}", file=sys.stderr)
        code = code or 1
    return code


if __name__ == "__main__":
    # One copy of this module, under its own name, so that launchers can send `run_job` to other processes.
    from mnist_exp.run import main as main_of_the_module

    main_of_the_module()
