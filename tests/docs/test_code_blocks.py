"""Every Python block of the README and of docs/ runs, and every command line shown there exists.

The blocks of one page build on each other, as its reader would type them. Apps are compiled, and functions named ``test_…``
are run. A block with ``await`` at its top level is a fragment of a handler: it is only compiled.
"""

import ast
import asyncio
import inspect
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from headrace import App
from headrace.cli.group import headrace

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each block in one of these languages."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        if found[2] in languages:
            indent = len(found[1])
            lines = [line[indent:] for line in found[3].splitlines()]
            yield text.count("\n", 0, found.start(3)) + 1, "\n".join(lines) + "\n"


def is_fragment(code: str, name: str) -> bool:
    """Whether the block awaits outside any function."""
    tree = compile(code, name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return bool(compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT).co_flags & inspect.CO_COROUTINE)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(blocks(page, "python"))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, code in blocks(page, "python"):
        name = f"{page.relative_to(ROOT)}:{line}"
        if is_fragment(code, name):
            continue
        before = set(module.__dict__)
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), module.__dict__)
        made: dict[str, Any] = {key: value for key, value in module.__dict__.items() if key not in before}
        for value in made.values():
            if isinstance(value, App):
                value.compile()
        for key, value in made.items():
            if key.startswith("test_"):
                if inspect.iscoroutinefunction(value):
                    asyncio.run(value())
                else:
                    value()


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Each ``headrace …`` line of the shell blocks, as its arguments."""
    for start, text in blocks(page, "", "sh", "bash", "shell", "console"):
        for offset, line in enumerate(text.replace("\\\n", " ").splitlines()):
            words = shlex.split(line.removeprefix("$ "), comments=True) if "headrace" in line else []
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words and words[0] == "headrace":
                ends = [position for position, word in enumerate(words) if word in ("|", "&", "&&", ">", ";")]
                yield start + offset, words[1 : ends[0] if ends else None]


LINES = [(page, line, words) for page in PAGES for line, words in commands(page)]


@pytest.mark.parametrize(
    ("page", "line", "words"), LINES, ids=[f"{page.relative_to(ROOT)}:{line}" for page, line, _ in LINES]
)
def test_a_command_line_that_is_shown_exists(page: Path, line: int, words: list[str]) -> None:
    command: click.Command = headrace
    context = click.Context(command, info_name="headrace")
    while isinstance(command, click.Group):
        name = words[0] if words else ""
        found = command.get_command(context, name)
        assert found is not None, f"{page}:{line}: there is no command {name!r}"
        command, words = found, words[1:]
    try:
        command.make_context(command.name or "", list(words), resilient_parsing=True)
    except click.UsageError as error:
        pytest.fail(f"{page}:{line}: {error.format_message()}")
