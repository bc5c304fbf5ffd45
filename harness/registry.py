"""Registries of named plug-ins; one is registered where it is defined, in no other file."""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from harness.torchvision_import import call_with_torchvision

T = TypeVar("T")
#: Classes of plug-ins; Callable stands for any function or class.
Kinds: TypeAlias = tuple[type | Any, ...]

#: Names of folders of installed packages; there may be several, e.g. a user's own.
INSTALLED = {"site-packages", "dist-packages"}
#: Attribute of a plug-in with the names of the parameters that it uses.
_USES = "uses_parameters"

#: The packages of this project.
PACKAGES = ("harness", "tasks", "survey_app", "analysis", "conceptevo")


class Registry(Generic[T]):
    """Plug-ins of one kind by name, e.g. importance methods.

    A name ``package.module:attribute`` is imported, so a user's plug-in needs no registration.

    Attributes:
        kind: what the plug-ins are, for messages.
        accepts: classes of which a user's plug-in must be; any function or class by default.
    """

    def __init__(
        self, kind: str, plugins: Mapping[str, T] | None = None, accepts: Kinds = (Callable,)
    ) -> None:
        self.kind, self.accepts = kind, accepts
        self._plugins = dict(plugins or {})

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a plug-in under `name`."""

        def register(plugin: T) -> T:
            if name in self._plugins:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._plugins[name] = plugin
            return plugin

        return register

    def put(self, name: str, plugin: T) -> None:
        """Register a plug-in under `name`; it replaces an earlier one."""
        self._plugins[name] = plugin

    def get(self, name: str) -> T:
        """Return the plug-in of a name.

        Raises:
            ValueError: unknown name (the known ones are listed), an import that fails, or a plug-in
                of a wrong kind.
        """
        if name in self._plugins:
            return self._plugins[name]
        if ":" in name:
            return import_attribute(name, self.kind, self.accepts)
        raise ValueError(
            f"unknown {self.kind} {name!r}; known: {', '.join(self)}, "
            f"or your own as 'package.module:attribute'"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._plugins)


class Mark:
    """A decorator by which a plug-in says what it needs beyond what every plug-in gets."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, plugin: T) -> T:
        setattr(plugin, self._name, True)
        return plugin

    def is_on(self, plugin: object) -> bool:
        return getattr(plugin, self._name, False)


def uses(*parameters: str) -> Callable[[T], T]:
    """Return a decorator by which a plug-in says which parameters of its section it uses."""

    def mark(plugin: T) -> T:
        setattr(plugin, _USES, parameters)
        return plugin

    return mark


def is_used(parameter: str, plugins: Iterable[object]) -> bool:
    """Return whether a plug-in uses a parameter, or a user's plug-in does not say what it uses."""

    def parameters(plugin: object) -> Container[str]:
        is_ours = str(getattr(plugin, "__module__", "")).partition(".")[0] in PACKAGES
        return getattr(plugin, _USES, () if is_ours else (parameter,))

    return any(parameter in parameters(plugin) for plugin in plugins)


def description(plugin: Any) -> str:
    """Return the first sentence of a plug-in's docstring, for reports; "" if there is none."""
    text = " ".join((inspect.getdoc(plugin) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.A-Z]\.) ", text, maxsplit=1)[0]


def search_working_folder() -> str:
    """Let modules also be imported from the working folder, and return it. It is searched last, so
    that files in it do not hide installed packages."""
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    return folder


def import_attribute(path: str, kind: str, accepts: Kinds = (Callable,)):
    """Import ``package.module:attribute``, which must be of a class that a `kind` of plug-in
    `accepts`."""
    module, _, attribute = path.partition(":")
    folder = search_working_folder()
    try:
        plugin = getattr(call_with_torchvision(importlib.import_module, module), attribute)
    except AttributeError:
        raise ValueError(f"{kind} {path!r}: module {module} has no {attribute!r}") from None
    except (Exception, SystemExit) as error:  # the user's module runs while it is imported
        hint = f"; it is looked for among the installed packages, on PYTHONPATH and in {folder}"
        if importlib.util.find_spec(module.partition(".")[0]):
            hint = ""
        raise ValueError(f"{kind} {path!r} cannot be imported: {_summary(error)}{hint}") from error
    if not isinstance(plugin, accepts):
        names = " or ".join("function" if a is Callable else a.__name__ for a in accepts)
        raise ValueError(f"{kind} {path!r} must be a {names}, got {type(plugin).__name__}")
    return plugin


