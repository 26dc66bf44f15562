"""Files that are whole or absent: what is kept of the old one, what may lie in the way, what a killed writer leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, child_environment

from snn2chip import files
from snn2chip.errors import InputError
from snn2chip.files import atomic_path, write_text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes, links and locks of Unix")

WRITER = """
import sys
from pathlib import Path
from snn2chip.files import atomic_path
with atomic_path(sys.argv[1]) as part:
    part.write_text("half")
    print(part, flush=True)
    sys.stdin.readline()
"""


def start_writer(target: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process in the middle of writing `target`, and where it writes."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)],
        cwd=ROOT, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


# ------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "new" / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "a.txt").stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_replaced_file_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(mode)
    write_text(tmp_path / "a", "new")
    assert ((tmp_path / "a").read_text(), (tmp_path / "a").stat().st_mode & 0o7777) == ("new", mode)


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    """Relative, over two links, into another folder; the parts lie beside the real file."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "real").write_text("old")
    (tmp_path / "first").symlink_to("store/real")
    (tmp_path / "second").symlink_to("first")
    with atomic_path(tmp_path / "second") as part:
        assert part.parent.parent == store
        part.write_text("new")
    assert (tmp_path / "second").is_symlink() and (tmp_path / "first").is_symlink()
    assert not (store / "real").is_symlink()
    assert (store / "real").read_text() == "new"
    (tmp_path / "dangling").symlink_to("store/later")
    write_text(tmp_path / "dangling", "made")
    assert (store / "later").read_text() == "made" and (tmp_path / "dangling").is_symlink()
    assert sorted(path.name for path in store.iterdir()) == ["later", "real"]


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match=r"cannot write '.*/a': Too many levels of symbolic links"):
        write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()


def test_a_write_protected_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renaming over it would need no permission of it."""
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path).name, mode) != ("a", os.W_OK))  # root may always
    with pytest.raises(InputError, match="it is write-protected"):
        write_text(tmp_path / "a", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make links of another user")
def test_a_link_that_another_user_planted_is_not_followed(tmp_path: Path) -> None:
    """In a folder open to all whoever made the link would choose which of our files is replaced."""
    (tmp_path / "mine").write_text("mine")
    open_to_all = tmp_path / "tmp"
    open_to_all.mkdir()
    open_to_all.chmod(0o1777)
    link = open_to_all / "out.json"
    link.symlink_to("../mine")
    os.lchown(link, 12345, 12345)
    with pytest.raises(InputError, match="it is a link that another user made"):
        write_text(link, "x")
    assert (tmp_path / "mine").read_text() == "mine"
    os.lchown(link, 0, 0)
    write_text(link, "x")
    assert (tmp_path / "mine").read_text() == "x"


def test_where_it_is_written_cannot_be_guessed_or_entered(tmp_path: Path) -> None:
    """Every write has another folder beside the target, which only this user can enter, made exclusively."""
    places = set()
    for _ in range(20):
        with atomic_path(tmp_path / "a") as part:
            assert part.parent.parent == tmp_path and part.parent.stat().st_mode & 0o777 == 0o700
            places.add(part.parent.name)
            part.write_text("x")
    assert len(places) == 20
    assert not any(str(os.getpid()) in place for place in places)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "x")
    with pytest.raises(InputError, match="File name too long"):
        write_text(tmp_path / ("n" * 256), "x")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


# ------------------------------------------------------------------------------------- what is left of a kill


def test_what_a_killed_writer_leaves_goes_with_the_next_write(tmp_path: Path) -> None:
    """Into the same folder, of whatever name; what a living process writes stays, and is finished."""
    living, its_part = start_writer(tmp_path / "living")
    killed, rest = start_writer(tmp_path / "killed")
    with living, killed:
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        assert rest.read_text() == "half"
        foreign = tmp_path / ".foreign.part"
        foreign.mkdir()
        write_text(tmp_path / "other", "x")
        assert not rest.parent.exists()
        assert its_part.read_text() == "half"
        living.communicate("go on\n", timeout=30)
    assert living.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".foreign.part", "living", "other"]
    assert (tmp_path / "living").read_text() == "half"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_what_another_user_left_is_not_touched(tmp_path: Path) -> None:
    other = tmp_path / ".snn2chip-abcdefgh.part"
    other.mkdir()
    (other / "theirs").write_text("x")
    os.chown(other, 12345, 12345)
    write_text(tmp_path / "a", "x")
    assert (other / "theirs").exists()


def test_a_link_named_as_a_part_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".snn2chip-abcdefgh.part").symlink_to(mine)
    write_text(folder / "a", "x")
    assert (mine / "precious").read_text() == "x"


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    """Each is whole, the last one stays, nothing else."""
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                write_text(tmp_path / "a", f"{number}" * 5000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    text = (tmp_path / "a").read_text()
    assert len(text) == 5000 and len(set(text)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_was_forked_holds_no_folder(tmp_path: Path) -> None:
    ready, say = os.pipe()
    with files.exclusive(tmp_path):
        child = os.fork()
        if not child:
            os.write(say, b"!")
            signal.pause()
    try:
        assert os.read(ready, 1) == b"!"  # it runs
        with files.exclusive(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(say)


def test_a_system_without_locks_writes_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none: then nothing is held, and rests stay, which may be of living processes."""
    rest = tmp_path / ".snn2chip-abcdefgh.part"
    rest.mkdir()

    def none(*_: object, **__: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files, "_lock", none)
    with files.exclusive(tmp_path), files.exclusive(tmp_path):
        write_text(tmp_path / "a", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [rest.name, "a"]


# -------------------------------------------------------------------------------------------- texts that are read


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested too deeply"),
        (b"9" * 5000, "digits"),
        (b"[9223372036854775808]", "an integer of more than 64 bits"),
        (b"\xff\xfe[\x00]\x00", "utf-8"),
        (b"\x80", "utf-8"),
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting"),
    ],
)
def test_faults_of_json_are_one_kind_of_error(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read '.*x\.json': not valid JSON: ") as caught:
        files.read(tmp_path / "x.json", "JSON")
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_is_valid_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": -(2**63), "d": 2**63 - 1}}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert files.read(tmp_path / "x.json", "JSON") == value
    (tmp_path / "x.toml").write_text("a = [1, 2.5]\r\n[b]\r\nc = 'é'\r\n")
    assert files.read(tmp_path / "x.toml", "TOML") == {"a": [1, 2.5], "b": {"c": "é"}}


def test_a_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TEXT_BYTES_MAX", 1000)
    (tmp_path / "x.json").write_text(" " * 1001)
    with pytest.raises(InputError, match="more than 1,000 bytes"):
        files.read(tmp_path / "x.json", "JSON")
    with pytest.raises(InputError, match="Is a directory"):
        files.read(tmp_path, "JSON")
