"""Runs in a real MLflow server and in TensorBoard's event files, read back by their own means."""

import csv
import importlib.util
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from mnist_exp.errors import UserError
from scripts import track
from tests.clusters.services import free_ports, service, wait_for
from tests.report.conftest import write_run

LR = "optimizer.lr"


def needs(package: str) -> list[pytest.MarkDecorator]:
    """The marks of a test that needs an extra."""
    missing = importlib.util.find_spec(package) is None
    return [pytest.mark.trackers, pytest.mark.skipif(missing, reason=f"no {package}: pip install -e '.[{package}]'")]


def curves(runs: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    """Metric → (epoch, value) of each row of ``metrics.csv``."""
    with (runs / name / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [(int(row["epoch"]), float(row[key])) for row in rows] for key in rows[0] if key != "epoch"}


@pytest.fixture
def runs(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten finished runs and their report; the tracker's files go to ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    return site / "runs"


class TestTensorBoard:
    pytestmark = needs("tensorboard")

    def read(self, name: str) -> Any:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        return EventAccumulator(f"outputs/tensorboard/{name}", size_guidance={"scalars": 0}).Reload()

    def curves(self, name: str) -> dict[str, list[tuple[int, float]]]:
        events = self.read(name)
        return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    def expected(self, runs: Path, name: str) -> dict[str, list[tuple[int, float]]]:
        """The CSV's values as 32-bit numbers, which are what TensorBoard holds."""
        return {key: [(n, float(np.float32(x))) for n, x in values] for key, values in curves(runs, name).items()}

    def test_event_files_hold_every_value_and_setting(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        assert track.main(["tensorboard", "--runs", str(runs)]) == 0
        assert capsys.readouterr().out.startswith("11 of 11 added")
        folder = Path("outputs/tensorboard")
        names = {path.name for path in folder.iterdir()} - {"report"}
        assert len(names) == 10
        for name in names:
            assert self.curves(name) == self.expected(runs, name)
        about = self.read(min(names)).summary_metadata["_hparams_/session_start_info"]
        settings = HParamsPluginData.FromString(about.plugin_data.content).session_start_info.hparams
        assert (settings[LR].number_value, settings["data.name"].string_value) == (0.01, "mnist")
        assert "_hparams_/session_start_info" not in self.read("report").summary_metadata
        (table,) = self.read("report").Tensors("comparison/text_summary")
        markdown = (runs.parent / "report" / "comparison.md").read_bytes()
        assert table.tensor_proto.string_val[0] == markdown
        assert (folder / "report" / "index.html").read_bytes() == (runs.parent / "report" / "index.html").read_bytes()

    def test_twice_adds_nothing_but_what_was_trained_anew(
        self, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for seed in (0, 1):
            write_run(tmp_path / "runs", seed=seed, name=f"seed{seed}")
        words = ["tensorboard", "--runs", "runs"]
        assert track.main(words) == 0
        before = {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("*")}
        assert track.main(words) == 0
        assert {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("*")} == before
        for path in (tmp_path / "runs" / "seed1").iterdir():
            path.unlink()
        (tmp_path / "runs" / "seed1").rmdir()
        write_run(tmp_path / "runs", seed=1, name="seed1", accuracy=0.5)
        assert track.main(words) == 0
        said = [line.partition(" added")[0] for line in capsys.readouterr().out.splitlines()]
        assert said == ["2 of 2", "0 of 2", "1 of 2"]
        assert self.curves("seed1") == self.expected(tmp_path / "runs", "seed1")
        assert len(list(Path("outputs").rglob("events.*"))) == 2


class TestMLflow:
    pytestmark = needs("mlflow")

    @pytest.fixture
    def server(self, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """The address of a server on the loopback, which the script is told of."""
        (port,), folder = free_ports(1), tmp_path / "server"
        folder.mkdir()
        address = f"http://127.0.0.1:{port}"
        words = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        words += [f"--backend-store-uri=sqlite:///{folder}/store.db", f"--artifacts-destination={folder}/artifacts"]
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with service(words, folder):
            wait_for(lambda: self.answers(address), "MLflow answers", folder)
            yield address

    def answers(self, address: str) -> object:
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=30).status == 200
        except OSError:
            return False

    def get(self, address: str, what: str, **query: str) -> Any:
        return json.load(urllib.request.urlopen(f"{address}/api/2.0/mlflow/{what}?{urlencode(query)}", timeout=300))

    def all_runs(self, address: str) -> dict[str, Any]:
        """The server's runs, by name, each once."""
        experiment = self.get(address, "experiments/get-by-name", experiment_name="mnist_exp")["experiment"]
        body = json.dumps({"experiment_ids": [experiment["experiment_id"]]}).encode()
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        found = json.load(urllib.request.urlopen(request, timeout=300))["runs"]
        by_name = {run["info"]["run_name"]: run for run in found}
        assert len(by_name) == len(found)
        return by_name

    def test_a_server_holds_every_value_setting_and_artifact(
        self, server: str, runs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for expected in ("11 of 11 added", "0 of 11 added"):
            assert track.main(["mlflow", "--runs", str(runs)]) == 0
            assert capsys.readouterr().out.startswith(expected)
        tracked = self.all_runs(server)
        report = tracked.pop("report")["info"]["run_id"]
        assert len(tracked) == 10
        for name, run in tracked.items():
            known = run["info"]["run_id"]
            for key, values in curves(runs, name).items():
                history = self.get(server, "metrics/get-history", run_id=known, metric_key=key)["metrics"]
                assert [(int(each["step"]), each["value"]) for each in history] == values
            assert {"key": LR, "value": "0.01"} in run["data"]["params"]
            # As `write_run` says: ten and eleven o'clock less a minute, in milliseconds.
            assert (int(run["info"]["start_time"]), int(run["info"]["end_time"])) == (1714557600000, 1714557660000)
        listed = self.get(server, "artifacts/list", run_id=report)["files"]
        assert {"index.html", "comparison.md"} <= {each["path"] for each in listed}
        page = urllib.request.urlopen(f"{server}/get-artifact?path=index.html&run_uuid={report}", timeout=300).read()
        assert page == (runs.parent / "report" / "index.html").read_bytes()

    def test_a_server_that_is_not_there_is_reported(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_ports(1)[0]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(UserError, match=r"^API request to http://127.0.0.1.*\Z"):
            track.main(["mlflow", "--runs", str(runs)])

    def test_without_a_server_it_is_a_file(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for expected in ("11 of 11 added", "0 of 11 added"):
            assert track.main(["mlflow", "--runs", str(runs)]) == 0
            assert capsys.readouterr().out.startswith(expected)
        assert {path.name for path in Path().iterdir()} == {"outputs"}
        assert {path.name for path in Path("outputs/mlflow").iterdir()} == {"mlflow.db", "artifacts"}


@pytest.mark.parametrize(
    ("tracker", "package"), [("mlflow", "mlflow"), ("tensorboard", "torch.utils.tensorboard")], ids=["mlflow", "tb"]
)
def test_a_missing_extra_is_one_sentence(
    tracker: str, package: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"^.*an extra is needed: pip install -e '\.\[{tracker}\]'\Z"):
        track.main([tracker, "--runs", str(runs)])


def test_what_is_left_out_is_said(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = SimpleNamespace(look="here", stored=lambda _: None, add=lambda _: None)
    monkeypatch.setattr(track, "TensorBoard", lambda *_: tracker)
    assert track.main(["tensorboard", "--runs", str(runs)]) == 0
    output, errors = capsys.readouterr()
    assert "left out: empty-metrics: metrics.csv is not the file" in errors and "in part: no-timing" in errors
    assert output.startswith("11 of 11 added")


def test_without_finished_runs_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no finished runs in"):
        track.main(["mlflow", "--runs", str(tmp_path / "runs")])
