"""Finds the app that a command names: ``module:attribute``, or a file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from headrace.app import App
from headrace.errors import ConfigurationError

__all__ = ["app_name", "load"]


def load(target: str) -> App:
    """Import the app.

    Raises `ConfigurationError` that says whether the module is missing, raised while it was imported, or holds no app.
    """
    name, _, attribute = target.partition(":")
    module = _file(Path(name)) if name.endswith(".py") or os.sep in name else _module(name)
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, App):
            raise ConfigurationError(
                f"{target}: {attribute!r} is no App there; the apps of that module are {_apps(module)}"
            )
        return found
    apps = _apps(module)
    if len(apps) != 1:
        raise ConfigurationError(f"{target} holds {len(apps)} apps ({apps}); name one as {name}:ATTRIBUTE")
    found = getattr(module, apps[0])
    assert isinstance(found, App)
    return found


def app_name(target: str) -> str:
    """The name of an app given as a module, a file, or just its name."""
    return load(target).name if ":" in target or target.endswith(".py") or os.sep in target else target


def _apps(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, App)]


def _module(name: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigurationError(
                f"there is no module {name!r} here or on the import path; APP is module:attribute or a file"
            ) from None
        raise ConfigurationError(
            f"{name}: its import needs the module {error.name!r}, which is not installed"
        ) from error
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{name} raised while it was imported: {_where(error)}") from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"there is no file {str(path)!r}; APP is module:attribute or a file")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{path} raised while it was imported: {_where(error)}") from error
    return module


def _where(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    place = f" ({last.tb_frame.f_code.co_filename}:{last.tb_lineno})" if last is not None else ""
    return f"{type(error).__name__}: {error}{place}"
