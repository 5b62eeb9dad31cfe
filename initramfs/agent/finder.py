"""Find the guest's modules by a list of where each is; execute some when they are first used.

The interpreter's own finder tries name after name in folder after folder, and asks five things
about the file that it finds: half of what the agent asked of the kernel as it started. An image
never changes, so the list is made with it (`initramfs/recipes/python.py`), and what is not on
it is not there.
"""

import _frozen_importlib
import marshal
import posix
import sys
from _frozen_importlib import BuiltinImporter, ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from _thread import RLock
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.abc import Loader
else:
    # What it has is for the interpreter's own loaders.
    Loader = object

__all__ = ["execute_rest", "share", "use"]

_FIND_AND_LOAD = vars(_frozen_importlib)["_find_and_load"]

_PLACE = "/usr/lib/gcs/places.bin"
#: Nearly every module is shorter: one read has it all.
_CHUNK_BYTES = 65536
#: Of a .pyc, before its code. Source: PEP 552.
_HEADER_BYTES = 16
#: Modules that others import as the agent starts, for things that it does later or never.
LATE = frozenset(
    (
        # stacks, for the log
        "traceback",
        # copies of folders; words of a command line
        *("shutil", "shlex", "tempfile"),
        # what subprocess would read text by
        "locale",
        # messages that are no JSON
        "cbor2",
    )
)
#: The agent's own modules are late, too: the host is dialled before there is a use for most.
_OURS = "gcs."
#: Others that are not left for later when the agent has time: what failed may be that nothing
#: can be opened any more, and is to be logged.
_NEEDED = frozenset({"traceback"})
#: What the interpreter asks any module for while it imports it, or something from it.
_ASKED_BY_IMPORTS = ("__path__", "__file__", "__cached__")


def _read(path: str) -> bytes:
    file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        data = more = posix.read(file, _CHUNK_BYTES)
        while len(more) == _CHUNK_BYTES:
            more = posix.read(file, _CHUNK_BYTES)
            data += more
    finally:
        posix.close(file)
    return data


def _execute(module: ModuleType) -> None:
    assert module.__spec__ is not None
    assert module.__spec__.origin is not None
    code = memoryview(_read(module.__spec__.origin))[_HEADER_BYTES:]
    exec(marshal.loads(code), vars(module))  # noqa: S102, S302 - the image's own


class _Finder(Loader):
    """Finds what is on the list, and loads what is no library."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        """Return where a module is and what loads it; None if it is not in the image."""
        place = self._places.get(name)
        if place is None:
            return None
        folder, _, file = place.rpartition("/")
        is_package = file == "__init__.pyc"
        loader: Loader = self
        if name in LATE or (name.startswith(_OURS) and not is_package):
            loader = _LateLoader()
        elif place.endswith(".so"):
            loader = ExtensionFileLoader(name, place)
        spec = ModuleSpec(name, loader, origin=place)
        # Which gives it a __file__, for tracebacks.
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [folder]
        return spec

    def load(self, name: str, import_: "Callable[[str], object]") -> ModuleType:
        """Do what the interpreter's own function does, while there is only one thread.

        That one takes a lock for each module, and asks for things that are known here.
        """
        parent, _, child = name.rpartition(".")
        if parent and parent not in sys.modules:
            import_(parent)
        spec = None if name in sys.modules else self.find_spec(name)
        if spec is None or isinstance(spec.loader, ExtensionFileLoader):
            found: ModuleType = _FIND_AND_LOAD(name, import_)
            return found
        assert spec.loader is not None
        module = spec.loader.create_module(spec) or ModuleType(name)
        module.__spec__, module.__loader__ = spec, spec.loader
        module.__file__, module.__package__ = spec.origin, spec.parent
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        if parent:
            setattr(sys.modules[parent], child, module)
        return sys.modules[name]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the interpreter."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module's code."""
        _execute(module)


class _Late(ModuleType):
    """A module whose code has not run; it does when something is looked for in vain."""

    def __getattr__(self, name: str) -> object:
        if name not in _ASKED_BY_IMPORTS:
            assert self.__spec__ is not None
            loader = self.__spec__.loader
            assert isinstance(loader, _LateLoader)
            loader.execute(self)
        return ModuleType.__getattribute__(self, name)


class _Running(ModuleType):
    """A module whose code runs: other threads than that which runs it wait for its end."""

    def __getattribute__(self, name: str) -> object:
        loader = ModuleType.__getattribute__(self, "__spec__").loader
        assert isinstance(loader, _LateLoader)
        with loader.lock:
            return ModuleType.__getattribute__(self, name)


class _LateLoader(Loader):
    """Loads one module, twice: as one that is empty, and when something of it is used."""

    def __init__(self) -> None:
        #: held while the code runs: threads of the agent use modules too
        self.lock = RLock()
        self._has_begun = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the empty module."""
        return _Late(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""

    def execute(self, module: ModuleType) -> None:
        """Run the module's code, unless it has run or is running, in this very thread."""
        with self.lock:
            if self._has_begun:
                return
            self._has_begun = True
            module.__class__ = _Running
            try:
                _execute(module)
            except BaseException:
                self._has_begun = False
                module.__class__ = _Late
                raise
            module.__class__ = ModuleType


def execute_rest() -> "Iterator[str]":
    """Execute each module of the agent's own that has not been, and yield its name."""
    while names := [n for n, m in list(sys.modules.items()) if _is_due(n, m)]:
        for name in names:
            getattr(sys.modules[name], "__all__", None)
            yield name


def _is_due(name: str, module: ModuleType) -> bool:
    return isinstance(module, _Late) and (name.startswith(_OURS) or name in _NEEDED)


def use() -> None:
    """Have everything found by the list from here on; there is one thread until `share`."""
    finder = _Finder(marshal.loads(_read(_PLACE)))  # noqa: S302 - the image's own
    sys.meta_path[:] = [BuiltinImporter, finder]
    vars(_frozen_importlib)["_find_and_load"] = finder.load


def share() -> None:
    """Let threads import modules, too."""
    vars(_frozen_importlib)["_find_and_load"] = _FIND_AND_LOAD
