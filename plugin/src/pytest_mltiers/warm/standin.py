"""What torch imports for its first optimiser, imported only when something is asked of it that makes a difference.

``torch.optim`` imports ``torch._dynamo``, which takes nearly as long as torch itself, to call two of its functions:
``disable``, by way of ``torch/_compile.py``, and ``graph_break``. As long as nothing is compiled neither of them does
anything, and whoever compiles asks for more. So a module that has these two stands in for it, as one of the standard
library's ``importlib.util.LazyLoader`` would, but for that any other question has the real one imported first.
"""

from __future__ import annotations

import ctypes.util  # noqa: F401 -- as the real one does
import importlib.util
import re
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"
WRAPPER = "torch._compile"  # what calls `disable` for torch's own functions
READ = (WRAPPER, "torch.optim.optimizer")
KNOWN = {"disable", "graph_break"}
LOOKS = "importlib.util"  # whose `find_spec` asks what there is, and imports no more than its package
_ASKED = re.compile(r"^[^#\n\"'`]*torch\._dynamo\.(\w+)|^\s*(from torch\._dynamo\b.*)", re.MULTILINE)
_CACHE = "__dynamo_disable"
"""Where ``torch._compile`` keeps what ``disable`` has given it, an attribute of the function."""


def stand_in() -> bool:
    """Have the stand-in where ``torch._dynamo`` would be. Returns whether it is there: not where that is imported
    already, nor where there is no torch, or one whose optimisers ask for more.
    """
    found = sys.modules.get(NAME)
    if found is not None or "torch" not in sys.modules:
        return isinstance(found, StandIn)
    spec = importlib.util.find_spec(NAME) if all(_asks_for_no_more(name) for name in READ) else None
    if spec is None:
        return False
    module = StandIn(spec)
    sys.modules[NAME] = module
    vars(sys.modules["torch"])["_dynamo"] = module
    sys.meta_path.insert(0, module.parts)
    for name, package in list(sys.modules.items()):
        # Torch itself, and whoever else finds parts that are missing, goes on to do so. Nobody is asked: `torch.ops`
        # has whatever it is asked for, from then on.
        own = getattr(package, "__dict__", {})
        if name.startswith("torch.") and "__path__" in own and "__getattr__" not in own:
            module.complete(package)
    return True


def give_way() -> None:
    """Have the real one imported after all, where the stand-in is. Raises what that raises."""
    found = sys.modules.get(NAME)
    if isinstance(found, StandIn):
        found.replace()


def _asks_for_no_more(name: str) -> bool:
    """Whether what this module of torch asks of ``torch._dynamo`` is what the stand-in has."""
    file = getattr(sys.modules.get(name), "__file__", None)
    try:
        text = Path(file or "").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return {match[1] or match[2] for match in _ASKED.finditer(text)} <= KNOWN


