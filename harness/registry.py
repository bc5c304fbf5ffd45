"""Named plugins. A plugin is added where it is defined; nothing else has to change."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to plugins of one kind, e.g. importance methods.

    A name of the form ``package.module:attribute`` is imported, so that a user's own plugin
    needs no registration.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._plugins: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a plugin under `name`."""

        def register(plugin: T) -> T:
            if name in self._plugins:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._plugins[name] = plugin
            return plugin

        return register

    def get(self, name: str) -> T:
        """The plugin of that name.

        Raises:
            ValueError: unknown name (the known ones are listed), or an import that fails.
        """
        if name in self._plugins:
            return self._plugins[name]
        if ":" in name:
            return import_attribute(name, self.kind)
        raise ValueError(
            f"unknown {self.kind} {name!r}; known: {', '.join(self)}, "
            f"or your own as 'package.module:attribute'"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._plugins)


def import_attribute(path: str, kind: str):
    """Import ``package.module:attribute``; `kind` names the thing in the error."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{kind} {path!r} cannot be imported: {error}") from error


def plugin_identity(name: str) -> str:
    """What a plugin is for a fingerprint: its name and, of the user's own, its module's text, so
    that results of changed code are not taken for those of the new."""
    module, colon, _ = name.partition(":")
    if not colon:
        return name
    found = importlib.util.find_spec(module)
    path = None if found is None else found.origin
    text = Path(path).read_bytes() if path and Path(path).is_file() else b""
    return f"{name} {hashlib.sha256(text).hexdigest()}"
