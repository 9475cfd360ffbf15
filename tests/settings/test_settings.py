"""Settings: every option composes, wrong ones are told in a sentence, and identity is what it promises."""

import dataclasses
import importlib
import inspect
import itertools
import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mnist_exp.cli.hydra_internals import CONFIG_FOLDER, GROUPS
from mnist_exp.errors import ConfigError
from mnist_exp.settings import components, factory
from mnist_exp.settings.identity import diff_settings, identity_hash, run_identity, run_name
from mnist_exp.settings.schema import COMPONENTS, Config
from tests.conftest import choices, settings

OPTIONS = {group: sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml")) for group in GROUPS}
KINDS = COMPONENTS


def identify(config: Config, device: str = "cpu") -> dict[str, Any]:
    return run_identity(
        config, {kind: components.component_identity(kind, getattr(config, kind)) for kind in KINDS}, device, {}
    )


def hash_of(*overrides: str) -> str:
    return identity_hash(identify(settings(*overrides)))


def test_the_defaults_are_the_documented_ones() -> None:
    config = settings()
    assert (config.seed, config.epochs, config.batch_size) == (0, 20, 64)
    assert (config.output_root, config.overwrite, config.device.threads) == ("outputs", False, 1)
    assert config.optimizer["_target_"] == "torch.optim.SGD"
    assert (config.optimizer["lr"], config.optimizer["momentum"]) == (0.01, 0.9)
    expected = {"model": "lenet5", "optimizer": "sgd", "scheduler": "constant", "device": "cpu"}
    expected |= {"loss": "cross_entropy", "augment": "none"}
    assert choices() == expected | {"data": "mnist", "protocol": "standard"}


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, options in OPTIONS.items() for o in options])
def test_every_option_composes_and_has_an_identity(group: str, option: str) -> None:
    folders = ("data.train_dir=a", "data.test_dir=b") if option.endswith("_folder") else ()
    config = settings(f"{group}={option}", *folders)
    assert len(identity_hash(identify(config))) == 8


@pytest.mark.parametrize("experiment", [path.stem for path in (CONFIG_FOLDER / "experiment").glob("*.yaml")])
def test_every_experiment_composes(experiment: str) -> None:
    if experiment == "search":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="no Optuna here: pip install -e '.[search]'")
    assert settings(f"experiment={experiment}").epochs == (3 if experiment in ("quick", "search") else 20)


TRAINED = [
    *[(f"model={m}", f"optimizer={o}", "batch_size=16") for m in OPTIONS["model"] for o in OPTIONS["optimizer"]],
    *[("model=mlp", f"scheduler={scheduler}", "optimizer.lr=0.1", "epochs=3") for scheduler in OPTIONS["scheduler"]],
]


@pytest.mark.parametrize("words", TRAINED)
def test_each_model_trains_with_each_optimizer_and_each_schedule(words: tuple[str, ...], execute: Any) -> None:
    outcome = execute("epochs=2", *words)
    assert outcome.selection_score > 0.5  # a tenth would be chance; 600 digits and two epochs give far more


SETTINGS = {  # the first value of each is its default
    "seed": ["0", "1", "7"],
    "epochs": ["20", "30"],
    "batch_size": ["64", "128"],
    "model": ["lenet5", "mlp"],
    "optimizer.lr": ["0.01", "0.1", "1", "1.0", "1e-2"],
    "optimizer.momentum": ["0.9", "0.90", "0"],
    "optimizer.nesterov": ["false", "true"],
    "protocol": ["standard", "published"],
    "device.threads": ["1", "2"],
    "scheduler": ["constant", "cosine"],
    "data.validation_size": ["0", "5000", "10000"],
}
MATTERS_NOT = {"output_root": ["outputs", "elsewhere"], "overwrite": ["true", "false"], "data.root": ["d", "e"]}


def pick(choices: dict[str, list[str]]) -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in choices.items()})


def meaning(chosen: dict[str, str]) -> dict[str, Any]:
    """The settings as values: what is left out has its default, and 1, 1.0 and 1e0 are one number."""
    every = {key: values[0] for key, values in SETTINGS.items()} | chosen
    return {key: float(text) if text[0].isdigit() else text for key, text in every.items()}


@hypothesis_settings(max_examples=25, deadline=None)
@given(pick(SETTINGS), pick(SETTINGS), pick(MATTERS_NOT), st.randoms())
def test_equal_settings_have_one_identity_and_others_another(
    first: dict[str, str], second: dict[str, str], irrelevant: dict[str, str], random: Any
) -> None:
    ours = [f"{key}={value}" for key, value in first.items()]
    theirs = [f"{key}={value}" for key, value in (second | irrelevant).items()]
    random.shuffle(theirs)
    for chosen in (first, second):  # SGD refuses Nesterov without momentum; identity is asked only of what trains
        if meaning(chosen)["optimizer.nesterov"] == "true" and meaning(chosen)["optimizer.momentum"] == 0:
            return
    assert (hash_of(*ours) == hash_of(*theirs)) == (meaning(first) == meaning(second))


