from __future__ import annotations

from pathlib import Path

from detr_mini.training.history import COLUMNS, History


def test_rows_after_the_checkpoint_are_dropped_on_resume_and_earlier_ones_kept(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv")
    history.begin(0)
    for step in (5, 10, 15):
        history.add({"step": step, "epoch": 0, "train/loss": step / 3})
    history.begin(10)
    assert [row["step"] for row in history.rows()] == ["5", "10"]
    history.add({"step": 15, "epoch": 1, "val/AP": 0.5})
    assert history.rows()[-1]["val/AP"] == "0.5"
    assert list(history.rows()[-1]) == list(COLUMNS)


def test_a_row_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv")
    history.begin(0)
    history.add({"step": 5, "epoch": 0})
    with history.path.open("a") as stream:
        stream.write("10,0,3.2")
    assert len(history.rows()) == 1
    history.begin(10)
    assert [row["step"] for row in history.rows()] == ["5"]


def test_rows_of_a_file_with_fewer_columns_are_kept(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv")
    history.path.write_text("step,epoch,train/loss\n5,0,1.5\n10,0,1.2\n15,0,")
    history.begin(10)
    assert [(row["step"], row["train/loss"], row["val/AP"]) for row in history.rows()] == [
        ("5", "1.5", ""),
        ("10", "1.2", ""),
    ]
