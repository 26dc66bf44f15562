"""The environment of the simulators that the benches compare with: what they need beside them is borrowed."""

from __future__ import annotations

import hashlib
import json
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

from snn2chip.places import cache_folder

PINS = (
    *("nir==1.0.8", "nirtorch==2.6", "snntorch==1.0.0", "spikingjelly==2.0.0", "loguru==0.7.3", "norse==1.1.0"),
    "lava-dl==0.6.0",
)
VERSIONS = dict(pin.split("==") for pin in PINS)


def environment() -> Path:
    """The interpreter of the simulators' environment in the user's cache, which is made where it has no ready.json.

    It has the simulators and borrows everything else (torch above all) from the Python that runs this. lava-dl asks for
    another Python, but its slayer is plain torch.
    """
    borrowed = [path for path in site.getsitepackages() if Path(path).is_dir()]
    digest = hashlib.sha256("\n".join((*PINS, *borrowed, sys.version)).encode()).hexdigest()[:12]
    folder = cache_folder() / "bench" / f"peers-{digest}"
    python = folder / "bin" / "python"
    if (folder / "ready.json").is_file() and python.exists():
        return python
    print(f"making {folder} ({', '.join(PINS)}) ...", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True, symlinks=True)
        asked = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
        own = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
        missing = {}
        for pin in PINS:  # one by one: what does not install is reported, and the others are measured
            command = [*pip, "--disable-pip-version-check", pin]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                missing[pin] = (done.stderr.strip().splitlines() or ["no word"])[-1]
                print(f"without {pin}: {missing[pin]}", file=sys.stderr)
        # only now: pip must not see what is borrowed while it installs
        lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in borrowed)
        (own / "borrowed.pth").write_text(lines, encoding="utf-8")
        (folder / "ready.json").write_text(json.dumps({"pins": PINS, "missing": missing}) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python
