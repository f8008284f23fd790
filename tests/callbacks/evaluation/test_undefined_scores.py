"""What few or uniform images leave undefined is said in one line a benchmark before anything is trained or scored."""

import re
import warnings
from dataclasses import replace

import pytest
from lightning import Trainer

from callbacks import BiometryEvaluation, PlaneEvaluation
from callbacks.evaluation import representation_evaluation as representation
from datamodules import FetalPlanesDataModule
from tests.callbacks.evaluation.test_representation_evaluation import evaluate
from tests.callbacks.zero_shot_fakes import PROTOCOL, FakeData, FakeModule, head_records, plane_records

PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}


class Given(FakeData):
    def __init__(self, benchmark, records):
        super().__init__([benchmark])
        self.given = records

    def evaluation_records(self, benchmark, split):
        return self.given


def fit(folder, evaluation, benchmark, records):
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", callbacks=[evaluation], **PLAIN)
    trainer.fit(FakeModule(), datamodule=Given(benchmark, records))


BRAINS = [replace(record, plane="brain") for record in plane_records(6)]
ALIKE = [replace(record, hc_mm=200.0) for record in head_records(4)]
SMALL = {
    "one class": (
        PlaneEvaluation,
        "planes",
        BRAINS,
        "planes, val patients: all 6 images are of the class brain",
    ),
    "one patient": (
        PlaneEvaluation,
        "planes",
        [replace(record, patient="p") for record in plane_records(6)],
        "planes, val patients: all 6 images are of one patient",
    ),
    "one size": (
        BiometryEvaluation,
        "hc18",
        ALIKE,
        "hc18, val patients: the rank correlation .* is undefined",
    ),
}


@pytest.mark.parametrize("case", SMALL)
def test_a_score_that_will_be_undefined_is_told_before_training_which_goes_on(tmp_path, case, monkeypatch):
    kind, benchmark, records, line = SMALL[case]
    evaluation, step, told = kind(protocol=PROTOCOL), FakeModule.training_step, []

    def training_step(module, *batch):
        told.append([str(one.message) for one in warned if re.match(line, str(one.message))])
        return step(module, *batch)

    monkeypatch.setattr(FakeModule, "training_step", training_step)
    with warnings.catch_warnings(record=True) as warned:
        fit(tmp_path, evaluation, benchmark, records)
    assert [len(lines) for lines in told] == [1, 1]
    assert evaluation.validation["student"][benchmark]["n_scored"] == len(records)


def test_what_is_undefined_is_told_of_every_split():
    told = PlaneEvaluation(protocol=PROTOCOL).check(Given("planes", BRAINS), ["val", "test"])
    assert [line.partition(":")[0] for line in told] == ["planes, val patients", "planes, test patients"]


def test_enough_images_are_scored_without_a_word(tmp_path, recwarn):
    """Two classes and two patients are enough."""
    two_of_each = [
        replace(record, plane=("brain", "femur")[i % 2]) for i, record in enumerate(plane_records(4))
    ]
    fit(tmp_path, PlaneEvaluation(protocol=PROTOCOL), "planes", two_of_each)
    fit(tmp_path, BiometryEvaluation(protocol=PROTOCOL), "hc18", head_records(23))
    assert not [str(w.message) for w in recwarn if "patients:" in str(w.message)]


def test_heads_beyond_the_growth_chart_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeModule, "training_step", lambda *_: pytest.fail("training has begun"))
    large = [replace(record, hc_mm=343.0) for record in head_records(4)]
    with pytest.raises(ValueError, match="hc18: none of the 4 heads has a circumference of 100-342 mm"):
        fit(tmp_path, BiometryEvaluation(protocol=PROTOCOL), "hc18", large)


def test_an_impossible_probe_is_left_out_and_told_before_any_image_is_read(
    tiny_planes, tmp_path, monkeypatch
):
    table = tiny_planes / "FETAL_PLANES_DB_data.csv"
    text = table.read_text()
    for name in ("Trans-cerebellum", "Trans-ventricular"):
        text = text.replace(name, "Trans-thalamic")
    table.write_text(text)
    data = FetalPlanesDataModule(str(tiny_planes), num_workers=0, evaluation_batch_size=7)
    line = "probe of subplanes, test patients: no score is computed: linear probe: needs two or more classes"
    with pytest.warns(UserWarning, match=line):
        evaluation, _, _ = evaluate(tmp_path, data, figures=False)
    assert list(evaluation.results["student"]["probe"]) == ["views"]
    assert "student/probe/subplanes_f1" not in evaluation.final_metrics
    monkeypatch.setattr(representation, "embed", lambda *_: pytest.fail("images are read"))
    with pytest.warns(UserWarning, match=line), pytest.raises(pytest.fail.Exception):
        evaluate(tmp_path, data, figures=False)
