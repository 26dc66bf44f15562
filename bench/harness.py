"""What the benches share: options, tables and pages in Markdown, pictures, the file of figures, and the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snn2chip import __version__
from snn2chip.errors import InputError
from snn2chip.files import atomic_path, write_text
from snn2chip.train.surroundings import processor_name

ROOT = Path(__file__).resolve().parent.parent


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line whose help is the module's text."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int] = (0,)) -> list[str]:
    """The lines of a Markdown table; the columns `texts` are words, the others numbers."""
    rule = ["---" if place in texts else "---:" for place in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def fill(page: Path | None, begin: str, end: str, text: str) -> None:
    """Put `text` between the one `begin` and the one `end` of a page, the rest of which stays; without one, print it.

    Raises:
        InputError: the page lacks them.
    """
    if page is None:
        print(text)
        return
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed) or begin in rest or end in before + after:
        raise InputError(f"'{page}' has not one '{begin}' and one '{end}'; put them where the tables belong")
    write_text(page, f"{before}{begin}\n{text}\n{end}{after}")


def keep(path: Path | None, value: dict[str, Any] | list[Any]) -> None:
    """Write JSON with one row a line, so that a new run changes the lines it measured anew; without a path, do not."""
    if path is not None and isinstance(value, dict):
        lines = ",\n".join(f"{json.dumps(name)}: {_entries(entry)}" for name, entry in value.items())
        write_text(path, f"{{\n{lines}\n}}\n")
    elif path is not None:
        write_text(path, f"{_entries(value)}\n")


def _entries(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    return json.dumps(value)


def tell(figures: dict[str, Any], path: Path | None) -> None:
    """Print figures by name, and `keep` them."""
    for name, value in figures.items():
        form = ",.3f" if isinstance(value, float) else "," if type(value) is int else ""
        print(f"{name:>24}  {value:{form}}" if form else f"{name:>24}  {value}")
    keep(path, figures)


def plain(axes: Axes, axis: Any) -> None:
    """A light grid along `axis` behind what is drawn, and no frame to the top and the right."""
    axes.grid(True, which="major", axis=axis, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, target: Path) -> None:
    """Write a picture, whole or not at all."""
    with atomic_path(target) as part:
        figure.savefig(part, dpi=130, format="png")


def quartiles(times: list[float]) -> tuple[float, float]:
    """The lower and the upper one; of less than three, the least and the largest."""
    if len(times) < 3:
        return min(times), max(times)
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return low, high


def machine(threads: int) -> dict[str, Any]:
    """What it is measured on."""
    import torch

    return {
        "processor": processor_name(),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "snn2chip": __version__,
    }


def run(*words: object, **options: Any) -> str:
    """What a program prints.

    Raises:
        InputError: it failed; with its error, or its last words.
    """
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no word"]
        errors = [line for line in lines if line.lower().startswith("error")]
        raise InputError(f"`{' '.join(command[-4:])}` failed: {(errors or lines)[-1]}")
    return done.stdout


def snn2chip(*words: object, **options: Any) -> str:
    """A command of snn2chip in a process of its own, as `run`."""
    return run(sys.executable, "-m", "snn2chip", *words, **options)


def export(name: str, net: Path, data: Path | None) -> None:
    """Make `net` of a network of the zoo, as its card says, where it is not there yet."""
    if not net.is_file():
        print(f"exporting {name} to {net}: minutes, once", flush=True)
        given = [] if data is None else ["--data", data]
        model = ROOT / "models" / name / "model.pt"
        snn2chip("fold-and-export", model, "-o", net, *given)


def digits(folder: Path) -> list[Path]:
    """Recordings of N-MNIST's Test folder."""
    found = sorted(folder.glob("*/*.bin"))
    if not found:
        raise SystemExit(f"no Test/DIGIT/*.bin in {folder}")
    return found
