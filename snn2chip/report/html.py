"""Pages of one file: a Jinja2 template that escapes what it is given, one style, scripts that load nothing.

What is in a page is in it whole: its policy (Content-Security-Policy) lets the browser fetch nothing and run no script
but the page's own, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from snn2chip.text import printable

_HERE = Path(__file__).resolve().parent


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not what is markup already
    )


def render(name: str, **values: Any) -> str:
    """A page from NAME.html.jinja, style.css, NAME.css and NAME.js of this folder.

    The template gets `values`, and `style`, `script` and `policy`. Strings are escaped; what in them breaks lines or
    turns the direction of writing is replaced.
    """
    style = "".join((_HERE / file).read_text(encoding="utf-8") for file in ("style.css", f"{name}.css"))
    script = (_HERE / f"{name}.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)} 'wasm-unsafe-eval'; "
        "base-uri 'none'; form-action 'none'"
    )
    template = _environment().get_template(f"{name}.html.jinja")
    return template.render(style=style, script=script, policy=policy, **values)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
