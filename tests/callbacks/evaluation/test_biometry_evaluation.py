import numpy as np
import pytest
import torch
from lightning import Trainer

from callbacks import BiometryEvaluation
from metrics.biometry import biometry_scores
from tests.callbacks.zero_shot_fakes import PROTOCOL, FakeData, FakeModule, head_records, picture
from tests.metrics.two_processes import run_in_two_processes


def run_test(folder, evaluation, module, data):
    Trainer(
        default_root_dir=folder,
        callbacks=[evaluation],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).test(module, datamodule=data, verbose=False)


def naive_age(model, record):
    """One prompt after another, in float64, as the protocol says it."""
    image = picture(record, 1).flatten()[:24].double().numpy()
    spacing = f"{max(800, 540) / 4 * record.pixel_size_mm:.2f}"
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
        assert details["n_scored"] == 23
        assert details["total"] == sum(row["assessed"] for row in details["samples"]) < 23
        assert details["valid"] == sum(row["assessed"] and row["correct"] for row in details["samples"])
        assert evaluation.final_metrics[f"{name}/hc18/validity"] == details["validity"]
    assert (tmp_path / "plots" / "teacher-hc18.png").stat().st_size > 10_000


def test_spacing_is_printed_from_the_exact_pixel_size(tmp_path, monkeypatch):
    # 200 * 0.000775 prints as 0.15 in float64 and as 0.16 in float32.
    asked = []
    data = FakeData(["hc18"])
    records = [type(r)(**{**vars(r), "pixel_size_mm": 0.000775}) for r in head_records(23, seed=4)]
    monkeypatch.setattr(data, "evaluation_records", lambda *_: records)

    def spy(model, templates, spacings, progress):
        asked.extend(spacings)
        raise InterruptedError

    monkeypatch.setattr("callbacks.evaluation.biometry_evaluation.age_embeddings", spy)
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


def _score(data, model):
    with torch.no_grad():
        return BiometryEvaluation(protocol=PROTOCOL).score(
            model.eval(),
            data.evaluation_loader("hc18", "test", model.preprocessing),
            data.evaluation_records("hc18", "test"),
            "hc18",
        )


def _distributed(rank, module, count, expected):
    assert _score(FakeData(["hc18"], count=count, batch_size=1), module.student) == expected


@pytest.mark.parametrize("count", [23, 1])
def test_two_processes_give_what_one_gives(tmp_path, count):
    # With one image the second process has none, and must still join in.
    module = FakeModule()
    # One image at a time: products of the same shapes, and so the same rounding, on any number of processes.
    expected = _score(FakeData(["hc18"], count=count, batch_size=1), module.student)
    run_in_two_processes(_distributed, tmp_path, module, count, expected)


def test_the_best_constant_age_is_scored_on_the_same_heads(tmp_path):
    evaluation, module = BiometryEvaluation(protocol=PROTOCOL, figures=False), FakeModule(teacher=False)
    run_test(tmp_path, evaluation, module, FakeData(["hc18"]))
    hc_mm = np.array([record.hc_mm for record in head_records(23, seed=len("test"))])
    valid = [biometry_scores(np.full(23, days), hc_mm, resamples=1)["valid"] for days in range(98, 273)]
    details = evaluation.results["constant"]["hc18"]
    assert (details["age_days"], details["valid"]) == (98 + int(np.argmax(valid)), max(valid))
    assert (details["total"], details["n_scored"]) == (evaluation.results["student"]["hc18"]["total"], 23)
    assert evaluation.final_metrics["constant/hc18/validity"] == details["validity"]
    assert "constant/hc18/validity" in {name for _, name, _ in module.logged}