def call_user_code(call: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a user's function; an error in it becomes one message that names its place and begins
    with `call`, a description of the call. ValueErrors of our own code stay as they are."""
    try:
        return call_with_torchvision(function, *arguments)
    except (Exception, SystemExit) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, ValueError) and _is_ours(raised_in):
            raise
        raise UserCodeError(describe_failure(call, error)) from error


def describe_failure(call: str, error: BaseException) -> str:
    """Describe an error in the user's code and its place."""
    return f"{call} failed: {_summary(error)}{_location(error)}"


class UserCodeError(ValueError):
    """The user's code raised an error; `--debug` shows the traceback."""


def _summary(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    count = 2 if lines and lines[0].endswith(":") else 1  # torch begins some errors with a heading
    return ": ".join([type(error).__name__, *([" ".join(lines[:count])] if lines else [])])


def _is_ours(file: str) -> bool:
    """Return whether a file is in a package of this project; beside them may be the user's."""
    root = Path(__file__).parent.parent
    return any(Path(file).is_relative_to(root / package) for package in PACKAGES)


def _location(error: BaseException) -> str:
    """Return the place in the user's own files where the error was raised."""
    library = sysconfig.get_path("stdlib")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not _is_ours(frame.filename)
        and not Path(frame.filename).is_relative_to(library)
        and not INSTALLED & {*Path(frame.filename).parts}
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def plugin_identity(name: str) -> str:
    """Return the fingerprint of a plug-in: its name and, for a user's plug-in, the source of its
    module and of the imported modules of the same package or folder."""
    module, colon, _ = name.partition(":")
    if not colon:
        return name
    search_working_folder()
    digest = hashlib.sha256()
    for source in sorted(_sources(module)):
        digest.update(source.read_bytes())
    return f"{name} {digest.hexdigest()}"


def _sources(module: str) -> set[Path]:
    """Return the source files of a module and of those of its imports that belong to it."""
    pending, sources = [module], dict[str, Path]()
    while pending:
        name = pending.pop()
        path, folders = _find_module(name)
        if name in sources or path is None:
            continue
        if sources and not _belong_together(path, sources[module], name, module):
            continue
        sources[name] = path
        package = name if folders else name.rpartition(".")[0]
        pending += _imports(path.read_bytes(), package)
    return set(sources.values())


def _find_module(name: str) -> tuple[Path | None, list[Path]]:
    """Return the source file of a module, None if it has none, and the folders of its submodules.

    No code runs, as it would in `find_spec`, which imports what precedes the last dot: that may be
    a script, or need a package that is not installed.
    """
    parent, _, last = name.rpartition(".")
    if parent:
        _, folders = _find_module(parent)
        for folder in (one / last for one in folders):
            if (path := folder / "__init__.py").is_file():
                return path, [folder]
            if (path := folder.with_name(f"{last}.py")).is_file():
                return path, []
        return None, [one / last for one in folders if (one / last).is_dir()]
    spec = None
    with suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(name)
    if spec is None:
        return None, []
    is_source = spec.origin is not None and spec.origin.endswith(".py")
    folders = [*map(Path, spec.submodule_search_locations or ())]
    return Path(str(spec.origin)) if is_source else None, folders


def _belong_together(path: Path, first: Path, name: str, module: str) -> bool:
    """Return whether a module is in the package of the first one, or in its folder or below."""
    if name.partition(".")[0] == module.partition(".")[0]:
        return True
    root = first.parents[module.count(".") + (first.name == "__init__.py")]
    return root in path.parents and not INSTALLED & {*path.parts}


@cache  # of a library with hundreds of modules, this takes seconds for each checkpoint
def _imports(source: bytes, package: str) -> set[str]:
    """Return the names that a source imports; some are no modules, which are ignored later."""
    names: set[str] = set()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names if base}
    return names - {""}
