"""Every run gets its own folder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from detr_mini.config import run_folder
from detr_mini.config.run_folder import FolderLock, new_run_folder
from detr_mini.errors import UserError


def test_run_folders_never_repeat_and_an_empty_fixed_one_is_used(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path, "x"), range(32)))
    assert len(set(folders)) == 32
    fixed = tmp_path / "mine"
    fixed.mkdir()
    assert new_run_folder(tmp_path, "x", fixed) == fixed
    (fixed / "config.yaml").write_text("")
    assert new_run_folder(tmp_path, "x", fixed) == tmp_path / "mine-2"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot make the run folder"):
        new_run_folder(tmp_path, "x")


def test_a_run_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the run folder .*run_folder="):
        new_run_folder(tmp_path / "file", "x")


def test_a_lock_is_removed_where_a_file_that_is_open_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "fcntl", None)  # as on Windows
    lock, unlink = FolderLock(tmp_path).acquire(), Path.unlink

    def refuse_open(path: Path, missing_ok: bool = False) -> None:
        if lock._descriptor >= 0:
            raise PermissionError(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse_open)
    lock.release()
    assert not any(tmp_path.iterdir())
