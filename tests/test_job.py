"""What is done with a run that is there already: a decision without a disk."""

import pytest

from mnist_exp.job import Action, decide
from mnist_exp.runs.checkpoint import History
from mnist_exp.runs.record import Record

IDENTITY = {"model": {"target": "mnist_exp.models.MLP"}}
CODE, VERSIONS = {"model": "a", "training": "b"}, {"torch": "2"}


def finished(code: dict[str, str] | None, torch: str = "2") -> Record:
    provenance = {"packages": {"torch": torch}}
    return Record(name="", title="", choices={}, identity=IDENTITY, config={}, code=code, provenance=provenance)


def stopped(code: dict[str, str], torch: str = "2") -> History:
    return History(training={}, code=code, packages={"torch": torch})


@pytest.mark.parametrize(
    ("record", "history", "settings", "action", "said"),
    [
        (None, History(), {}, Action.CONTINUE, ""),
        (None, stopped(CODE), {}, Action.CONTINUE, ""),
        (None, stopped(CODE | {"model": "x"}), {}, Action.RESTART, "interrupted under other code: MLP; training it"),
        (None, stopped(CODE, "1"), {}, Action.RESTART, "interrupted under torch 1 (now 2); training it from the start"),
        (None, stopped(CODE), {"overwrite": True}, Action.RESTART, ""),
        (finished(CODE), History(), {}, Action.SKIP, "already finished; skipped"),
        (finished(CODE, "1"), History(), {}, Action.SKIP, "already finished, with torch 1 (now 2); skipped"),
        (finished(CODE), History(), {"overwrite": True}, Action.RESTART, ""),
        (finished({}), History(), {}, Action.RESTART, "other code: MLP, the training loop; training it anew"),
        (finished({}), History(), {"stale": "keep"}, Action.SKIP, "the training loop; kept, since stale=keep"),
        (finished(None), History(), {}, Action.RESTART, "its record has no checksums of it; training it anew"),
    ],
)
def test_decisions(
    record: Record | None, history: History, settings: dict[str, bool | str], action: Action, said: str
) -> None:
    found, why = decide(IDENTITY, record, history, CODE, VERSIONS, **settings)  # type: ignore[arg-type]
    assert found is action and (said in why if said else not why)
