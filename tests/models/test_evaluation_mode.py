import pytest
import torch

from callbacks import BiometryEvaluation, PlaneEvaluation
from models.evaluation_mode import evaluation_mode, random_twin
from tests.callbacks.tiny import quiet_trainer
from tests.callbacks.zero_shot_fakes import PROTOCOL, FakeData, FakeModule, LetterEncoder


def test_half_precision_weights_are_evaluated_in_float32():
    model = LetterEncoder(seed=1).half()
    with evaluation_mode(model) as used:
        assert {parameter.dtype for parameter in used.parameters()} == {torch.float32}
        assert torch.equal(used.letters, model.letters.float())
    assert model.letters.dtype == torch.float16


def test_autocast_and_tf32_are_off_inside_and_back_afterwards():
    backends = torch.backends
    before = backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
    model = LetterEncoder(seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with evaluation_mode(model):
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_grad_enabled()
            assert (backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision) == (
                "ieee",
                "ieee",
            )
        assert torch.is_autocast_enabled("cpu")
    assert (backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision) == before
    assert torch.is_grad_enabled()


def test_modes_come_back_after_an_error():
    model = LetterEncoder(seed=1).train()
    model.still.eval()

    def fail():
        with evaluation_mode(model):
            assert not model.dropout.training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.training
    assert model.dropout.training
    assert not model.still.training


def test_random_twin_has_the_architecture_and_other_weights():
    model = LetterEncoder(seed=1)
    before = torch.get_rng_state()
    twin, again, other = random_twin(model, 0), random_twin(model, 0), random_twin(model, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(twin.letters, again.letters)
    assert not torch.equal(twin.letters, model.letters)
    assert not torch.equal(twin.letters, other.letters)
    assert not twin.training


def watch(model, tower):
    """Return the set that fills with the dtypes in which a tower's matrix products run."""
    seen, plain = set(), getattr(model, tower)

    def features(inputs):
        flat = inputs.flatten(1).float()
        seen.add((flat @ flat.T).dtype)
        return plain(inputs)

    setattr(model, tower, features)
    return seen


@pytest.mark.parametrize(("make", "benchmark"), [(PlaneEvaluation, "planes"), (BiometryEvaluation, "hc18")])
def test_towers_run_in_float32_where_training_runs_in_half_precision(make, benchmark, tmp_path):
    module = FakeModule(teacher=False)
    seen = [watch(module.student, tower) for tower in ("image_features", "text_features")]
    trainer = quiet_trainer(tmp_path, make(protocol=PROTOCOL, figures=False), precision="bf16-mixed")
    trainer.test(module, datamodule=FakeData([benchmark], count=6), verbose=False)
    assert seen == [{torch.float32}] * 2


class Emptied(FakeData):
    """Has no image in one split."""

    def __init__(self, split):
        super().__init__(["planes"])
        self.empty = split

    def evaluation_records(self, benchmark, split):
        if split == self.empty:
            raise ValueError(f"no image of benchmark {benchmark!r} in split {split!r}")
        return super().evaluation_records(benchmark, split)

    def train_dataloader(self):
        raise AssertionError("training began")


def fit_without(split, folder, test_follows=True, **settings):
    evaluation = PlaneEvaluation(protocol=PROTOCOL)
    evaluation.test_follows = test_follows
    trainer = quiet_trainer(folder, evaluation, max_epochs=1, **settings)
    trainer.fit(FakeModule(), datamodule=Emptied(split))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_benchmark_without_images_is_an_error_before_the_training(split, tmp_path):
    with pytest.raises(ValueError, match=f"no image of benchmark 'planes' in split '{split}'"):
        fit_without(split, tmp_path)


def test_images_that_nothing_will_score_may_be_missing(tmp_path):
    for split, settings in {"val": {"limit_val_batches": 0}, "test": {"test_follows": False}}.items():
        with pytest.raises(AssertionError, match="training began"):
            fit_without(split, tmp_path, **settings)
