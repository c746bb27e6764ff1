"""``headrace dlq`` from outside, on every backend: JetStream, Kafka, SQLite, PostgreSQL."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.cli.letters import make, plant
from tests.stores.test_postgres import a_database

_numbers = itertools.count(random.SystemRandom().randrange(1_000_000))


class Place:
    """An app with five unfinished letters of handler ``bill`` and one of ``ship``, and the command line on it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.app = f"shop{next(_numbers)}"
        self.command = Command(folder, HEADRACE_APP=self.app, **variables)
        self.letters = [make(self.app, number) for number in range(5)]
        self.letters.append(make(self.app, 5, handler="ship"))
        plant(self.app, self.letters, **variables)

    def states(self) -> dict[str, list[str]]:
        """Event numbers by state."""
        found: dict[str, list[str]] = {}
        for state in ("dead", "replaying", "replayed", "dropped"):
            for row in self.command("dlq", "ls", "--json", "--state", state).objects:
                found.setdefault(state, []).append(row["event_id"].removeprefix("order-"))
        return {state: sorted(numbers) for state, numbers in found.items()}


@pytest.fixture(params=["nats", "kafka", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The broker keeps the letters, or a SQL store beside it."""
    broker = "kafka" if request.param == "kafka" else "nats"
    variables = {"HEADRACE_BROKER": request.getfixturevalue(f"{broker}_server").url}
    if request.param == "sqlite":
        variables["HEADRACE_DEAD_LETTERS"] = f"sqlite:///{tmp_path}/letters.db"
    elif request.param == "postgresql":
        variables["HEADRACE_DEAD_LETTERS"] = a_database(request.getfixturevalue("postgres_server"))
    return Place(tmp_path, **variables)


def test_ls_tells_each_unfinished_letter_oldest_first(place: Place) -> None:
    done = place.command("dlq", "ls", "--json")
    assert done.code == 0
    assert [row["event_id"] for row in done.objects] == [f"order-{n}" for n in range(6)]
    first = done.objects[0]
    assert first["id"] == place.letters[0].id
    assert (first["handler"], first["state"], first["type"], first["attempts"]) == ("bill", "dead", "order.created", 8)
    table = place.command("dlq", "ls").out.splitlines()
    assert table[0].split()[0] == "id"
    assert len(table) == 7


def test_letters_are_chosen_by_expression_handler_error_and_id(place: Place) -> None:
    def chosen(*options: str) -> list[str]:
        return [row["event_id"] for row in place.command("dlq", "ls", "--json", *options).objects]

    assert chosen("--where", "INT(number) >= 3") == ["order-3", "order-4", "order-5"]
    assert chosen("--handler", "ship") == ["order-5"]
    assert chosen("--error", "KeyError", "--limit", "2") == ["order-0", "order-2"]
    assert chosen(place.letters[1].id[:10]) == ["order-1"]


def test_nothing_that_matches_is_exit_code_3(place: Place) -> None:
    for arguments in (["ls", "--where", "type = 'other'"], ["replay", "--handler", "none"], ["show", "ffff"]):
        done = place.command("dlq", *arguments)
        assert done.code == 3, arguments
        assert "no" in done.err


def test_an_expression_that_does_not_parse_is_a_usage_error(place: Place) -> None:
    assert place.command("dlq", "ls", "--where", "type LIKE").code == 2


def test_a_dry_run_changes_nothing(place: Place) -> None:
    done = place.command("dlq", "replay", "--dry-run", "--where", "INT(number) < 2")
    assert done.code == 0
    assert len(done.out.splitlines()) == 2
    assert place.states() == {"dead": ["0", "1", "2", "3", "4", "5"]}


def test_replay_and_drop_finish_letters_and_are_audited(place: Place) -> None:
    done = place.command("dlq", "replay", "--where", "INT(number) < 2", "--reason", "fixed", "--json")
    assert done.code == 0
    assert [(one["action"], one["state"], one["problem"]) for one in done.objects] == [("replay", "replayed", "")] * 2
    assert place.command("dlq", "drop", place.letters[2].id, "--reason", "a test order").code == 0
    assert place.states() == {"replayed": ["0", "1"], "dropped": ["2"], "dead": ["3", "4", "5"]}
    (shown,) = place.command("dlq", "show", place.letters[0].id, "--json").objects
    assert [(one["action"], one["by"], one["reason"]) for one in shown["audit"]] == [
        ("replaying", "ann", "fixed"),
        ("replayed", "ann", "fixed"),
    ]
    again = place.command("dlq", "replay", "--state", "replayed")
    assert again.code == 3
    assert "it is replayed already" in again.err or "no dead letters match" in again.err


def test_an_edit_keeps_the_original_and_the_difference(place: Place) -> None:
    letter = place.letters[0]
    data = '{"number": 0, "amount": 12}'
    done = place.command("dlq", "edit", letter.id, "--data", data, "--ext", "fixed=yes", "--reason", "sign")
    assert done.code == 0, done.err
    assert '-    "amount": -1' in done.out
    assert '+    "amount": 12' in done.out
    (shown,) = place.command("dlq", "show", letter.id, "--json").objects
    assert shown["event"]["data"] == {"number": 0, "amount": 12}
    assert shown["event"]["fixed"] == "yes"
    assert shown["event"]["id"] == "order-0"
    assert shown["edited"]
    assert '+    "amount": 12' in shown["difference"]
    assert [(one["action"], one["by"], one["reason"]) for one in shown["audit"]] == [("edited", "ann", "sign")]
    (exported,) = map(json.loads, place.command("dlq", "export", letter.id).out.splitlines())
    assert exported["body"] != ""
    assert exported["headers"][1][0] == "ce-id"


def test_an_edit_cannot_change_who_the_event_is(place: Place) -> None:
    done = place.command("dlq", "edit", place.letters[0].id, "--ext", "id=another")
    assert done.code == 3
    assert "cannot change id or source" in done.err
    assert place.command("dlq", "edit", place.letters[0].id, "--data", '{"number": 0, "amount": -1}').code == 3


def test_export_and_import_carry_letters_byte_for_byte(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "letters.jsonl"
    assert place.command("dlq", "export", "--output", str(file)).code == 0
    exported = file.read_text().splitlines()
    assert len(exported) == 6
    elsewhere = Command(tmp_path, HEADRACE_DEAD_LETTERS=f"sqlite:///{tmp_path}/elsewhere.db")
    done = elsewhere("dlq", "import", "--app", place.app, str(file), "--reason", "moved")
    assert done.code == 0, done.err
    back = elsewhere("dlq", "export", "--app", place.app).out.splitlines()
    for before, after in zip(map(json.loads, exported), map(json.loads, back), strict=True):
        assert [one[1] for one in after.pop("audit")] == ["imported"]
        assert after == before
    twice = elsewhere("dlq", "import", "--app", place.app, str(file))
    assert twice.code == 3
    assert "there already" in twice.err
    assert elsewhere("dlq", "import", "--app", place.app, text="no letter\n").code == 3


def test_replay_without_a_broker_says_what_is_missing(tmp_path: Path) -> None:
    variables = {"HEADRACE_DEAD_LETTERS": f"sqlite:///{tmp_path}/letters.db"}
    place = Place(tmp_path, **variables)
    done = place.command("dlq", "replay", place.letters[0].id)
    assert done.code == 3
    assert "HEADRACE_BROKER" in done.err
    assert place.states() == {"dead": ["0", "1", "2", "3", "4", "5"]}
