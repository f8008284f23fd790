from metrics import names


def test_names_that_others_build_on():
    assert names.validation_name("student", "planes", "f1") == "val/planes/f1"
    assert names.validation_name("teacher", "hc18", "validity") == "val/teacher/hc18/validity"
    assert names.final_name("random", "subplanes", "f1") == "random/subplanes/f1"
    assert names.loss_name("train", "diagonal") == "train/loss/diagonal"


def test_every_interval_is_named_after_its_metric():
    assert names.interval_names("validity") == ("validity_ci_low", "validity_ci_high")
    found = names.with_interval("f1", 0.5, (0.4, 0.7))
    assert found == {"f1": 0.5, "f1_ci_low": 0.4, "f1_ci_high": 0.7}


def test_scalars_leave_nested_results_behind():
    scores = {"f1": 0.5, "valid": 3, "per_class": {}, "confusion_matrix": [[1]], "classes": ["a"]}
    assert names.scalars(scores) == {"f1": 0.5, "valid": 3.0}
