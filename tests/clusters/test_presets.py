"""The launchers' presets, and what is said where their packages or services are missing."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import DictConfig

from mnist_exp.cli import sweep
from mnist_exp.cli.hydra_internals import CONFIG_FOLDER
from mnist_exp.cli.messages import user_message
from mnist_exp.runs.sweeps import SweepFolder
from tests.conftest import command, composed

PROJECT = CONFIG_FOLDER.parent
LAUNCHERS = sorted(path.stem for path in (CONFIG_FOLDER / "hydra" / "launcher").glob("*.yaml"))


def launcher(*overrides: str) -> DictConfig:
    launcher: DictConfig = composed(*overrides, return_hydra_config=True).hydra.launcher
    return launcher


def test_there_is_a_complete_preset_for_each_engine() -> None:
    assert LAUNCHERS == ["basic", "joblib", "ray", "submitit_local", "submitit_slurm"]
    for name in LAUNCHERS:
        text = (CONFIG_FOLDER / "hydra" / "launcher" / f"{name}.yaml").read_text()
        assert re.search("^_target_: ", text, re.MULTILINE) and text.startswith("# "), name


def test_a_job_takes_its_threads_as_cpus_and_a_gpu_only_on_cuda() -> None:
    for device, gpus in (("cpu", None), ("auto", None), ("cuda", 1)):
        slurm = launcher("hydra/launcher=submitit_slurm", f"device={device}")
        ray = launcher("hydra/launcher=ray", f"device={device}").ray.remote
        assert (slurm.cpus_per_task, slurm.gpus_per_node) == (ray.num_cpus, ray.num_gpus) == (1, gpus)
    assert launcher("hydra/launcher=submitit_slurm", "device.threads=4").cpus_per_task == 4
    changed = launcher("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5", "hydra.launcher.partition=x")
    assert (changed.timeout_min, changed.partition, changed.array_parallelism) == (5, "x", 32)


@pytest.mark.parametrize(("name", "extra"), [("ray", "ray"), ("submitit_slurm", "slurm"), ("submitit_local", "slurm")])
def test_a_launcher_whose_extra_is_missing_names_it(name: str, extra: str, tmp_path: Path) -> None:
    if find_spec({"ray": "ray", "slurm": "submitit"}[extra]):
        pytest.skip(f"the extra {extra} is installed here")
    done = command("-m", "model=mlp", "epochs=1", f"hydra/launcher={name}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"mnist_exp: an extra is needed: pip install -e '.[{extra}]'\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("Unknown plugin class : 'hydra_plugins.hydra_ray_launcher.x.RayLauncher'"), "'.[ray]'"),
        (ModuleNotFoundError("No module named 'ray'"), "'.[ray]'"),
        (RuntimeError("Unknown plugin class : 'hydra_plugins.hydra_submitit_launcher.x.SlurmLauncher'"), "'.[slurm]'"),
        (ModuleNotFoundError("No module named 'submitit'"), "'.[slurm]'"),
        (RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?'), "on a login node"),
        (RuntimeError("sbatch: error: invalid partition\nsbatch: fatal"), "sbatch: error: invalid partition)"),
        (ConnectionError("Could not find any running Ray instance."), "ray start --head"),
        (RuntimeError("Job 1_0 (task: 0) has not produced any output (state: X)\nlog"), "X); the other"),
    ],
)
def test_what_plugins_raise_becomes_a_sentence(error: Exception, sentence: str) -> None:
    said = user_message(error)
    assert said is not None and sentence in said and len(said.splitlines()) == 1


def test_the_jobs_of_a_sweep_are_known_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model=glob(lenet*)", "protocol=published", "epochs=1", "seed=7", "optimizer.lr=-1,-2")
    done = command("-m", *words, "hydra/launcher=basic", cwd=tmp_path)
    assert "Jobs: 4 failed" in done.stdout
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    rest = ["protocol=published", "epochs=1", "seed=7"]
    assert SweepFolder(folder).read_plan().jobs == [
        [f"model={model}", *rest, f"optimizer.lr={rate}"] for model in ("lenet5", "lenet5r") for rate in (-1, -2)
    ]
    assert SweepFolder(tmp_path).read_plan().jobs == []
    (folder / "jobs" / "3.json").unlink()  # as if SLURM had killed it
    assert not sweep.print_summary(SweepFolder(folder), None)
    assert "Jobs: 3 failed, 1 not finished (make status shows more)" in capsys.readouterr().out


def test_the_extras_change_no_version_that_numbers_depend_on() -> None:
    locks = [(PROJECT / name).read_text() for name in ("requirements.lock", "requirements-clusters.lock")]
    for package in ("torch", "numpy", "hydra-core", "omegaconf", "safetensors", "filelock"):
        usual, clusters = (re.findall(rf"^{package}==.*", text, re.MULTILINE) for text in locks)
        assert usual == clusters != []
    assert not any("://" in text for text in locks)
