from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning import Callback

from callbacks import BiometryEvaluation
from callbacks.evaluation.embedding_pass import embed
from callbacks.evaluation.input_ablations import Inputs, ablated_inputs, other_patients
from metrics import gestational_age_weeks
from metrics.biometry import biometry_scores
from models import Preprocessing
from models.age_table_cache import stored_age_embeddings
from models.evaluation_mode import evaluation_mode
from tests.callbacks.tiny import quiet_trainer
from tests.callbacks.zero_shot_fakes import (
    LENGTH,
    PROTOCOL,
    SIZE,
    FakeData,
    FakeModule,
    LetterEncoder,
    head_records,
    picture,
)
from tests.metrics.two_processes import one_thread, run_in_processes


def run_test(folder, evaluation, module, data):
    quiet_trainer(folder, evaluation).test(module, datamodule=data, verbose=False)


def naive_age(model, record, shown=None):
    """One prompt after another, in float64, as the protocol says it; `shown` is another record's image."""
    image = picture(shown or record).flatten()[:24].numpy()
    spacing = f"{record.pixel_size_mm:.2f}"  # the image is of the model's size
    similarity = []
    for days in range(14 * 7, 39 * 7):
        texts = [
            template.format(weeks=days // 7, days=days % 7, spacing=spacing) for template in PROTOCOL.biometry
        ]
        cosines = [100 * image @ model.of_text(text) / np.linalg.norm(image) for text in texts]
        similarity.append(np.mean(cosines))
    best = sorted(range(175), key=lambda i: -similarity[i])[:15]
    return 98 + sorted(best)[7]


def test_results_equal_a_naive_evaluation(tmp_path):
    evaluation, module = BiometryEvaluation(protocol=PROTOCOL), FakeModule()
    run_test(tmp_path, evaluation, module, FakeData(["hc18"]))
    records = head_records(23, seed=len("test"))
    for name, model in (("student", module.student), ("teacher", module.teacher)):
        details = evaluation.results[name]["hc18"]
        ages = [naive_age(model, record) for record in records]
        assert [row["age_days"] for row in details["samples"]] == ages
        expected = biometry_scores(ages, [record.hc_mm for record in records])
        assert {key: details[key] for key in expected} == expected
        assert details["validity_patient_ci_low"] == details["validity_ci_low"]  # one head each
        thirds = details["subgroups"]["third of head circumference"]
        assert sum(third["count"] for third in thirds.values()) == details["total"]
        assert len(thirds) == 3
        assert details["n_scored"] == 23
        assert details["total"] == sum(row["assessed"] for row in details["samples"]) < 23
        assert details["valid"] == sum(row["assessed"] and row["correct"] for row in details["samples"])
        assert evaluation.final_metrics[f"{name}/hc18/validity"] == details["validity"]
    assert (tmp_path / "plots" / "teacher-hc18.png").stat().st_size > 10_000


def test_spacing_is_printed_from_the_exact_pixel_size(tmp_path, monkeypatch):
    # 0.155 prints as 0.15 in float64 and as 0.16 in float32.
    asked = []
    data = FakeData(["hc18"])
    records = [type(r)(**{**vars(r), "pixel_size_mm": 0.155}) for r in head_records(23, seed=4)]
    monkeypatch.setattr(data, "evaluation_records", lambda *_: records)

    def spy(folder, model, templates, spacings, progress):
        asked.extend(spacings)
        raise InterruptedError

    monkeypatch.setattr("callbacks.evaluation.biometry_evaluation.stored_age_embeddings", spy)
    with pytest.raises(InterruptedError):
        run_test(tmp_path, BiometryEvaluation(protocol=PROTOCOL), FakeModule(), data)
    assert set(asked) == {"0.15"}


def test_a_head_without_its_size_is_an_error(tmp_path, monkeypatch):
    data = FakeData(["hc18"])
    records = head_records(23, seed=4)
    records[7] = type(records[7])(**{**vars(records[7]), "hc_mm": None})
    monkeypatch.setattr(data, "evaluation_records", lambda *_: records)
    with pytest.raises(ValueError, match=r"hc18: no head circumference or pixel size for \['h7_HC.png'\]"):
        run_test(tmp_path, BiometryEvaluation(protocol=PROTOCOL), FakeModule(), data)


def _score(data, model, tested=None):
    evaluation = BiometryEvaluation(protocol=PROTOCOL)
    evaluation.tested = tested  # the student in a test has ablations, too
    with torch.no_grad():
        records = data.evaluation_records("hc18", "test")
        images = embed(model.eval(), records, 1, 0)["image"]
        return evaluation.score(model, images, records, "hc18")


def test_patients_with_several_heads_are_resampled_whole(tmp_path, monkeypatch):
    data = FakeData(["hc18"])
    records = [replace(record, patient=f"p{row // 4}") for row, record in enumerate(head_records(60, seed=4))]
    monkeypatch.setattr(data, "evaluation_records", lambda *_: records)
    evaluation = BiometryEvaluation(protocol=PROTOCOL, figures=False)
    run_test(tmp_path, evaluation, FakeModule(teacher=False), data)
    hc_mm, patients = [record.hc_mm for record in records], [record.patient for record in records]
    student, constant = (evaluation.results[name]["hc18"] for name in ("student", "constant"))
    ages = {
        "student": [row["age_days"] for row in student["samples"]],
        "constant": [constant["age_days"]] * 60,
    }
    for name, details in (("student", student), ("constant", constant)):
        expected = biometry_scores(ages[name], hc_mm, patients=patients)
        assert {key: details[key] for key in expected} == expected
    thirds = student["subgroups"]["third of head circumference"].values()
    assert sum(third["count"] * third["validity"] for third in thirds) == pytest.approx(
        100 * student["valid"]
    )


def test_training_heads_without_a_pixel_size_take_no_part_in_baselines():
    fitted_on, records = head_records(20, seed=5), head_records(9, seed=4)
    unknown = [replace(record, pixel_size_mm=None) for record in head_records(7, seed=6)]
    evaluation = BiometryEvaluation(protocol=PROTOCOL)
    expected = evaluation.baselines(fitted_on, records, "hc18")
    assert evaluation.baselines([*unknown, *fitted_on], records, "hc18") == expected


@pytest.mark.parametrize(
    ("training", "frozen", "folder"), [(True, False, None), (True, True, "kept"), (False, False, "kept")]
)
def test_age_embeddings_of_a_model_in_training_are_not_kept_on_disk(monkeypatch, training, frozen, folder):
    asked = []
    monkeypatch.setattr(
        "callbacks.evaluation.biometry_evaluation.stored_age_embeddings",
        lambda place, *_: asked.append(place),
    )
    evaluation = BiometryEvaluation(protocol=PROTOCOL, cache="kept")
    evaluation.training = training
    evaluation.table(LetterEncoder(seed=1).requires_grad_(not frozen), ["0.15"])
    assert asked == [folder]


class AsksAgain(Callback):
    """Asks for the student's age embeddings after its test, as the calibration does."""

    def __init__(self, evaluation, spacings):
        self.evaluation, self.spacings, self.tables = evaluation, spacings, []

    def on_test_epoch_end(self, trainer, module):
        self.tables.append(self.evaluation.table(module.student, self.spacings))


def test_age_embeddings_of_the_tested_student_are_computed_once_per_test(tmp_path, monkeypatch):
    asked, evaluation, module = [], BiometryEvaluation(protocol=PROTOCOL, figures=False), FakeModule()

    def counted(folder, model, *rest):
        asked.append(model)
        return stored_age_embeddings(folder, model, *rest)

    monkeypatch.setattr("callbacks.evaluation.biometry_evaluation.stored_age_embeddings", counted)
    data = FakeData(["hc18"])
    spacings = [f"{record.pixel_size_mm:.2f}" for record in data.evaluation_records("hc18", "test")]
    again = AsksAgain(evaluation, spacings)
    for _ in range(2):  # the second after a change of the weights
        quiet_trainer(tmp_path, evaluation, again).test(module, datamodule=data, verbose=False)
        with evaluation_mode(module.student) as used:
            expected = stored_age_embeddings(None, used, PROTOCOL.biometry, spacings)
        assert torch.equal(again.tables[-1].vectors, expected.vectors)
        with torch.no_grad():
            for parameter in module.student.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert asked.count(module.student) == 2
    assert not torch.equal(again.tables[0].vectors, again.tables[1].vectors)


def _distributed(rank, module, count, expected):
    assert _score(FakeData(["hc18"], count=count), module.student, "student") == expected


@pytest.mark.parametrize(("world", "count"), [(2, 1), (3, 23)])
def test_several_processes_give_what_one_gives(tmp_path, world, count):
    # With one image the second process has none, and must still join in.
    module = FakeModule()
    # One image at a time: products of the same shapes, and so the same rounding, on any number of processes.
    with one_thread():
        expected = _score(FakeData(["hc18"], count=count), module.student, "student")
    assert ("other_image_validity" in expected) == (count > 1)
    run_in_processes(world, _distributed, tmp_path, module, count, expected)


def test_baselines_are_fitted_on_training_patients_and_scored_on_the_models_heads(tmp_path):
    evaluation, module = BiometryEvaluation(protocol=PROTOCOL, figures=False), FakeModule(teacher=False)
    run_test(tmp_path, evaluation, module, FakeData(["hc18"]))
    training, test = (head_records(23, seed=len(split)) for split in ("train", "test"))
    hc_mm = np.array([record.hc_mm for record in training])
    valid = [biometry_scores(np.full(23, days), hc_mm, resamples=1)["valid"] for days in range(98, 273)]
    age, truth = 98 + int(np.argmax(valid)), [record.hc_mm for record in test]
    constant, by_size = (evaluation.results[name]["hc18"] for name in ("constant", "pixel_size"))
    assert constant["age_days"] == age
    for details, ages in ((constant, np.full(23, age)), (by_size, _ages_by_size(training, test))):
        expected = biometry_scores(ages, truth)
        assert {key: details[key] for key in expected} == expected
        assert (details["n_fitted"], details["n_scored"], details["split"]) == (23, 23, "test")
    for name in ("constant/hc18/validity", "pixel_size/hc18/mae_weeks"):
        assert (
            evaluation.final_metrics[name]
            == evaluation.results[name.split("/")[0]]["hc18"][name.split("/")[2]]
        )
        assert name in {logged for _, logged, _ in module.logged}


def _ages_by_size(training, test):
    """Ages by hand: of these heads the middle size has younger ages than the smallest, so the two share a mean."""
    kept = [record for record in training if 100 <= record.hc_mm <= 342]
    weeks = {
        size: gestational_age_weeks([record.hc_mm for record in kept if record.pixel_size_mm == size])
        for size in (12.26, 24.74, 40.0)
    }
    pooled = np.concatenate([weeks[12.26], weeks[24.74]]).mean()
    assert weeks[24.74].mean() < weeks[12.26].mean()
    assert pooled < weeks[40.0].mean()
    return [round(7 * (weeks[40.0].mean() if record.pixel_size_mm == 40.0 else pooled)) for record in test]


def test_without_training_heads_there_is_no_baseline_and_a_reason(tmp_path, monkeypatch):
    evaluation, data = BiometryEvaluation(protocol=PROTOCOL, figures=False), FakeData(["hc18"])
    heads = data.evaluation_records

    def no_training(benchmark, split):
        if split == "train":
            raise ValueError("no image of benchmark 'hc18' in split 'train'")
        return heads(benchmark, split)

    monkeypatch.setattr(data, "evaluation_records", no_training)
    with pytest.warns(UserWarning, match="hc18: no baselines beside the scores: no image of benchmark"):
        run_test(tmp_path, evaluation, FakeModule(teacher=False), data)
    assert list(evaluation.results["constant"]["hc18"]) == ["lacking"]
    assert not any(name.startswith(("constant/", "pixel_size/")) for name in evaluation.final_metrics)


def test_ablations_of_the_tested_student_equal_naive_ones_and_add_one_image(tmp_path):
    # The test spells each ablation with the model's own towers, one prompt after another.
    evaluation, module = BiometryEvaluation(protocol=PROTOCOL, figures=False), FakeModule()
    run_test(tmp_path, evaluation, module, FakeData(["hc18"], count=9))
    records, model = head_records(9, seed=len("test")), module.student
    hc_mm = [record.hc_mm for record in records]
    sizes = sorted(record.pixel_size_mm for record in records)
    donors = other_patients([record.patient for record in records])
    changed = {
        "other_image": [(own, records[giver]) for own, giver in zip(records, donors, strict=True)],
        "one_pixel_size": [(replace(own, pixel_size_mm=sizes[4]), own) for own in records],
    }
    found = evaluation.results["student"]["hc18"]
    for name, pairs in changed.items():
        ages = [naive_age(model, own, shown) for own, shown in pairs]
        assert found[f"{name}_validity"] == biometry_scores(ages, hc_mm, resamples=1)["validity"], name
        assert evaluation.final_metrics[f"student/hc18/{name}_validity"] == found[f"{name}_validity"]
    assert found["black_image_validity_ci_low"] <= found["black_image_validity"]
    assert model.image_calls == 2 + 1  # nine heads in batches of five, and the black image
    assert not any("image_validity" in key for key in evaluation.results["teacher"]["hc18"])
    # As in validation:
    assert not any("image_validity" in key for key in _score(FakeData(["hc18"]), model))


class RedEye(LetterEncoder):
    """Embeds an image by its mean per channel, so that black shows as the normalised zero."""

    def image_features(self, image):
        return torch.nn.functional.pad(image.mean(dim=(2, 3)), (0, 21))


def test_black_is_zero_before_normalisation():
    model = RedEye(seed=1).eval()
    model.preprocessing = Preprocessing(SIZE, (0.5, 0.25, 0.1), (0.5, 0.5, 0.2), context_length=LENGTH)
    own = Inputs(torch.zeros(2, 24), ["0.15", "0.30"])
    with torch.no_grad():
        black = ablated_inputs(model, own, head_records(2))["black_image"]
    expected = torch.tensor([-1.0, -0.5, -0.5]) / 1.5**0.5
    assert torch.allclose(black.images[:, :3], expected.expand(2, 3))
    assert black.spacings == own.spacings


@pytest.mark.parametrize("sizes", [[1, 1], [3, 1, 2], [4, 1, 1, 1, 1], [1] * 30])
def test_every_image_is_given_once_to_another_patient(sizes):
    patients = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    patients = np.random.default_rng(3).permutation(patients).tolist()
    donors = other_patients(patients)
    assert sorted(donors) == list(range(len(patients)))
    assert all(patients[giver] != own for giver, own in zip(donors, patients, strict=True))
    assert other_patients(patients).tolist() == donors.tolist()


def test_no_other_patient_where_one_has_most_images():
    assert other_patients(["a", "a", "a", "b", "c"][:4]) is None


def test_one_pixel_size_is_the_median_of_the_heads():
    model = RedEye(seed=1).eval()
    model.preprocessing = Preprocessing(SIZE, (0.5, 0.25, 0.1), (0.5, 0.5, 0.2), context_length=LENGTH)
    own = Inputs(torch.zeros(3, 24), ["0.90", "10.00", "0.20"])
    with torch.no_grad():
        changed = ablated_inputs(model, own, head_records(3))["one_pixel_size"]
    assert changed.spacings == ["0.90"] * 3
