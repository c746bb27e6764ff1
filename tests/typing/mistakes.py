"""Mistakes that a type checker must tell a user of. Each line that is wrong says which error it expects."""

from headrace import App, Event, Reject, Retry, RetryAfter

app = App("shop")
App(7)  # expect: arg-type
App("shop", broker=4222)  # expect: arg-type
Retry(attempts="5")  # expect: arg-type
Retry(order="wait")  # expect: arg-type
Retry(on_exhausted="ignore")  # expect: arg-type
Retry(5)  # expect: call-arg
RetryAfter("soon")  # expect: arg-type
Reject(1)  # expect: arg-type


@app.on(5)  # expect: arg-type
async def wrong_source(event: Event) -> None:
    event.id = "x"  # expect: misc
    number: int = event.id  # expect: assignment
    amount: int = event.data_as(str)  # expect: assignment
    await app.publish("order.created")  # expect: call-arg
    await app.publish("order.created", {}, key=7)  # expect: arg-type
    print(number, amount, event.nothing)  # expect: attr-defined


@app.on("order.created", ack="never")  # expect: arg-type
@app.on("order.created", timeout="5")  # expect: arg-type
@app.on("order.created", keys="customer")  # expect: call-arg
async def wrong_options(event: Event) -> None: ...


async def testing() -> None:
    async with app.testing() as t:
        await t.send("order.created")  # expect: call-arg
        t.published.append("x")  # expect: arg-type
