"""A stored table is the computed one, and only as long as weights, words and code are the same."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from callbacks import BiometryEvaluation
from models import freeze
from models.age_table_cache import _read, stored_age_embeddings, table_path
from models.checkpoints.integrity import tensors_digest
from models.zero_shot import age_embeddings
from tests.callbacks.tiny import quiet_trainer
from tests.callbacks.zero_shot_fakes import PROTOCOL, FakeData, FakeModule, LetterEncoder

SPACINGS = ["0.42", "0.10", "0.42"]


@pytest.fixture
def model():
    return LetterEncoder(seed=3).eval()


@pytest.fixture
def asked(monkeypatch):
    """Number of texts given to the tokenizer."""
    count = []
    tokenize = LetterEncoder.tokenize
    monkeypatch.setattr(
        LetterEncoder, "tokenize", lambda self, texts: count.extend(texts) or tokenize(self, texts)
    )
    return count


def test_a_table_read_back_is_bit_identical_and_asks_only_for_the_probe(model, tmp_path, asked):
    expected = age_embeddings(model, PROTOCOL.biometry, SPACINGS)
    first = stored_age_embeddings(tmp_path, model, PROTOCOL.biometry, SPACINGS)
    asked.clear()
    second = stored_age_embeddings(tmp_path, model, PROTOCOL.biometry, SPACINGS)
    assert len(set(asked)) == len(PROTOCOL.biometry)
    for table in (first, second):
        assert table.spacings == expected.spacings
        assert torch.equal(table.vectors, expected.vectors)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]


@pytest.mark.parametrize("change", ["weights", "templates", "spacings", "preprocessing"])
def test_whatever_decides_a_table_makes_another_one(model, tmp_path, change):
    templates, spacings = list(PROTOCOL.biometry), ["0.10", "0.42"]
    before = table_path(tmp_path, model, templates, spacings)
    if change == "weights":
        with torch.no_grad():
            model.letters[100, 3, 5] += 1e-6
    elif change == "templates":
        templates.reverse()
    elif change == "spacings":
        spacings.append("0.43")
    else:
        model.preprocessing = replace(model.preprocessing, context_length=41)
    assert table_path(tmp_path, model, templates, spacings) != before


def test_as_many_other_spacings_have_a_table_of_their_own(model, tmp_path):
    for spacings in (["0.10", "0.30"], ["0.20", "0.30"]):
        found = stored_age_embeddings(tmp_path, model, PROTOCOL.biometry, spacings)
        assert torch.equal(found.vectors, age_embeddings(model, PROTOCOL.biometry, spacings).vectors)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_table_of_other_code_is_noticed_and_replaced(model, tmp_path):
    right = stored_age_embeddings(tmp_path, model, PROTOCOL.biometry, SPACINGS)
    path = table_path(tmp_path, model, PROTOCOL.biometry, sorted(set(SPACINGS)))
    np.savez(path, vectors=right.vectors.numpy() + 0.1)
    with pytest.warns(UserWarning, match=r"ages-.*written by other code"):
        again = stored_age_embeddings(tmp_path, model, PROTOCOL.biometry, SPACINGS)
    assert torch.equal(again.vectors, right.vectors)
    assert np.array_equal(np.load(path)["vectors"], right.vectors.numpy())


def test_a_torn_file_is_noticed_and_replaced(model, tmp_path):
    right = stored_age_embeddings(tmp_path, model, PROTOCOL.biometry, SPACINGS)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="not a table of ages"):
        assert torch.equal(
            stored_age_embeddings(tmp_path, model, PROTOCOL.biometry, SPACINGS).vectors, right.vectors
        )


def test_a_folder_that_cannot_be_written_costs_a_warning_only(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"ages-.*the ages are embedded again next time"):
        found = stored_age_embeddings(tmp_path / "file", model, PROTOCOL.biometry, SPACINGS)
    assert torch.equal(found.vectors, age_embeddings(model, PROTOCOL.biometry, SPACINGS).vectors)


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:.*not a table of ages")
def test_a_flipped_bit_is_noticed_or_changes_nothing(model, tmp_path):
    noticed = 0
    right = stored_age_embeddings(tmp_path, model, PROTOCOL.biometry, SPACINGS)
    (path,) = tmp_path.iterdir()
    raw, dice = path.read_bytes(), random.Random(0)
    for flip in range(60):
        changed = bytearray(raw)
        place = dice.randrange(len(raw) - 200, len(raw)) if flip % 3 == 0 else dice.randrange(len(raw))
        changed[place] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        found = _read(path, sorted(set(SPACINGS)), torch.device("cpu"))
        assert found is None or torch.equal(found.vectors, right.vectors), place
        noticed += found is None
    assert noticed > 30


def test_digest_sees_every_buffer_and_dtype():
    module = torch.nn.BatchNorm1d(4)
    first = tensors_digest(module.state_dict())
    module.num_batches_tracked += 1
    assert tensors_digest(module.state_dict()) != first
    assert tensors_digest(module.double().state_dict()) != tensors_digest(module.float().state_dict())


def evaluation_run(tmp_path, cache):
    evaluation = BiometryEvaluation(protocol=PROTOCOL, figures=False, cache=cache)
    trainer = quiet_trainer(tmp_path, evaluation, max_epochs=1)
    return trainer, evaluation


def test_a_test_run_scores_the_same_from_the_cache(tmp_path, asked):
    results = []
    for cache in (None, str(tmp_path / "ages"), str(tmp_path / "ages")):
        asked.clear()
        trainer, evaluation = evaluation_run(tmp_path, cache)
        trainer.test(FakeModule(), datamodule=FakeData(("hc18",)), verbose=False)
        results.append((evaluation.results["student"]["hc18"]["samples"], len(asked)))
    assert results[0][0] == results[1][0] == results[2][0]
    assert results[0][1] > 1000 > results[2][1]
    assert len(list((tmp_path / "ages").iterdir())) == 3  # student, teacher, random weights


def test_a_student_in_training_leaves_no_tables_and_the_teacher_one(tmp_path):
    module = FakeModule()
    module.teacher = freeze(module.teacher)
    trainer, _ = evaluation_run(tmp_path, str(tmp_path / "ages"))
    trainer.fit(module, datamodule=FakeData(("hc18",)))
    assert len(list((tmp_path / "ages").iterdir())) == 1
