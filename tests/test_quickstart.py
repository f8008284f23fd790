"""docs/quickstart.ipynb runs from a fresh folder to a prediction, and is stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.test_architecture import FLOORS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_it_is_stored_without_outputs():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) >= 4
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_it_goes_from_the_phantom_to_a_prediction(tmp_path):
    for room in FLOORS:
        (tmp_path / room).symlink_to(ROOT / room)
    (tmp_path / "docs").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Generous: under five minutes on two free cores, but tests share theirs.
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path / "docs")}}).execute()
    trained, planes, ages, drawn = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"][1:]
    assert "best.ckpt" in trained[0]["text"] or "results" in trained[0]["text"]
    assert (tmp_path / "outputs" / "srkd" / "quickstart" / "results.json").is_file()
    table = planes[-1]["data"]["text/plain"].splitlines()
    assert len(table) == 13
    rows = [line.split() for line in table[1:]]
    assert sum(row[1] == row[2] for row in rows) >= 5, "chance is 2 of 12"
    assert " w " in ages[-1]["data"]["text/plain"]
    assert any("image/png" in output.get("data", {}) for output in drawn)