class StandIn(ModuleType):
    """In the place of ``torch._dynamo``. ``used``: whether torch would have imported that by now."""

    def __init__(self, spec: ModuleSpec) -> None:
        own = self.__dict__  # what is set from outside is meant for the real one
        own.update(_given=[], _completed=[], used=False, parts=_Parts(self), _lock=threading.RLock())
        own.update(__name__=NAME, __doc__=None, __spec__=spec, __loader__=spec.loader, __package__=NAME)
        own.update(__file__=spec.origin, __path__=list(spec.submodule_search_locations or ()))

    def disable(self, *args: Any, **kwargs: Any) -> Any:
        """As ``torch._dynamo.disable``; where torch asks, for a function of its own: something that calls it."""
        function = args[0] if args else None
        if sys._getframe(1).f_globals.get("__name__") != WRAPPER or not callable(function):
            return self.replace().disable(*args, **kwargs)
        self.__dict__["used"] = True

        def as_it_is(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        self._given.append((function, args[1:], kwargs, as_it_is))
        return as_it_is

    def graph_break(self, *_: object, **__: object) -> None:
        """As ``torch._dynamo.graph_break`` where nothing is compiled."""
        self.__dict__["used"] = True

    def replace(self) -> Any:
        """Import the real one. Returns it. Raises what that raises."""
        with self._lock:
            if sys.modules.get(NAME) is self:
                sys.meta_path.remove(self.parts)
                del sys.modules[NAME]
                torch = vars(sys.modules["torch"])
                if torch.get("_dynamo") is self:
                    del torch["_dynamo"]
        real = importlib.import_module(NAME)
        while self._completed:
            vars(self._completed.pop()).pop("__getattr__", None)
        given: list[tuple[Any, Any, Any, Callable[..., Any]]] = self._given
        while given:  # torch finds by them what not to compile
            function, args, kwargs, ours = given.pop()
            if getattr(function, _CACHE, None) is ours:
                setattr(function, _CACHE, real.disable(function, *args, **kwargs))
        return real

    def is_due(self) -> bool:
        """Whether torch would have imported the real one by now, and doing so may be made up for: not while a part of
        torch is being imported, of which the real one's import would find the half.
        """
        if not self.used or sys.modules.get(NAME) is not self:
            return False
        modules = [module for name, module in [*sys.modules.items()] if _is_of_torch(name)]
        specs = [getattr(module, "__dict__", {}).get("__spec__") for module in modules]
        return not any(getattr(spec, "_initializing", False) for spec in specs)

    def complete(self, package: ModuleType) -> None:
        """Have a package of torch find the parts that the real one's import would have brought it, from when torch
        would have imported that: nobody imports ``torch.fx.experimental.symbolic_shapes`` who finds it there anyway.
        """

        def __getattr__(name: str) -> Any:  # noqa: N807
            asked_by = sys._getframe(1).f_globals.get("__name__")  # `from … import` looks before it imports
            looked_up = asked_by != "importlib._bootstrap" and not name.startswith("__")
            if looked_up and self.is_due() and _is_part(package, name):
                self.replace()
                if name in vars(package):
                    return vars(package)[name]
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")

        vars(package)["__getattr__"] = __getattr__
        self._completed.append(package)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # whoever looks at every module there is
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        return getattr(self.replace(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.replace(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.replace(), name)

    def __dir__(self) -> list[str]:
        return dir(self.replace())


class _Parts:
    """A finder of the modules in ``torch._dynamo``: whoever imports one of them imports the real one first.

    So does whoever imports another part of torch that is not there yet, once torch would have imported the real one:
    some cannot be imported without it. Torch itself, which imports parts of itself when they are first used
    (``assert_close`` does), copes with either.
    """

    def __init__(self, module: StandIn) -> None:
        self._module = module

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """As the import system asks for it."""
        if not _is_of_torch(name):
            return None
        if sys._getframe(2).f_globals.get("__name__") == LOOKS:
            return None
        asked_by = _asked_by()
        if not name.startswith(f"{NAME}.") and (_is_of_torch(asked_by) or not self._module.is_due()):
            return None
        self._module.replace()
        found = sys.modules.get(name)
        if found is None:
            return None
        # Of a module that is there the import system takes the module's own spec, and executes that: once more, were it
        # not this one until then.
        spec = ModuleSpec(name, _ThereAlready(found))  # type: ignore[arg-type]
        vars(found)["__spec__"] = spec
        return spec


class _ThereAlready:
    """A loader of a module that is loaded."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__spec__"] = self._spec  # torch's modules of settings have no attribute set that they do not know


def _is_of_torch(name: str) -> bool:
    return name == "torch" or name.startswith("torch.")


def _asked_by() -> str:
    """The name of the module that imports something."""
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name != __name__ and name.partition(".")[0] != "importlib":
            return name
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _is_part(package: ModuleType, name: str) -> bool:
    whole = f"{package.__name__}.{name}"
    if whole in sys.modules:  # it is being imported: whoever imports it finds it there
        return False
    return PathFinder.find_spec(whole, package.__path__) is not None
