"""docs/api.md, made of the docstrings of what is public: `python tools/api.py` writes it, a test holds it to them."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from torch import nn

MODULES = ("snn2chip", "snn2chip.nn")
INSIDE = ("build", "in_float64", "unwrapped")  # what snn2chip.nn has for the rest of the package
PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
HEAD = """# What is public

Made of the docstrings by `python tools/api.py`. The names below and the commands (`snn2chip --help`) keep their
meaning; everything else may change from one version to the next. Importing `snn2chip` is light: `deploy`, `load` and
what they need are loaded when they are first asked for.

Every error is an `InputError` that says what is wrong, where, the value, the limit and the remedy in one line, or
`CheckFailed` where a comparison does not hold.
"""


def names_of(module: Any) -> list[str]:
    """The public names of a module that can be documented: classes and functions."""
    listed = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = [name for name in listed if callable(getattr(module, name)) and name not in INSIDE]
    return sorted(found, key=lambda name: (inspect.isclass(getattr(module, name)), name.lower()))


def members_of(kind: type) -> dict[str, Any]:
    """The public methods and properties that a class itself has."""
    found = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    plain = {name: getattr(value, "__func__", value) for name, value in found.items()}
    # what every module of torch has, forward say, the class's own docstring speaks of
    return {
        name: value
        for name, value in plain.items()
        if (inspect.isfunction(value) or isinstance(value, property))
        and not (issubclass(kind, nn.Module) and hasattr(nn.Module, name))
    }


def _signature(value: Any) -> str:
    """Arguments and what comes of them; nothing of what another package defines, whose versions differ."""
    if isinstance(value, property):
        value = value.fget
        return f" -> {inspect.signature(value).return_annotation}"
    if inspect.isclass(value) and not getattr(value.__init__, "__module__", "").startswith("snn2chip"):
        return ""
    signature = inspect.signature(value)
    shown = [each for name, each in signature.parameters.items() if name != "self" and not name.startswith("_")]
    ending = inspect.Signature.empty if inspect.isclass(value) else signature.return_annotation
    text = str(signature.replace(parameters=shown, return_annotation=ending))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are texts


def _text(value: Any) -> str:
    return inspect.getdoc(value) or ""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for place in MODULES:
        module = importlib.import_module(place)
        parts.append(f"## {place}\n\n{_text(module)}\n")
        for name in names_of(module):
            value = getattr(module, name)
            parts.append(f"### {place}.{name}\n\n```text\n{name}{_signature(value)}\n\n{_text(value)}\n```\n")
            if inspect.isclass(value) and not issubclass(value, Exception):
                for member, what in members_of(value).items():
                    parts.append(f"```text\n{name}.{member}{_signature(what)}\n\n{_text(what)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
