"""Control of a running app from the same machine: look at its handlers, pause and resume them, trace an event.

Each process listens on a Unix socket of its own, ``.headrace/<app>-<pid>.sock``, that only its user may open. It is
never on the admin port: probes and scrapers control nothing. The protocol is one JSON object a line, a request and its
answer; `headrace.control.client` asks all processes of an app.
"""
