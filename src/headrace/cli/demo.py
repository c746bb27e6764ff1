"""``headrace demo``: some thousand orders end to end on the embedded NATS, and the sums at the end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from headrace.demo.orders import Shop
    from headrace.worker import Worker

__all__ = ["command"]

CUSTOMERS = 40
#: Seconds until the demo gives up waiting for a step.
PATIENCE = 60.0


@click.command("demo")
@click.option("--broker", help="Use this broker instead of the embedded NATS.")
@click.option("--orders", type=click.IntRange(min=200), default=2000, show_default=True, help="How many orders.")
@click.option("--persist", type=click.Path(file_okay=False), help="Keep NATS, ledger and dead letters in this folder.")
@click.option("--json", "as_json", is_flag=True, help="The table as one JSON object.")
def command(broker: str | None, orders: int, persist: str | None, as_json: bool) -> int:
    """Orders arrive over HTTP and the broker; some fail and recover, two are poison and are replayed after the fix."""
    import uvloop

    with contextlib.ExitStack() as stack:
        folder = Path(persist or stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-demo-")))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.BadParameter(f"{folder}: {error.strerror}", param_hint="--persist") from None
        if broker is None:
            from headrace.nats.embedded import Embedded

            broker = stack.enter_context(Embedded(folder / "nats")).url
            click.echo(f"embedded nats-server at {broker}", err=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_demo(broker, folder, orders, as_json))


def _orders(count: int, run: str) -> list[dict[str, Any]]:
    """The orders; two of them are poison. ``run`` tells them from those of a demo that ran on this broker before."""
    made: list[dict[str, Any]] = []
    for index in range(count):
        customer, number = f"customer-{index % CUSTOMERS}", index // CUSTOMERS
        amount = -1.0 if index in (count // 3, count // 2) else 10.0 + index % 90
        made.append({"id": f"{run}-{customer}-{number}", "customer": customer, "number": number, "amount": amount})
    return made


async def _demo(broker: str, folder: Path, count: int, as_json: bool) -> int:
    from headrace.demo.orders import Shop
    from headrace.http.asgi import Routes
    from headrace.http.server import Server

    shop = Shop()
    orders = _orders(count, shop.run)
    poison = {order["id"] for order in orders if order["amount"] < 0}
    store = f"sqlite:///{(folder / 'ledger.db').resolve()}"
    settings = shop.app.settings(overrides={"broker": broker, "store": store})
    begun = time.monotonic()
    async with shop.app.running(settings=settings) as worker:
        routes = Routes()
        for source in worker.receivers:
            routes.add(source)
        server = Server(routes, "127.0.0.1", 0)
        await server.open()
        watching = asyncio.create_task(_watch(shop, count))
        try:
            await _arrive(shop, server, orders)
            await _until(shop, lambda: len(shop.billed) >= count - len(poison))
            letters = await _letters(worker, len(poison))
            shop.fixed = True
            click.echo(f"the cause is fixed; replaying {len(letters)} dead letters", err=True)
            replayed = await _replay(worker, letters)
            await _until(shop, lambda: len(shop.billed) >= count and sum(shop.invoices.values()) >= count)
        finally:
            watching.cancel()
            await server.close()
    return _report(shop, orders, len(letters), replayed, poison, time.monotonic() - begun, as_json)


async def _arrive(shop: Shop, server: Any, orders: list[dict[str, Any]]) -> None:
    """A quarter of the customers order over HTTP, the others through the broker, each in the order of the numbers."""
    import aiohttp

    over_http = [order for order in orders if int(order["customer"].partition("-")[2]) % 4 == 0]
    over_broker = [order for order in orders if int(order["customer"].partition("-")[2]) % 4]
    host, port = server.address

    async def post(customer: str) -> None:
        for order in over_http:
            if order["customer"] != customer:
                continue
            headers = {
                "ce-specversion": "1.0",
                "ce-id": order["id"],
                "ce-source": "/demo/web",
                "ce-type": "order.placed",
            }
            async with session.post(f"http://{host}:{port}/orders", json=order, headers=headers) as answer:
                if answer.status != 204:
                    raise click.ClickException(f"the receiver answered {answer.status}: {await answer.text()}")

    async with aiohttp.ClientSession() as session:
        posting = [asyncio.create_task(post(customer)) for customer in {order["customer"] for order in over_http}]
        for start in range(0, len(over_broker), CUSTOMERS):
            chunk = over_broker[start : start + CUSTOMERS]
            await asyncio.gather(*(shop.place(order) for order in chunk))
        await asyncio.gather(*posting)


async def _until(shop: Shop, done: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not done():
            shop.changed.clear()
            await shop.changed.wait()


async def _letters(worker: Worker, expected: int) -> list[Any]:
    assert worker.dead_letters is not None
    async with asyncio.timeout(PATIENCE):
        while True:
            letters = [stored async for stored in worker.dead_letters.scan("demo") if stored.letter.state == "dead"]
            if len(letters) >= expected:
                return letters
            await asyncio.sleep(0.05)


async def _replay(worker: Worker, letters: list[Any]) -> int:
    from headrace.engine.replays import replay_letter

    replayed = 0
    assert worker.dead_letters is not None
    for stored in letters:
        problem = await replay_letter(worker.dead_letters, worker.broker, stored, by="headrace demo", reason="fixed")
        if problem:
            click.echo(f"replay of {stored.letter.id}: {problem}", err=True)
        else:
            replayed += 1
    return replayed


async def _watch(shop: Shop, count: int) -> None:
    """A live line on a terminal, a plain one a second elsewhere."""
    live = sys.stderr.isatty()
    while True:
        await asyncio.sleep(0.1 if live else 1.0)
        done = len(shop.billed)
        line = f"billed {done}/{count}  recovered {shop.recovered}  invoices {sum(shop.invoices.values())}"
        if live:
            filled = 30 * done // count
            click.echo(f"\r[{'#' * filled}{'.' * (30 - filled)}] {line} ", err=True, nl=False)
        else:
            click.echo(line, err=True)


def _report(
    shop: Shop, orders: list[dict[str, Any]], dead: int, replayed: int, poison: set[str], seconds: float, as_json: bool
) -> int:
    import json

    sent = {order["id"] for order in orders}
    lost = sent - set(shop.billed)
    repeated = {order: count for order, count in shop.billed.items() if count > 1}
    disordered = shop.disordered(poison)
    rows: dict[str, Any] = {
        "orders sent": len(sent),
        "of them over HTTP": shop.received,
        "billed": len(shop.billed),
        "recovered after a failure": shop.recovered,
        "dead-lettered": dead,
        "replayed after the fix": replayed,
        "invoices published": sum(shop.invoices.values()),
        "customers out of order": len(disordered),
        "handled twice": len(repeated),
        "lost": len(lost),
        "seconds": round(seconds, 1),
    }
    agree = (
        not lost
        and not repeated
        and not disordered
        and dead == replayed == len(poison)
        and set(shop.invoices) == sent
        and sum(shop.invoices.values()) == len(sent)
    )
    if sys.stderr.isatty():
        click.echo("", err=True)
    if as_json:
        click.echo(json.dumps({**rows, "agree": agree}))
        return 0 if agree else 1
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value:>8}")
    click.echo("all accounted for" if agree else "THE SUMS DO NOT AGREE")
    return 0 if agree else 1
