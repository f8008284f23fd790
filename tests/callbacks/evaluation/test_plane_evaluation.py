from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score
from torch.utils.data import Subset

from callbacks import PlaneEvaluation
from callbacks.evaluation.embedding_pass import embed
from datamodules.evaluation.dataset import EvaluationDataset
from metrics.benchmarks import BENCHMARKS
from metrics.bootstrap import f1_interval
from metrics.calibration import cross_fitted_confidence, reliability
from metrics.names import final_name
from tests.callbacks.tiny import quiet_trainer
from tests.callbacks.zero_shot_fakes import PROTOCOL, FakeData, FakeModule, picture, plane_records
from tests.metrics.two_processes import one_thread, run_in_processes


def naive_logits(model, prompts, records):
    """Class by class, in float64, as the protocol says it."""
    vectors = []
    for texts in prompts.values():
        mean = np.mean([model.of_text(text) for text in texts], axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    found = []
    for record in records:
        image = picture(record).flatten()[:24].numpy()
        found.append([100 * image @ vector / np.linalg.norm(image) for vector in vectors])
    return np.array(found)


def test_results_equal_a_naive_evaluation_of_every_model(tmp_path):
    evaluation, module, data = (
        PlaneEvaluation(protocol=PROTOCOL, figures=False),
        FakeModule(),
        FakeData(["planes", "subplanes"]),
    )
    quiet_trainer(tmp_path, evaluation).test(module, datamodule=data, verbose=False)
    assert list(evaluation.results) == ["student", "teacher", "random", "constant"]
    rows = [evaluation.results[name]["planes"]["samples"] for name in ("student", "random")]
    assert rows[0] != rows[1], "random weights are not the student's"
    records = plane_records(23, seed=len("test"))
    for name, model in (("student", module.student), ("teacher", module.teacher)):
        for benchmark, prompts in (("planes", PROTOCOL.planes), ("subplanes", PROTOCOL.subplanes)):
            details = evaluation.results[name][benchmark]
            classes = list(prompts)
            truth = [classes.index(r.plane if benchmark == "planes" else r.brain_plane) for r in records]
            logits = naive_logits(model, prompts, records)
            guess = logits.argmax(axis=1).tolist()
            expected = f1_score(truth, guess, labels=sorted(set(truth)), average="macro", zero_division=0)
            assert details["f1"] == pytest.approx(expected, abs=1e-9)
            ends = [details[f"f1{over}_ci_{end}"] for over in ("", "_patient") for end in ("low", "high")]
            assert ends[0] <= expected <= ends[1]
            assert ends[2] <= expected <= ends[3]
            assert ends[:2] != ends[2:]  # two images a patient
            assert evaluation.final_metrics[final_name(name, benchmark, "f1")] == details["f1"]
            labels = range(len(classes))
            assert details["confusion_matrix"] == confusion_matrix(truth, guess, labels=labels).tolist()
            assert details["n_scored"] == details["total"] == 23
            right = [row["correct"] for row in details["samples"]]
            fitted = cross_fitted_confidence(logits, truth, [record.patient for record in records])
            assert details["ece_fitted"] == pytest.approx(reliability(fitted, right)["ece"], abs=1e-3)
            assert details["protocol"] == PROTOCOL.digest
            assert [row["name"] for row in details["samples"]] == [record.name for record in records]
            assert [row["prediction"] for row in details["samples"]] == [classes[g] for g in guess]
            assert right == [t == g for t, g in zip(truth, guess, strict=True)]


def test_the_majority_class_of_training_patients_is_the_baseline_of_f1(tmp_path):
    evaluation, data = PlaneEvaluation(protocol=PROTOCOL, figures=False), FakeData(["subplanes"])
    quiet_trainer(tmp_path, evaluation).test(FakeModule(teacher=False), datamodule=data, verbose=False)
    training, truth = ([r.brain_plane for r in plane_records(23, len(split))] for split in ("train", "test"))
    (answer, most), (_, second) = Counter(training).most_common()[:2]
    assert most > second
    expected = f1_score(truth, [answer] * 23, average="macro", zero_division=0, labels=sorted(set(truth)))
    details = evaluation.results["constant"]["subplanes"]
    assert details["class"] == answer
    assert details["f1"] == pytest.approx(expected)
    assert details["f1_ci_low"] < details["f1"] < details["f1_ci_high"]
    assert details["f1_patient_ci_low"] < details["f1"] < details["f1_patient_ci_high"]
    assert evaluation.final_metrics["constant/subplanes/f1"] == details["f1"]
    classes = sorted(set(truth))
    rows = np.array([classes.index(name) for name in truth]), np.full(23, classes.index(answer))
    interval = details["f1_ci_low"], details["f1_ci_high"]
    assert interval == pytest.approx(f1_interval(*rows, len(classes)))
    assert interval != (details["f1_patient_ci_low"], details["f1_patient_ci_high"])


def test_the_majority_class_may_be_the_only_one_of_training_patients():
    records = plane_records(23)
    training = [record for record in records if record.brain_plane == "trans-thalamic"]
    found = PlaneEvaluation(protocol=PROTOCOL).baselines(training, records, "subplanes")
    assert found["constant"]["class"] == "trans-thalamic"


@pytest.mark.parametrize("split", ["test", "all"])
def test_the_chosen_images_are_scored_and_the_baseline_is_fitted_on_training_images(tmp_path, split):
    evaluation, data = (
        PlaneEvaluation(protocol=PROTOCOL, test_split=split, figures=False),
        FakeData(["subplanes"]),
    )
    quiet_trainer(tmp_path, evaluation).test(FakeModule(teacher=False), datamodule=data, verbose=False)
    assert set(data.asked) == {("subplanes", split), ("subplanes", "train")}
    assert {details["subplanes"]["split"] for details in evaluation.results.values()} == {split}
    assert not (tmp_path / "plots").exists()


def test_a_quick_run_uses_the_first_prompts_only(monkeypatch):
    own = replace(BENCHMARKS["planes"], name="own", classes=PROTOCOL.planes)
    monkeypatch.setitem(BENCHMARKS, "own", own)  # brings prompts of its own
    evaluation, model, records = (
        PlaneEvaluation(protocol=PROTOCOL, most_prompts=1),
        FakeModule().student.eval(),
        plane_records(23),
    )
    images = embed(model, records, 5, 0)["image"]
    first = {name: texts[:1] for name, texts in PROTOCOL.planes.items()}
    expected = [list(first)[guess] for guess in naive_logits(model, first, records).argmax(axis=1)]
    for benchmark in ("planes", "own"):
        rows = evaluation.score(model, images, records, benchmark)["samples"]
        assert [row["prediction"] for row in rows] == expected
    assert evaluation.protocol == PROTOCOL.first(1)


def test_test_writes_a_picture_of_every_model(tmp_path):
    evaluation = PlaneEvaluation(protocol=PROTOCOL)
    quiet_trainer(tmp_path, evaluation).test(
        FakeModule(teacher=False), datamodule=FakeData(["subplanes"]), verbose=False
    )
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == [
        f"{model}-subplanes{suffix}.png" for model in ("random", "student") for suffix in ("-reliability", "")
    ]
    assert len({(tmp_path / "plots" / name).read_bytes() for name in names}) == 4, "all of them differ"


@pytest.mark.parametrize("split", ["val", "all"])
def test_training_evaluates_the_student_every_time_and_the_teacher_once(tmp_path, split):
    evaluation = PlaneEvaluation(protocol=PROTOCOL, selection_split=split)
    module, data = FakeModule(), FakeData(["planes"])
    quiet_trainer(tmp_path, evaluation, max_epochs=3, num_sanity_val_steps=1).fit(module, datamodule=data)
    assert set(data.asked) == {("planes", split)}
    assert module.teacher.image_calls == 5
    assert module.student.image_calls == 3 * 5
    f1 = [(epoch, name) for epoch, name, _ in module.logged if name.endswith("planes/f1")]
    assert f1 == [(epoch, name) for epoch in range(3) for name in ("val/planes/f1", "val/teacher/planes/f1")]
    assert ("val/planes/n_scored", 23.0) in {(name, value) for _, name, value in module.logged}


@pytest.mark.parametrize(("named", "wanted"), [(["hc18"], None), (["planes"], [])])
def test_nothing_to_do_without_a_benchmark_of_its_own_or_with_an_empty_list(named, wanted, tmp_path):
    evaluation = PlaneEvaluation(protocol=PROTOCOL, benchmarks=wanted)
    quiet_trainer(tmp_path, evaluation).test(FakeModule(), datamodule=FakeData(named), verbose=False)
    assert evaluation.results == {}


def test_a_wanted_benchmark_without_data_is_an_error(tmp_path):
    evaluation = PlaneEvaluation(protocol=PROTOCOL, benchmarks=["subplanes"])
    with pytest.raises(ValueError, match=r"FakeData has the benchmarks \['planes'\], not \['subplanes'\]"):
        quiet_trainer(tmp_path, evaluation).test(FakeModule(), datamodule=FakeData(["planes"]), verbose=False)


def test_wrong_options():
    with pytest.raises(ValueError, match=r"PlaneEvaluation scores \['planes', 'subplanes'\], not \['hc18'\]"):
        PlaneEvaluation(benchmarks=["hc18"])
    with pytest.raises(ValueError, match="most_prompts must be 1 or more, not 0"):
        PlaneEvaluation(most_prompts=0)


@pytest.mark.parametrize(("positions", "found"), [(range(22), 22), ([*range(22), 0], 23)])
def test_a_lost_or_repeated_image_is_an_error(tmp_path, positions, found, monkeypatch):
    def without_the_last(*arguments):
        return Subset(EvaluationDataset(*arguments), positions)

    monkeypatch.setattr("callbacks.evaluation.embedding_pass.EvaluationDataset", without_the_last)
    with pytest.raises(RuntimeError, match=f"{found} of 23 images were embedded, or one of them twice"):
        quiet_trainer(tmp_path, PlaneEvaluation(protocol=PROTOCOL)).test(
            FakeModule(), datamodule=FakeData(["planes"]), verbose=False
        )


def _score(data, model):
    evaluation = PlaneEvaluation(protocol=PROTOCOL)
    records = data.evaluation_records("planes", "test")
    with torch.no_grad():
        images = embed(model.eval(), records, 1, 0)["image"]
        return evaluation.score(model, images, records, "planes")


def _distributed(rank, module, expected):
    assert _score(FakeData(["planes"]), module.student) == expected


def test_several_processes_give_what_one_gives(tmp_path):
    module = FakeModule()
    # One image at a time: products of the same shapes, and so the same rounding, on any number of processes.
    with one_thread():
        expected = _score(FakeData(["planes"]), module.student)
    run_in_processes(2, _distributed, tmp_path, module, expected)
