"""``idempotent=``: what the ledger takes for the same event."""

import pytest

from headrace import App, Event


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
