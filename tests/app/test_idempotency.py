"""``idempotent=``: what the ledger takes for the same event."""

import pytest

from headrace import App, Event
from headrace.errors import ConfigurationError


@pytest.mark.parametrize(
    ("idempotent", "handled"),
    [
        (True, ["a", "b", "c"]),
        (False, ["a", "b", "c", "a"]),
        (lambda event: event.data["order"], ["a", "c"]),
    ],
    ids=["by-source-and-id", "not-at-all", "by-a-function"],
)
async def test_what_was_handled_is_recognised(idempotent, handled):
    app = App("shop", store="memory://")
    seen = []

    @app.on("order.created", idempotent=idempotent)
    async def bill(event: Event) -> None:
        seen.append(event.id)

    async with app.testing() as t:
        for id, order in [("a", "o1"), ("b", "o1"), ("c", "o2"), ("a", "o1")]:
            await t.send("order.created", Event(type="order", source="/shop", id=id, data={"order": order}))
        assert t.dead_letters == []
    assert seen == handled


async def test_a_function_that_fails_is_a_dead_letter_that_says_so():
    app = App("shop", store="memory://")

    @app.on("order.created", idempotent=lambda event: event.data["order"])
    async def bill(event: Event) -> None: ...

    async with app.testing() as t:
        await t.send("order.created", {"no": "order"})
        (letter,) = t.dead_letters
        assert "idempotent" in letter.reason
        assert "KeyError" in letter.reason


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_an_event_without_an_identity_is_a_dead_letter_and_nobodys_duplicate(store, tmp_path):
    app = App("shop", store="memory://" if store == "memory" else f"sqlite:///{tmp_path}/shop.db")
    seen = []

    @app.on("order.created", idempotent=lambda event: event.data.get("order"))
    async def bill(event: Event) -> None:
        seen.append(event.data["n"])

    nameless = [{}, {"order": None}, {"order": ""}, {"order": ["a"]}]
    named = [{"order": "a"}, {"order": 7}, {"order": 7}, {"order": False}]
    async with app.testing() as t:
        for number, data in enumerate(nameless + named):
            await t.send("order.created", {**data, "n": number})
        reasons = [letter.reason for letter in t.dead_letters]
        assert len(reasons) == len(nameless)
        assert all("idempotent function gave no identity" in reason for reason in reasons)
    assert seen == [4, 5, 7]


async def test_an_identity_that_no_ledger_can_write_is_a_dead_letter(tmp_path):
    app = App("shop", store=f"sqlite:///{tmp_path}/shop.db")

    @app.on("order.created", idempotent=lambda event: "\udce9")
    async def bill(event: Event) -> None: ...

    async with app.testing() as t:
        await t.send("order.created", {})
        (letter,) = t.dead_letters
        assert r"\udce9" in letter.reason


@pytest.mark.parametrize("idempotent", ["yes", None, 1], ids=repr)
async def test_what_is_no_function_and_no_truth_value_is_refused_by_name(idempotent):
    app = App("shop", store="memory://")

    @app.on("order.created", idempotent=idempotent)
    async def bill(event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match=r"'bill'.*idempotent="):
        async with app.testing():
            pass
