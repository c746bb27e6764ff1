"""What ``headrace --help`` prints. It imports nothing, so that help is there at once."""

__all__ = ["COMMANDS", "overview"]

#: Name → what its help says; the module of the same name in this package holds the command as ``command``.
COMMANDS = {
    "new": "Make a folder with an app, its test and a Dockerfile.",
    "dev": "Run an app with an embedded NATS server, reloading on changes.",
    "run": "Run an app in production, in the foreground.",
    "demo": "An order flow end to end, with no set-up.",
    "check": "Validate an app and say in words what it will do.",
    "doctor": "Look at this machine, the broker and the store for what loses data or gets in the way.",
    "manifest": "Write manifests for an app: the rights that it needs in a cluster.",
    "send": "Build an event and send it.",
    "tail": "Show events as they come.",
    "handlers": "Look at the handlers of a running app; pause and resume them.",
    "trace": "Follow an event: where it is held, its attempts, its dead letters.",
    "soak": "Run an app under load and faults for a while, and judge what happened.",
    "dlq": "Look after dead letters: list, show, edit, replay, drop, export, import.",
}

_TEXT = """\
Usage: headrace [OPTIONS] COMMAND [ARGS]...

  Headrace brings events to handlers.

  APP is module:attribute (the current folder is on the import path) or a file.

  Every option has an environment variable: HEADRACE_ with the command's and the option's name, such as
  HEADRACE_DLQ_REPLAY_RATE; `headrace COMMAND --help` names it. NO_COLOR turns colours off.

  Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 partial or nothing matched, 4 cannot connect, 5 refused,
  70 drain timed out or watchdog, 130 interrupted.

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
"""


def overview() -> str:
    """The whole help text."""
    width = max(map(len, COMMANDS))
    return _TEXT + "".join(f"  {name:<{width}}  {help}\n" for name, help in COMMANDS.items())
