"""A hook of mkdocs: links that leave docs/ (cards, recipes) name the file, as a site has no checkout beside it."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """``[text](../models/a/card.md)`` becomes text with the path in the checkout."""
    return _OUTSIDE.sub(lambda found: f"{found[1]} (`{found[2]}`)", markdown)
