"""What is public is stated, documented, and on the page."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from typing import Any

import api
import pytest
from conftest import ROOT

import snn2chip

PUBLIC = [
    pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
    for module in map(importlib.import_module, api.MODULES)
    for name in api.names_of(module)
]


def test_the_page_is_what_the_docstrings_say() -> None:
    """Made again with `python tools/api.py`."""
    assert api.PAGE.read_text(encoding="utf-8") == api.page()


@pytest.mark.parametrize("value", PUBLIC)
def test_every_public_name_is_documented(value: Any) -> None:
    """A sentence at least; what it raises where its code does; every argument of a function with Args."""
    members = api.members_of(value).values() if inspect.isclass(value) else ()
    for each in (value, *members):
        text = (each.fget if isinstance(each, property) else each).__doc__ or ""
        assert len(text.split()) >= 3, each
    if inspect.isfunction(value):
        raises = "raise InputError" in inspect.getsource(value)
        assert "Raises:" in (value.__doc__ or "") or not raises, value
        if "Args:" in (value.__doc__ or ""):
            for name in inspect.signature(value).parameters:
                assert re.search(rf"\b{name}\b", value.__doc__ or ""), name


def test_the_public_names_are_few_and_there() -> None:
    """As `__all__` says; others are none; and none is loaded before it is asked for."""
    assert set(snn2chip.__all__) >= {"deploy", "Deployed", "load", "InputError", "CheckFailed"}
    assert all(hasattr(snn2chip, name) for name in snn2chip.__all__)
    with pytest.raises(AttributeError, match="no attribute 'simulate_all'"):
        _ = snn2chip.simulate_all
    code = "import sys, snn2chip; snn2chip.InputError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
