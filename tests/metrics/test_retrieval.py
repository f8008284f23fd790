import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from metrics.retrieval import positive_rank, retrieval_scores


def naive_rank(similarity, right):
    """Sort the candidates by similarity, equal ones by number, and look for the first right one."""
    order = sorted(range(len(similarity)), key=lambda j: (-similarity[j], j))
    return next(place for place, j in enumerate(order) if right[j])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6))
def test_rank_equals_sorting_also_with_ties_and_copies(seed, count, captions):
    rng = np.random.default_rng(seed)
    query, candidate = (torch.tensor(rng.integers(-1, 2, (count, 3))).double() for _ in range(2))
    identity = rng.integers(0, captions, count)
    similarity = (query @ candidate.T).tolist()
    expected = [naive_rank(similarity[i], identity == identity[i]) for i in range(count)]
    assert positive_rank(query, candidate, torch.tensor(identity)).tolist() == expected
    own = [naive_rank(similarity[i], np.arange(count) == i) for i in range(count)]
    assert positive_rank(query, candidate).tolist() == own


def test_blocks_of_rows_do_not_matter(monkeypatch):
    rng = np.random.default_rng(1)
    query, candidate = (torch.tensor(rng.normal(size=(50, 4))) for _ in range(2))
    whole = positive_rank(query, candidate)
    monkeypatch.setattr("metrics.retrieval._ROWS_AT_ONCE", 7)
    assert torch.equal(positive_rank(query, candidate), whole)


def test_perfect_chance_and_direction():
    eye = torch.eye(20)
    assert set(retrieval_scores(eye, eye).values()) == {1.0}
    same = torch.ones(20, 4) / 2
    scores = retrieval_scores(same, same)
    assert [scores[f"image_to_text_r{k}"] for k in (1, 5, 10)] == pytest.approx([0.05, 0.25, 0.5])
    image, text = torch.eye(3)[[0, 0, 1]], torch.eye(3)[[0, 1, 1]]
    one_way = retrieval_scores(image, text)
    assert one_way["image_to_text_r1"] == pytest.approx(1 / 3)
    assert one_way["text_to_image_r1"] == pytest.approx(2 / 3)


def test_copies_of_a_caption_are_right_too():
    text = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    without = retrieval_scores(text, text)
    with_copies = retrieval_scores(text, text, torch.tensor([5, 5, 9]))
    assert without["image_to_text_r1"] == pytest.approx(2 / 3)
    assert with_copies["image_to_text_r1"] == 1.0


def test_an_embedding_that_is_not_finite_is_refused():
    text = torch.eye(3)
    image = text.clone()
    image[1, 2] = torch.nan
    with pytest.raises(ValueError, match="row 1 are not finite; the model has diverged"):
        retrieval_scores(image, text)
