"""The compiled libraries: made once, checked before they are loaded, made anew when they are not what was made."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Child

from snn2chip import native
from snn2chip.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shared libraries of this kind")
SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> native.Library:
    """A library of one function in a folder of its own, an empty cache, and a real compiler that is counted."""
    monkeypatch.setenv("SNN2CHIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    real = native.compiler()[0]
    counting = tmp_path / "counting"
    counting.write_text(f'#!/bin/sh\necho run >> "{tmp_path}/runs"\nexec {real} "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setenv("CXX", str(counting))
    (tmp_path / "one.cpp").write_text(SOURCE)
    return native.Library("one", tmp_path, ("one.cpp",), (), ("-fPIC",))


def kept(library: native.Library) -> Path:
    """Where it is in the cache."""
    return library.folder / "cache" / "kernels" / f"one-{library.digest()}.so"


def compiled(library: native.Library) -> int:
    """How often it was compiled: two runs of the compiler each."""
    runs = library.folder / "runs"
    return len(runs.read_text().split()) // 2 if runs.exists() else 0


LOAD = """
import sys
from pathlib import Path
from snn2chip import native
print(native.Library("one", Path(sys.argv[1]), ("one.cpp",), (), ("-fPIC",)).load().answer())
"""


def answer(library: native.Library) -> str:
    """What its function gives, in a process of its own: a library is loaded once."""
    done = Child(LOAD, library.folder).finish(60)
    return done.out.strip() if done.code == 0 else f"exit {done.code}: {done.err.splitlines()[-1:]}"


def test_the_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What $CXX says, which alone is looked for; else the three that were."""
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    with pytest.raises(InputError, match=r"\$CXX is 'no-such-compiler'; name one that is there, or unset it"):
        native.compiler()
    monkeypatch.setenv("CXX", "g++ 'unfinished")
    with pytest.raises(InputError, match=r"\$CXX is no command \(No closing quotation\): g\+\+ 'unfinished; mend or"):
        native.compiler()
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"no C\+\+ compiler found \(c\+\+, g\+\+ or clang\+\+\); install g\+\+"):
        native.compiler()


def test_compiled_once_into_a_folder_of_the_user(library: native.Library) -> None:
    """The second load compiles nothing; nobody else can write the folder, whatever the umask was."""
    before = os.umask(0o002)
    try:
        assert library.load().answer() == 42
    finally:
        os.umask(before)
    assert (kept(library).parent.stat().st_mode & 0o777, kept(library).stat().st_mode & 0o777) == (0o755, 0o755)
    assert answer(library) == "42"
    assert compiled(library) == 1
    assert sorted(path.name for path in kept(library).parent.iterdir()) == [
        kept(library).name, f"{kept(library).name}.sha256",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["cut off", "empty", "a byte", "no hash", "hash of another", "writable", "a link"])
def test_a_library_that_is_not_what_was_made_is_made_anew(damage: str, library: native.Library) -> None:
    """Cut off in the middle it would end the process with SIGBUS at every load; others' code is not loaded."""
    target = library.build(kept_folder(library))
    content, line = target.read_bytes(), Path(f"{target}.sha256")
    if damage == "cut off":
        target.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        target.write_bytes(b"")
    elif damage == "a byte":
        target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no hash":
        line.unlink()
    elif damage == "hash of another":
        line.write_text(f"{'0' * 64} {library.digest()}\n")
    elif damage == "writable":
        target.chmod(0o777)
    else:
        elsewhere = library.folder / "elsewhere.txt"
        elsewhere.write_text("mine")
        target.unlink()
        target.symlink_to(elsewhere)
    assert answer(library) == "42"
    assert compiled(library) == 2
    assert answer(library) == "42"
    assert compiled(library) == 2
    if damage == "a link":
        assert elsewhere.read_text() == "mine" and not target.is_symlink()


def kept_folder(library: native.Library) -> Path:
    """The cache's folder as `load` makes it, and the library's place in it."""
    kept(library).parent.mkdir(parents=True, mode=0o700)
    return kept(library)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_is_not_trusted(mode: int, library: native.Library) -> None:
    """Neither loaded from nor written to; the line says how to mend it."""
    library.build(kept_folder(library))
    kept(library).parent.chmod(mode)
    with pytest.raises(InputError, match=r"kernels' can be changed by other users; chmod go-w it"):
        library.load()
    kept(library).parent.chmod(0o755)
    assert answer(library) == "42"
    assert compiled(library) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["folder", "file"])
def test_what_belongs_to_another_user_is_not_loaded(which: str, library: native.Library) -> None:
    target = library.build(kept_folder(library))
    os.chown(target.parent if which == "folder" else target, 12345, 12345)
    if which == "folder":
        with pytest.raises(InputError, match=r"kernels' belongs to another user \(number 12345\)"):
            library.load()
    else:
        assert answer(library) == "42"
        assert compiled(library) == 2


def test_a_library_beside_its_sources_is_taken_if_it_is_of_them(library: native.Library) -> None:
    """As an installation leaves it; of other sources, flags or cut off, another one is made in the cache."""
    library.build()
    assert answer(library) == "42" and compiled(library) == 1
    assert not (library.folder / "cache").exists()
    other = replace(library, flags=("-fPIC", "-O1"))
    assert other.digest() != library.digest()
    (library.folder / "one.cpp").write_text(SOURCE.replace("42", "43"))
    assert answer(library) == "43" and compiled(library) == 2
    (library.folder / "one.cpp").write_text(SOURCE)
    assert answer(library) == "42" and compiled(library) == 2
    library.beside.write_bytes(library.beside.read_bytes()[:1000])
    assert answer(library) == "42" and compiled(library) == 3


def test_why_there_is_none_is_one_line(
    library: native.Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No compiler, one that fails, or no place to write: no file is left."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"no C\+\+ compiler found"):
        library.build(tmp_path / "new" / "a.so")
    monkeypatch.setenv("CXX", f"{sys.executable} -c raise(SystemExit(3))")
    with pytest.raises(InputError, match="failed with exit code 3") as caught:
        library.build(tmp_path / "new" / "a.so")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_the_engine_is_whole() -> None:
    """Both libraries of the package load."""
    assert native.EVENTS.load().snn2chip_events_simd() in (0, 1, 2)
    assert native.NN.load() is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_engine_for_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `make wheels` compiles it here: Arm's code, which an installation there takes for its own."""
    pytest.importorskip("ziglang", reason="compiles for Arm: pip install 'snn2chip[explore]'")
    monkeypatch.setenv("CXX", f"{sys.executable} -m ziglang c++ -s -target aarch64-linux-gnu.2.17")
    monkeypatch.setenv("_PYTHON_HOST_PLATFORM", "manylinux_2_17-aarch64")
    made = native.EVENTS.build(tmp_path / "engine.so")
    assert made.read_bytes()[:4] == b"\x7fELF" and made.read_bytes()[18] == 183  # AArch64
    monkeypatch.delenv("_PYTHON_HOST_PLATFORM")
    assert not native.EVENTS._whole(made)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert native.EVENTS._whole(made)
