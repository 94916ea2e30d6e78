"""Atomic writing: whole or not at all, nothing followed, nothing left."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from trip.files import MARK, atomic, atomic_path, check_target, contents, lock_folder, sweep, write_json, write_text


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "report.json"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic(target) as file:
        file.write("half")
        raise RuntimeError
    assert target.read_text() == "old" and names(target.parent) == ["report.json"]
    write_json(target, {"text": "a\ud800b é"})
    assert json.loads(target.read_text(encoding="utf-8")) == {"text": "a\ud800b é"}


def test_a_folder_replaces_a_folder_whole(tmp_path):
    target = tmp_path / "final"
    for content in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
        assert names(tmp_path) == ["final"] and names(target) == [content]


def test_a_planted_link_is_replaced_and_not_followed(tmp_path):
    victim = tmp_path / "thesis.txt"
    victim.write_text("years of work")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").symlink_to(victim)
    write_text(tmp_path / "out" / "config.json", "{}")
    assert victim.read_text() == "years of work"
    assert (tmp_path / "out" / "config.json").read_text() == "{}"


def test_a_full_disk_keeps_what_was_there_and_names_the_target(tmp_path, monkeypatch):
    target = tmp_path / "config.json"
    write_text(target, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(target, "new")
    assert target.read_text() == "old" and names(tmp_path) == ["config.json"]


def test_errors_without_a_name_get_the_targets(tmp_path):
    for error in (OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: no space left (os error 28)")):
        with pytest.raises(OSError) as caught, atomic(tmp_path / "x.json"):
            raise error
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x.json"))
    with pytest.raises(OSError, match="No space left") as caught:
        write_text("/dev/full", "x")
    assert caught.value.filename == "/dev/full"


def test_a_place_that_cannot_be_written_is_found_beforehand(tmp_path):
    (tmp_path / "photo.png").touch()
    for place in (tmp_path / "photo.png" / "fusion", "/proc/fusion"):
        with pytest.raises(OSError) as caught:
            check_target(place)
        assert caught.value.filename == str(place)
    check_target(tmp_path / "a" / "b")
    check_target("/dev/null")
    assert names(tmp_path) == ["photo.png"]


def test_a_device_is_written_as_it_is(capfd):
    write_text("/dev/stdout", "shown\n")
    assert capfd.readouterr().out == "shown\n"
    assert Path("/dev/stdout").is_symlink()
    write_text("/dev/null", "x")
    assert Path("/dev/null").is_char_device()


def test_a_planted_pipe_is_replaced_and_one_that_the_user_names_is_written(tmp_path):
    pipe = tmp_path / "faults.jsonl"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "named", named=True)
    assert os.read(reader, 9) == b"named" and pipe.is_fifo()
    os.close(reader)
    write_text(pipe, "x")
    assert pipe.is_file() and pipe.read_text() == "x"
    (tmp_path / "link").symlink_to("/dev/null")
    write_text(tmp_path / "link", "named", named=True)
    assert (tmp_path / "link").is_symlink()
    write_text(tmp_path / "link", "x")
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no folder below /dev")
def test_not_all_below_dev_is_a_device(tmp_path):
    (tmp_path / "victim").write_text("years of work")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        link = Path(folder, "r.json")
        link.symlink_to(tmp_path / "victim")
        write_text(link, "x", named=True)
        assert link.read_text() == "x" and not link.is_symlink()
    assert (tmp_path / "victim").read_text() == "years of work"


WRITER = """
import sys, time
from trip.files import atomic
with atomic(sys.argv[1]) as file:
    file.write("half"); file.flush(); print("writing", flush=True); time.sleep(60)
"""


def test_leftovers_of_a_killed_writer_are_swept_and_those_of_a_living_one_stay(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / name)], stdout=subprocess.PIPE)
        for name in ("killed", "living")
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline()
    writers[0].send_signal(signal.SIGKILL)
    writers[0].wait()
    assert len(names(tmp_path)) == 2
    sweep(tmp_path)
    assert len(names(tmp_path)) == 1
    writers[1].kill()
    writers[1].wait()
    sweep(tmp_path)
    assert names(tmp_path) == []
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()


def test_sweeping_follows_no_link(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "precious" / MARK).touch()
    (tmp_path / "out" / ".trip-ab12cd_3").symlink_to(tmp_path / "precious")
    sweep(tmp_path / "out")
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("name", [".trip-photos", ".trip-ab12cd_3"])
def test_a_folder_that_trip_did_not_make_is_somebodys(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    write_text(tmp_path / "x.json", "x")
    sweep(tmp_path)
    assert names(tmp_path / name) == ["thesis.txt"] and contents(tmp_path) == [name, "x.json"]


def test_one_folder_has_one_writer_and_a_dead_one_leaves_no_lock(tmp_path):
    refused = pytest.raises(ValueError, match="being trained into by another process; wait")
    with lock_folder(tmp_path / "run", "trained into"), refused, lock_folder(tmp_path / "run", "trained into"):
        pass
    with lock_folder(tmp_path / "run"):
        pass
    assert names(tmp_path / "run") == []
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys,time\nfrom trip.files import lock_folder\n"
         "with lock_folder(sys.argv[1]): print(1, flush=True); time.sleep(60)", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline()
    with pytest.raises(ValueError, match="another process"), lock_folder(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    time.sleep(0.01)
    with lock_folder(tmp_path / "run"):
        pass
