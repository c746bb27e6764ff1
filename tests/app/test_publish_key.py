"""Keys that `App.publish` does not take, and what it says."""

from typing import Any

import pytest

from headrace import App


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [(7, TypeError, r"key=7\): a key is text, this is int"), ("", ValueError, "a key is not empty")],
)
async def test_a_key_that_is_none_is_refused_by_name(key: Any, error: type[Exception], words: str) -> None:
    app = App("shop", broker="memory://", store="memory://")

    async with app.running():
        with pytest.raises(error, match=words):
            await app.publish("order.created", {"n": 1}, key=key)
        await app.publish("order.created", {"n": 1}, key="7")
