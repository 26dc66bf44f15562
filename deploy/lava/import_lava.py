"""Import Lava where it declares that it cannot be: Python 3.11 and later, or without torch."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import sys
import types
import warnings
from typing import Any


def import_lava() -> list[str]:
    """Import what lava-nc and netx need, standing in for what is missing here; returns what stood in.

    Two things keep lava-nc 0.10 and lava-dl 0.6 from being imported outside Python 3.10 with torch, and
    neither is part of what netx computes. Where both are in order nothing is touched.
    """
    standins = []
    warnings.simplefilter("ignore")  # Lava's own deprecations are not the caller's business
    if sys.version_info >= (3, 11):  # noqa: UP036  (this may well be 3.10)
        _import_var_model()
        standins.append("dataclass defaults")
    if importlib.util.find_spec("torch") is None:
        _stand_in_for_torch()
        standins.append("lava.lib.dl.slayer")
    with contextlib.redirect_stdout(sys.stderr):  # lava-dl greets; stdout is for the progress
        import lava.lib.dl.netx.hdf5  # noqa: F401
    return standins


def _import_var_model() -> None:
    """Import the one module that uses dataclass instances as defaults, which Python 3.11 and later refuse.

    They are refused because they cannot be hashed; so while the module is imported its dataclasses can be.
    """
    original = dataclasses.dataclass

    def hashable(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> type:
            if cls.__module__ == "lava.magma.compiler.var_model":
                options.setdefault("unsafe_hash", True)
            return original(**options)(cls)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = hashable  # type: ignore[assignment]
    try:
        import lava.magma.compiler.var_model  # noqa: F401
    finally:
        dataclasses.dataclass = original


def _stand_in_for_torch() -> None:
    """Register small modules where netx would import lava-dl's training half, which needs torch.

    netx takes one helper of RF neurons from there, and its `__init__` imports `sequential_modules`, which
    Lava's compiler imports again, with a file, while it looks for process models.
    """

    def no_rf_neurons(*_: Any, **__: Any) -> None:
        raise NotImplementedError("RF neurons need lava-dl with torch; use the full environment")

    for name in ("slayer", "slayer.neuron", "slayer.neuron.rf", "netx.sequential_modules"):
        module = types.ModuleType(f"lava.lib.dl.{name}")
        module.__path__ = []
        module.__file__ = __file__
        module.neuron_params = no_rf_neurons  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
