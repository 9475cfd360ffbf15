"""Write one zip file with all that somebody needs to check the results: ``make archive``.

It holds the source as it is, the runs with their weights, the report, and a page that says how to check them. The same
files give the same bytes.
"""

import argparse
import hashlib
import math
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.errors import UserError
from mnist_exp.files import PROJECT, TEMPORARY
from mnist_exp.machine.fingerprint import local_files
from mnist_exp.report.build import build
from mnist_exp.report.collect import Collection, collect
from mnist_exp.runs.read import Run
from mnist_exp.settings.schema import default_data_root

NEW_SOURCES = {".py", ".yaml", ".toml", ".md", ".txt", ".json", ".csv", ".lock", ".cfg", ".sh"}
"""Of the files that Git does not know yet, those that belong to the source."""
PAGE = """# How to check these results

```
make setup
make verify RUNS=outputs/runs/{quickest}
```

The first command installs the locked versions of all packages (Python 3.11 to 3.14). The second trains a run again from
its own record, fetching its data, and ends with `equal, bit for bit`, on any x86-64 processor with AVX2. RUNS takes any
of the runs below, or several; for runs on folders of images, add their folders:
`RUNS="outputs/runs/NAME --train-dir DIR --test-dir DIR"`.

- **Source**: {state}.
- **Results**: `outputs/report/index.html`; every number in it is made from the runs by `make report`.
- **Licence** and how to cite: `LICENSE`, `CITATION.cff`. What each file is: `README.md`, `docs/`.
- **Data**: {data}. The SHA-256 of each file is in the run's `run.json`.
- **Software**: {packages}; all versions are in `requirements.lock`. **Processors**: {processors}.
- **Integrity**: `sha256sum -c SHA256SUMS`.

| run | epochs | test accuracy | minutes |
| --- | ---: | ---: | ---: |
{table}
"""


def main() -> int:
    """Collect the files, and write them in order, without times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("outputs/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--data", type=Path, default=default_data_root(), help="folder of the images (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/archive.zip"), help="the file to write (%(default)s)")
    arguments = parser.parse_args()
    if not arguments.runs.is_dir() or not (collection := collect(arguments.runs)).groups:
        raise UserError(f"{arguments.runs} has no finished runs; train some (make sweep)")
    runs = sorted((run for group in collection.groups for run in group.runs), key=lambda run: run.folder.name)
    files, state, changes = _source()
    for run in runs:
        for path in (each for each in _below(run.folder) if not each.name.startswith("checkpoint")):
            files[f"outputs/runs/{run.folder.name}/{path.relative_to(run.folder)}"] = path.read_bytes()
        metrics = [name.rpartition(".")[0] for name in run.record.config.get("metrics", ()) if "." in name]
        for module, path in local_files(run.record.identity, metrics).items():
            if not path.is_relative_to(PROJECT):  # a component's: it goes beside mnist_exp/
                ending = "/__init__.py" if path.name == "__init__.py" else path.suffix
                files[module.replace(".", "/") + ending] = path.read_bytes()
    with tempfile.TemporaryDirectory() as report:
        build(arguments.runs, Path(report), arguments.data)
        for path in (each for each in _below(Path(report)) if not each.name.startswith(".")):
            files[f"outputs/report/{path.relative_to(report)}"] = path.read_bytes()
    if changes:
        files["CHANGES.diff"] = changes
    files["CHECK.md"] = _page(collection, runs, state).encode()
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    files["SHA256SUMS"] = sums.encode()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.out.with_name(f".{arguments.out.name}.partial")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # without a time
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if content[:2] == b"#!" else 0o644) << 16
            archive.writestr(entry, content)
    temporary.replace(arguments.out)
    size = arguments.out.stat().st_size / 1e6
    count = f"{len(runs)} run{'s' * (len(runs) > 1)}"
    print(f"{arguments.out}: {count}, {size:.1f} MB; CHECK.md in it says how to check")
    return 0


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(TEMPORARY)]


def _source() -> tuple[dict[str, bytes], str, bytes]:
    """The files of the source by name, of which state they are, in words, and how they differ from the commit."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(PROJECT), *words], check=True, capture_output=True).stdout

    try:
        known = git("ls-files", "-z").decode().split("\0")[:-1]
        new = git("ls-files", "-z", "--others", "--exclude-standard").decode().split("\0")[:-1]
        commit, changes = git("rev-parse", "HEAD").decode().strip(), git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{PROJECT} is not a Git checkout, so its commit is not known; clone it with git") from error
    added = [name for name in new if Path(name).suffix in NEW_SOURCES]
    state = f"commit {commit}" + (", with the changes in `CHANGES.diff`" if changes else "")
    state += f", and {len(added)} more files ({', '.join(added[:5])}{', …' * (len(added) > 5)})" if added else ""
    return {n: (PROJECT / n).read_bytes() for n in known + added if (PROJECT / n).is_file()}, state, changes


def _page(collection: Collection, runs: list[Run], state: str) -> str:
    minutes = {run.folder.name: _minutes(run) for run in runs}
    fetched = [run for run in runs if "train_sha256" not in run.record.identity["data"]] or runs
    rows = [(run.folder.name, run.record.epochs, run.epochs["test_accuracy"].iloc[-1]) for run in runs]
    described = [run.record.provenance or {} for run in runs]
    packages = {f"{name} {version}" for each in described for name, version in (each.get("packages") or {}).items()}
    return PAGE.format(
        quickest=min(fetched, key=lambda run: minutes[run.folder.name]).folder.name,
        state=state,
        data=", ".join(sorted({section.partition(",")[0] for section in collection.sections})),
        packages=", ".join(sorted(packages)),
        processors=", ".join(sorted({str(each.get("cpu")) for each in described})),
        table="\n".join(f"| {name} | {epochs} | {score:.4f} | {minutes[name]:.1f} |" for name, epochs, score in rows),
    )


def _minutes(run: Run) -> float:
    return math.inf if run.timing is None else float(run.timing["train_seconds"].sum()) / 60


if __name__ == "__main__":
    run_script(main)
