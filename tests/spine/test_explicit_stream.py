"""A keyed handler on an explicit ``Stream``: as good as a channel, its dead letters replayed to it as well."""

import subprocess
import sys

from tests.spine.conftest import Start
from tests.spine.process import orders, publish, verdict


def test_a_dead_letter_of_an_explicit_stream_is_replayed_to_its_handler(start: Start) -> None:
    run = start(app="stream")
    run.until(run.ready, "not ready")
    publish(run, [*orders(30, 3), ("bad", "c0", "poison"), *orders(30, 3, first=30)])
    run.until_handled(60)
    run.until(lambda: len(run.letters()) == 1, "no dead letter")
    (run.folder / "mend").touch()
    replay = [sys.executable, "-m", "headrace", "dlq", "replay", "--app", "spine", "--yes"]
    done = subprocess.run(replay, env=run.environment, cwd=run.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run.until(lambda: "bad" in run.handled(), "the replay did not reach the handler")
    assert run.stop() == 0
    assert not verdict(run).lost
