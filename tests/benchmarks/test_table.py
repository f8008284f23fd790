"""docs/performance.md: table, missed targets, machines and plots."""

import json

import pytest
import torch

from benchmarks import cost_curves
from benchmarks._material import ListedData, head_records, phantom_towers
from benchmarks._record import make_row, not_run, write
from benchmarks._table import BEGIN, END, write_page
from benchmarks.cost_curves import curve, exponent
from datamodules.pairs.loaders import PlainErrorLoader


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    return path


def test_rows_misses_machine_and_plots_are_written_between_the_marks(page, tmp_path):
    rows = [
        make_row(
            "loss", "batch 512", "times faster", [5, 6, 7], target=4.5, limit="products", limit_values=[2]
        ),
        make_row("pipeline", "cache", "times faster", [4, 4, 4], target=5, reason="the disk reads 1 MB/s"),
        make_row("loss", "batch 64", "times faster", [2], target=3, limit="products", limit_values=[1.2]),
        not_run("GPU step", "live", "times", "this machine has no CUDA device", 1.5),
        curve("loss time", "s", "batch", [1, 2, 4], [1.0, 4.0, 16.0]),
    ]
    write("a", rows, quick=False, path=tmp_path / "results" / "a.json")
    write_page(page, tmp_path / "results")
    write_page(page, tmp_path / "results")  # a second time gives the same page
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| loss | batch 512 | 6 (5.2-6.8) times faster | at least 4.5: met | 2 x products |  |" in text
    assert "at least 5: **missed** (the disk reads 1 MB/s)" in text
    assert "at least 3: **missed** (it takes 1.2 x products, which alone would be 2.4 times faster)" in text
    assert (
        "| GPU step | live | not run: this machine has no CUDA device (times) | at least 1.5: **not run** |  |  |"
        in text
    )
    assert "Of 4 targets 2 are missed and 1 could not be measured here:\n\n- pipeline, cache: 4 times" in text
    assert "- GPU step, live: not run: this machine has no CUDA device" in text
    assert "| a | " in text
    assert "![performance-loss-time-batch](performance-loss-time-batch.png)" in text
    assert (tmp_path / "performance-loss-time-batch.png").stat().st_size > 1000


def test_unusable_pages_and_results_are_errors(page, tmp_path):
    with pytest.raises(ValueError, match="no results yet; run make bench"):
        write_page(page, tmp_path / "none")
    (tmp_path / "x.json").write_text(json.dumps({"benchmark": "x", "quick": True, "rows": []}))
    with pytest.raises(ValueError, match=r"x.json: figures of a --quick run"):
        write_page(page, tmp_path)
    page.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"performance.md: lacks the lines"):
        write_page(page, tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "default"),
        ({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}, "make"),
        ({"MALLOC_MMAP_MAX_": "0"}, "MALLOC_MMAP_MAX_=0"),
    ],
)
def test_the_table_names_the_allocator(given, expected, page, tmp_path, monkeypatch):
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    write("a", [make_row("s", "c", "x", [1])], quick=False, path=tmp_path / "results" / "a.json")
    write_page(page, tmp_path / "results")
    (line,) = [line for line in page.read_text().splitlines() if line.startswith("| a |")]
    assert line.split(" | ")[4] == expected


def test_the_evaluation_curve_reads_through_the_data_modules_loader(tmp_path, monkeypatch):
    monkeypatch.delenv("HC18_ROOT", raising=False)
    seen = []

    def score(self, model, loader, records, names):
        seen.append((type(loader), loader.num_workers, loader.batch_size, len(loader.dataset), len(records)))

    monkeypatch.setattr(cost_curves.PlaneEvaluation, "score", score)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    records, _ = head_records(tmp_path, 2)
    _, workers = cost_curves.whole_evaluation(phantom_towers()[0].eval(), records)
    assert workers == 0, "on a CPU the data module reads without workers"
    assert seen == [(PlainErrorLoader, 0, ListedData([]).evaluation_batch_size, 2, 2)]


def test_the_exponent_of_a_power():
    sizes = [256, 512, 1024, 4096]
    assert exponent(sizes, [3e-6 * size**1.7 for size in sizes]) == pytest.approx(1.7)