def test_a_default_spelled_out_is_the_same_setting_under_any_launcher_but_not_on_another_device() -> None:
    assert hash_of() == hash_of("+optimizer.dampening=0", "optimizer.weight_decay=0", "+optimizer.maximize=false")
    assert hash_of("model=lenet5r") == hash_of("model=lenet5r", "model.dropout=0.50")
    assert hash_of() != hash_of("+optimizer.dampening=0.1", "optimizer.nesterov=false")
    assert hash_of() == hash_of("device=auto") == hash_of("device=cpu") == hash_of("hydra/launcher=basic")
    assert hash_of() != identity_hash(identify(settings(), "cuda"))


def test_a_setting_that_somebody_adds_is_part_of_the_identity() -> None:
    @dataclasses.dataclass
    class Mine(Config):
        smoothing: float = 0.1

    known = {key.name: getattr(settings(), key.name) for key in dataclasses.fields(Config)}
    usual, same, other = identify(settings()), identify(Mine(**known)), identify(Mine(**known, smoothing=0.2))
    assert same == usual | {"smoothing": 0.1} and other == usual | {"smoothing": 0.2}


def test_an_identity_has_the_arguments_that_are_left_at_their_defaults() -> None:
    """Read off PyTorch's signature of SGD by hand."""
    given = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0, "nesterov": False, "fused": True}
    defaults = {"dampening": 0, "maximize": False, "foreach": None, "differentiable": False}
    known = identify(settings("model=lenet5r"))
    assert known["optimizer"] == {"target": "torch.optim.SGD"} | given | defaults
    assert known["model"] == {"target": "mnist_exp.models.LeNet5Regularized", "dropout": 0.5}
    assert known["device"] == {"type": "cpu", "threads": 1, "arithmetic": "portable"} and known["version"] == 3


def test_a_library_that_changes_a_default_changes_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before, usual = hash_of(), inspect.signature(torch.optim.SGD)
    changed = usual.parameters | {"dampening": usual.parameters["dampening"].replace(default=0.1)}
    monkeypatch.setattr(torch.optim.SGD, "__signature__", usual.replace(parameters=[*changed.values()]), raising=False)
    assert hash_of() != before
    assert hash_of("+optimizer.dampening=0") == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, JSON)
def test_differences_are_told_exactly_where_there_are_any(ours: Any, theirs: Any) -> None:
    assert bool(diff_settings({"a": ours}, {"a": theirs})) == (ours != theirs)


def test_the_run_name_says_who_and_ends_in_the_hash_of_canonical_json() -> None:
    words = ("model=mlp", "protocol=published", "seed=7")
    known = identify(settings(*words))
    assert run_name(choices(*words), known) == f"mlp-published-sgd-seed7-{identity_hash(known)}"
    # Worked out by hand: printf '{"a":1,"b":[2,"x"]}' | sha256sum.
    assert identity_hash({"b": [2, "x"], "a": 1}) == "454597f5"


EVERYWHERE = ("os.system", "torch.hub.load", "mnist_exp.models.torch.hub.load", "mnist_exp.models.nn", "builtins.eval")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        *itertools.product(KINDS, EVERYWHERE),
        ("model", "torch.nn.Module"),
        ("model", "mnist_exp.models._ToChannelsLast"),
        ("model", "mnist_exp.job.train_run"),
        ("optimizer", "torch.optim.Optimizer"),
        ("optimizer", "torch.optim.lr_scheduler.StepLR"),
        ("scheduler", "torch.optim.SGD"),
        ("optimizer", None),
        ("optimizer", ["torch.optim.SGD"]),
    ],
)
def test_only_allowed_classes_can_be_named(kind: str, target: Any) -> None:
    with pytest.raises(ConfigError, match=f"{kind}._target_"):
        components.component_identity(kind, {"_target_": target})


@given(st.text(max_size=40))
def test_no_text_names_anything_but_a_class_of_the_kind(text: str) -> None:
    for kind, (base, example) in components.KINDS.items():
        try:
            module = example.rpartition(".")[0]
            target = components.component_identity(kind, {"_target_": f"{module}.{text}"})["target"]
        except ConfigError:
            continue
        found = getattr(importlib.import_module(target.rpartition(".")[0]), target.rpartition(".")[2])
        assert issubclass(found, base)


def test_what_the_factory_hands_over_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match="no such setting"):
        components.component_identity("optimizer", {"_target_": "torch.optim.SGD", "params": []})


def test_checking_settings_leaves_the_generator_alone() -> None:
    config = settings()
    before = torch.get_rng_state()
    factory.dry_build(config)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_config_file_is_left_out_of_the_groups() -> None:
    folders = {path.name for path in Path(CONFIG_FOLDER).iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment", "hydra"}
    assert json.dumps(OPTIONS)
