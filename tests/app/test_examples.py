"""The user's file of the design works as written."""

import importlib.util
from pathlib import Path
from types import ModuleType

from headrace import Event

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_shop_bills_rejects_and_forwards() -> None:
    shop = example("shop")
    async with shop.app.testing() as t:
        await t.send("order.created", {"id": "o1", "customer": "ada", "amount": 12.5})
        await t.send("order.created", {"id": "o2", "customer": "ada", "amount": -1})
        await t.send("http:/events", Event("order.placed", "/web", {"id": "o3", "customer": "bob", "amount": 1}))
        await t.send("http:/events", Event("other", "/web", {"id": "o4", "customer": "bob", "amount": 1}))
        billed = [event.data["order"] for event in t.published if event.type == "invoice.created"]
        assert billed == ["o1", "o3"]
        (letter,) = t.dead_letters
        assert "negative amount" in letter.reason
