"""What a watch makes of answers that a well-behaved API server does not give, one fault a test."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from headrace.errors import ConnectionFailed
from headrace.kubernetes import Watch
from headrace.kubernetes.informer import Informer
from headrace.kubernetes.reflector import Timing
from tests.kubernetes.scripted import Act, Exchange, Scripted, hang, synced
from tests.kubernetes.watching import SHORT, Watching, binding, eventually, told


def refuse(code: int, reason: str, **headers: str) -> Act:
    async def act(exchange: Exchange) -> None:
        await exchange.status(code, reason, **headers)

    return act


def watched(*steps: tuple[str, str, int]) -> Act:
    """A watch with these events, then silence."""

    async def act(exchange: Exchange) -> None:
        await exchange.begin()
        for kind, name, version in steps:
            await exchange.event(kind, name, version, uid=f"u-{name}")
        await asyncio.Event().wait()

    return act


def watch_on(server: Scripted, folder: Path) -> Watch:
    return Watch("configmaps", namespace="n", kubeconfig=server.kubeconfig(folder, token="t"))


async def test_a_streaming_list_is_asked_for_first_and_always_with_a_match(tmp_path: Path) -> None:
    async with Scripted(synced(5, "a")) as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("a", "add"))
    (query,) = server.asked
    assert query["sendInitialEvents"] == "true"
    assert query["resourceVersionMatch"] == "NotOlderThan"
    assert query["allowWatchBookmarks"] == "true"
    assert 300 <= int(query["timeoutSeconds"]) <= 600


async def test_422_falls_back_to_list_and_watch_and_is_remembered(tmp_path: Path) -> None:
    async def page(exchange: Exchange) -> None:
        await exchange.page(7, "a")

    script = Scripted(refuse(422, "Invalid"), page, refuse(410, "Expired"), page, hang)
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await eventually(lambda: len(server.asked) == 5)
    first_list, watch, relist, again = server.asked[1:]
    assert (first_list["resourceVersion"], first_list["limit"]) == ("0", "500")
    assert watch["resourceVersion"] == "7"
    assert "sendInitialEvents" not in watch
    assert "watch" not in relist
    assert "resourceVersion" not in relist  # after a 410: the latest
    assert again["watch"] == "true"
    assert seen.verbs("a") == ["add"]


async def test_a_server_that_never_ends_its_initial_events_is_listed_instead(tmp_path: Path) -> None:
    async def page(exchange: Exchange) -> None:
        await exchange.page(7, "a", "b")

    async def endless(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event("ADDED", "a", 6, uid="u-a")
        await asyncio.Event().wait()

    timing = Timing(silence=0.3, backoff=(0.02, 0.1))
    async with Scripted(endless, page, hang) as server, Watching(watch_on(server, tmp_path), timing=timing) as seen:
        await seen.until(told("b", "add"))
        await eventually(lambda: len(server.asked) == 3)
    # Version 6 was shown, so the list may not be older than that.
    assert server.asked[1]["resourceVersion"] == "6"
    assert server.asked[1]["resourceVersionMatch"] == "NotOlderThan"


async def test_a_bookmark_advances_the_version(tmp_path: Path) -> None:
    async def marks(exchange: Exchange) -> None:
        await exchange.bookmark(90)
        exchange.reset()

    async with Scripted(synced(5, "a", then=marks), hang) as server, Watching(watch_on(server, tmp_path)):
        await eventually(lambda: len(server.asked) == 2)
    assert server.asked[1]["resourceVersion"] == "90"


@pytest.mark.parametrize("how", ["http", "event", "reason only"])
async def test_410_is_a_list_of_the_latest_and_never_the_same_watch(tmp_path: Path, how: str) -> None:
    async def breaks(exchange: Exchange) -> None:
        exchange.reset()

    async def gone(exchange: Exchange) -> None:
        if how == "http":
            await exchange.status(410, "Expired")
            return
        await exchange.begin()
        await exchange.error(410 if how == "event" else 0, "Expired")
        await exchange.end()

    script = Scripted(synced(5, "a", "b", then=breaks), gone, synced(50, "a"))
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("b", "add", "delete"))
        await seen.until(told("a", "add", "update"))
    assert server.asked[1]["resourceVersion"] == "5"
    assert server.asked[2]["sendInitialEvents"] == "true"
    assert "resourceVersion" not in server.asked[2]
    assert [query.get("resourceVersion") for query in server.asked].count("5") == 1


async def test_an_error_event_429_resumes_at_the_same_version(tmp_path: Path) -> None:
    async def throttled(exchange: Exchange) -> None:
        await exchange.error(429, "TooManyRequests")
        await exchange.end()

    script = Scripted(synced(5, "a", then=throttled), watched(("MODIFIED", "a", 6)))
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("a", "add", "update"))
    assert server.asked[1]["resourceVersion"] == "5"
    assert "sendInitialEvents" not in server.asked[1]


async def test_an_error_event_of_another_kind_is_never_fatal_and_means_a_new_list(tmp_path: Path) -> None:
    async def unreadable(exchange: Exchange) -> None:
        await exchange.error(500, "StoreReadError")
        await exchange.end()

    script = Scripted(synced(5, "a", "lost", then=unreadable), synced(9, "a"))
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("lost", "add", "delete"))
    assert server.asked[1]["resourceVersion"] == "5"  # not older than what was shown


async def test_429_waits_as_long_as_retry_after_says(tmp_path: Path) -> None:
    async def breaks(exchange: Exchange) -> None:
        exchange.reset()

    script = Scripted(synced(5, then=breaks), refuse(429, "TooManyRequests", Retry_After="1"), hang)
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await eventually(lambda: len(server.asked) == 2)
        (informer,) = seen.source._joined.informers.values()
        began = asyncio.get_running_loop().time()
        await eventually(lambda: len(server.asked) == 3)
    assert asyncio.get_running_loop().time() - began > 0.9
    assert informer.reflector.restarts["throttled"] == 1


async def test_500s_are_retried_at_the_same_version(tmp_path: Path) -> None:
    async def breaks(exchange: Exchange) -> None:
        exchange.reset()

    script = Scripted(
        synced(5, "a", then=breaks),
        refuse(500, "InternalError"),
        refuse(503, "ServiceUnavailable"),
        watched(("MODIFIED", "a", 6)),
    )
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("a", "add", "update"))
    assert [query["resourceVersion"] for query in server.asked[1:]] == ["5", "5", "5"]


async def test_a_truncated_line_is_forgotten_and_its_event_comes_again(tmp_path: Path) -> None:
    async def truncated(exchange: Exchange) -> None:
        await exchange.send(b'{"type":"MODIFIED","object":{"metadata":{"name":"a","namesp')
        await exchange.end()

    script = Scripted(synced(5, "a", then=truncated), watched(("MODIFIED", "a", 6)))
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("a", "add", "update"))
    assert server.asked[1]["resourceVersion"] == "5"


async def test_a_line_in_many_chunks_is_one_event(tmp_path: Path) -> None:
    shown = asyncio.Event()

    async def trickling(exchange: Exchange) -> None:
        await shown.wait()
        metadata = {
            "name": "a",
            "namespace": "n",
            "uid": "u-a",
            "resourceVersion": "6",
            "annotations": {"k": "v\u0085w"},
        }
        line = json.dumps({"type": "MODIFIED", "object": {"metadata": metadata}}, ensure_ascii=False).encode() + b"\n"
        for n in range(0, len(line), 7):
            await exchange.send(line[n : n + 7])
        await asyncio.Event().wait()

    async with Scripted(synced(5, "a", then=trickling)) as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("a", "add"))
        shown.set()
        await seen.until(told("a", "add", "update"))
    assert seen.events[-1].data["metadata"]["annotations"] == {"k": "v\u0085w"}


async def test_a_line_that_is_no_event_means_a_new_list(tmp_path: Path) -> None:
    shown = asyncio.Event()

    async def garbled(exchange: Exchange) -> None:
        await shown.wait()
        await exchange.event("MODIFIED", "a", 6, uid="u-a")
        await exchange.send(b"<html>bad gateway</html>\n")
        await asyncio.Event().wait()

    script = Scripted(synced(5, "a", "b", then=garbled), synced(9, "a"))
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("b", "add"))
        shown.set()
        await seen.until(told("b", "add", "delete"))
    assert seen.verbs("a")[:2] == ["add", "update"]
    assert server.asked[1]["resourceVersion"] == "6"


async def test_a_defect_in_reading_a_watch_is_told(tmp_path: Path) -> None:
    async with Scripted(synced(5, "a")) as server, Watching(watch_on(server, tmp_path)) as seen:
        (informer,) = await _informers(seen)

        def failing() -> None:
            raise RuntimeError("scripted")

        informer._tell = failing  # type: ignore[method-assign]
        await eventually(lambda: "RuntimeError('scripted')" in seen.source.progress().detail)
        assert not seen.source.progress().connected


async def _informers(seen: Watching) -> list[Informer]:
    await eventually(lambda: seen.source._joined.informers)
    return list(seen.source._joined.informers.values())


async def test_watches_that_end_at_once_are_failures_with_a_growing_delay(tmp_path: Path) -> None:
    async def ends(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.end()

    async def breaks(exchange: Exchange) -> None:
        exchange.reset()

    script = Scripted(synced(5, "a", then=breaks), ends, ends, ends, synced(5, "a"))
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await eventually(lambda: len(server.asked) == 5)
        (informer,) = seen.source._joined.informers.values()
        assert informer.reflector.restarts["empty_watch"] == 3
    # The third in a row is no accident: everything is listed anew.
    assert server.asked[4]["sendInitialEvents"] == "true"


async def test_an_endless_empty_watch_ends_at_its_deadline_and_is_checked_by_a_list(tmp_path: Path) -> None:
    async def breaks(exchange: Exchange) -> None:
        exchange.reset()

    async def silent(exchange: Exchange) -> None:
        await exchange.begin()
        await asyncio.sleep(0.5)
        await exchange.end()

    timing = Timing(watch=(1, 1.1), grace=0.2, at_once=0.2, backoff=(0.02, 0.1))
    script = Scripted(synced(50, "a", then=breaks), silent, refuse(504, "Timeout"), synced(9, "b"))
    async with script as server, Watching(watch_on(server, tmp_path), timing=timing) as seen:
        await seen.until(told("b", "add"))
    assert server.asked[1]["resourceVersion"] == "50"
    assert server.asked[2]["sendInitialEvents"] == "true"


@pytest.mark.parametrize(
    "details",
    [
        {"details": {"causes": [{"reason": "ResourceVersionTooLarge", "message": ""}]}, "message": "later"},
        {"details": {"causes": [{"message": "Too large resource version"}]}, "message": "later"},
        {"message": "Timeout: Too large resource version: 50, current: 9"},
    ],
)
async def test_too_large_in_any_shape_is_answered_with_a_list_that_is_the_truth(
    tmp_path: Path, details: dict[str, object]
) -> None:
    async def gone(exchange: Exchange) -> None:
        await exchange.error(500, "InternalError")
        await exchange.end()

    async def too_large(exchange: Exchange) -> None:
        await exchange.answer(504, {"kind": "Status", "code": 504, "reason": "Timeout", **details})

    script = Scripted(synced(50, "a", "b", then=gone), too_large, synced(9, "a"))
    async with script as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("b", "add", "delete"))
        await seen.until(told("a", "add", "update"))
    assert server.asked[1]["resourceVersion"] == "50"
    assert "resourceVersion" not in server.asked[2]
    assert seen.events[-1].id.split(":")[1] == "9" or seen.events[-2].id.split(":")[1] == "9"


async def test_not_newer_events_of_one_object_are_dropped(tmp_path: Path) -> None:
    shown = asyncio.Event()

    async def stale(exchange: Exchange) -> None:
        await shown.wait()
        await exchange.event("MODIFIED", "a", 4, uid="u-a")
        await exchange.event("MODIFIED", "a", 5, uid="u-a")
        await exchange.event("DELETED", "a", 3, uid="u-a")
        await exchange.event("MODIFIED", "a", 8, uid="u-a")
        await asyncio.Event().wait()

    async with Scripted(synced(5, "a", then=stale)) as server, Watching(watch_on(server, tmp_path)) as seen:
        await seen.until(told("a", "add"))
        shown.set()
        await seen.until(told("a", "add", "update"))
    assert seen.events[-1].id == "u-a:8:update"


async def test_an_expired_token_is_said_and_a_rotated_one_recovers(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")

    async def breaks(exchange: Exchange) -> None:
        exchange.reset()

    server = Scripted(synced(5, "a", then=breaks), watched(("MODIFIED", "a", 6)))
    server.valid = {"first"}
    async with server:
        watch = Watch("configmaps", namespace="n", kubeconfig=server.kubeconfig(tmp_path, tokenFile="token"))
        seen = Watching(watch)
        seen.hold = True
        server.valid = {"first"}
        async with seen:
            server.valid = {"second"}
            await eventually(lambda: "401" in seen.source.progress().detail)
            token.write_text("second")
            await seen.until(told("a", "add"))
            assert server.tokens[-1] == "second"


async def test_credentials_that_are_refused_at_the_start_end_it(tmp_path: Path) -> None:
    server = Scripted(hang)
    server.valid = {"right"}
    async with server:
        watch = Watch("configmaps", kubeconfig=server.kubeconfig(tmp_path, token="wrong"))
        source = watch.bind(binding())
        with pytest.raises(ConnectionFailed, match="refused the credentials"):
            await source.open()


async def test_an_exec_plugins_credential_is_asked_again_when_the_server_refuses_it(tmp_path: Path) -> None:
    counter = tmp_path / "count"
    plugin = tmp_path / "plugin.sh"
    plugin.write_text(
        "#!/bin/sh\n"
        f'echo x >> "{counter}"\n'
        f'n=$(wc -l < "{counter}" | tr -d " ")\n'
        'printf \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
        '"status":{"token":"t%s"}}\' "$n"\n'
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    server = Scripted(synced(5, "a"))
    server.valid = {"t2"}
    async with server:
        entry = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin.sh", "interactiveMode": "Never"}
        watch = Watch("configmaps", namespace="n", kubeconfig=server.kubeconfig(tmp_path, exec=entry))
        async with Watching(watch, timing=SHORT) as seen:
            await seen.until(told("a", "add"))
    assert server.tokens[0] == "t1"
    assert server.tokens[-1] == "t2"
    assert len(counter.read_text().splitlines()) == 2
