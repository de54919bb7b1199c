"""Files: complete or as before, and never in the place of something else."""

import os
import stat

import pytest

from lbp.errors import OutputError
from lbp.files import write_atomically


def fifo(path):
    os.mkfifo(path)


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


@pytest.mark.parametrize("make", [fifo, device])
def test_devices_and_pipes_are_never_replaced(tmp_path, make):
    path = tmp_path / "node"
    make(path)
    kind = stat.S_IFMT(path.stat().st_mode)
    link = tmp_path / "link"
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(OutputError, match=f"{name} is a device or a pipe"):
            write_atomically(name, b"content")
    assert stat.S_IFMT(path.lstat().st_mode) == kind
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_what_a_link_leads_to_is_written(tmp_path):
    link, target = tmp_path / "link", tmp_path / "folder" / "target"
    link.symlink_to(target)
    for content in (b"first", b"second"):
        write_atomically(link, content)
        assert link.readlink() == target
        assert target.read_bytes() == content


def test_the_folder_is_brought_to_the_disk_after_the_file(tmp_path, monkeypatch):
    path, synced = tmp_path / "file", []
    sync = os.fsync

    def recorded(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_atomically(path, b"content")
    assert synced == [(False, False), (True, True)]


def test_a_failure_names_the_file_and_the_reason(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=f"cannot write {path} .No space left on device."):
        write_atomically(path, b"content")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="is a folder, expected a file name"):
        write_atomically(tmp_path, b"content")
