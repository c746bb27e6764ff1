"""The deadline wheel of a handler, by a clock that the test moves."""

import asyncio
from typing import Any

from headrace.engine.deadlines import Deadlines


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock can jump, as it does for a process that was stopped and goes on."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


async def passed(loop: Loop, seconds: float) -> None:
    """Let so much time pass and what is due then run."""
    loop.ahead += seconds
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_process_that_stood_still_gives_its_attempts_that_time_back() -> None:
    async def scene() -> None:
        loop: Any = asyncio.get_running_loop()
        expired: list[Any] = []
        deadlines = Deadlines(30.0, expired.append)
        deadlines.add("running")  # type: ignore[arg-type]
        await passed(loop, 90.0)
        assert expired == []
        await passed(loop, 29.0)
        assert expired == []
        await passed(loop, 1.5)
        assert expired == ["running"]
        deadlines.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scene())


def test_a_timer_that_a_busy_loop_fires_a_little_late_moves_nothing() -> None:
    async def scene() -> None:
        loop: Any = asyncio.get_running_loop()
        expired: list[Any] = []
        deadlines = Deadlines(30.0, expired.append)
        deadlines.add("running")  # type: ignore[arg-type]
        await passed(loop, 33.0)
        assert expired == ["running"]
        deadlines.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scene())
