import numpy as np
import pytest
import torch
from torch import nn

from models import DualEncoder, Preprocessing, zero_shot
from models.zero_shot import (
    AgeTable,
    age_embeddings,
    age_prompts,
    class_embeddings,
    class_logits,
    encode_images,
    encode_prompts,
)

TEMPLATES = ["head {weeks} weeks {days} days {spacing} mm", "{spacing} mm, {weeks} w and {days} d"]


class CountingEncoder(DualEncoder):
    """Embeds a text by its letters and records the calls."""

    def __init__(self, embed_dim=16):
        super().__init__()
        self.preprocessing = Preprocessing(8, (0, 0, 0), (1, 1, 1), context_length=64)
        self.embed_dim = embed_dim
        generator = torch.Generator().manual_seed(0)
        self.letters = nn.Parameter(torch.randn(128, 64, embed_dim, generator=generator))
        self.scale = nn.Parameter(torch.zeros(()))
        self.seen, self.batches = [], []

    def image_features(self, image):
        return image.flatten(1)[:, : self.embed_dim]

    def text_features(self, tokens):
        self.batches.append(len(tokens))
        return self.letters[tokens, torch.arange(64)].sum(dim=1)

    def tokenize(self, texts):
        self.seen += texts
        return torch.tensor([list(text.encode().ljust(64)) for text in texts])

    @property
    def log_logit_scale(self):
        return self.scale

    def init_args(self):
        return {"embed_dim": self.embed_dim}


@pytest.fixture
def model():
    return CountingEncoder()


def unit(vector):
    return vector / np.linalg.norm(vector)


def embed(model, text):
    return unit(model.letters.detach().double().numpy()[list(text.encode().ljust(64)), range(64)].sum(0))


def test_each_distinct_prompt_is_encoded_once(model, monkeypatch):
    monkeypatch.setattr(zero_shot, "prompts_at_once", lambda *_: 2)
    texts = ["a", "b", "a", "c", "b", "a"]
    result = encode_prompts(model, texts)
    assert model.seen == ["a", "b", "c"]
    assert model.batches == [2, 1]
    assert result.numpy() == pytest.approx(np.stack([embed(model, text) for text in texts]), abs=1e-6)
    assert not result.requires_grad


@pytest.mark.parametrize(
    ("count", "side", "parts"), [(9, 256, [4, 4, 1]), (3, 1024, [1, 1, 1]), (0, 256, [0])]
)
def test_a_cpu_embeds_images_in_small_parts(model, monkeypatch, count, side, parts):
    images, seen = torch.randn(count, 3, side, side), []
    whole = model.encode_image(images)

    def counted(image):
        seen.append(len(image))
        return CountingEncoder.image_features(model, image)

    monkeypatch.setattr(model, "image_features", counted)
    torch.testing.assert_close(encode_images(model, images), whole)
    assert seen == parts


def test_class_vector_is_the_normalised_mean_of_normalised_prompts(model):
    prompts = {"brain": ["a brain", "the head", "x"], "femur": ["thigh bone"]}
    expected = [unit(np.mean([embed(model, text) for text in texts], axis=0)) for texts in prompts.values()]
    assert class_embeddings(model, prompts).numpy() == pytest.approx(np.stack(expected), abs=1e-6)


def test_age_prompts_cover_every_day():
    prompts = age_prompts(TEMPLATES, "0.42")
    assert len(prompts) == len(set(prompts)) == 2 * 175
    assert prompts[0] == "head 14 weeks 0 days 0.42 mm"
    assert prompts[174] == "head 38 weeks 6 days 0.42 mm"
    assert prompts[175] == "0.42 mm, 14 w and 0 d"


def test_similarity_is_the_mean_over_templates_of_100_cosines(model):
    table = age_embeddings(model, TEMPLATES, ["0.42", "1.10", "0.42"])
    assert table.spacings == ("0.42", "1.10")
    assert len(set(model.seen)) == 2 * 2 * 175
    rng = np.random.default_rng(0)
    images = [unit(rng.normal(size=16)) for _ in range(3)]
    spacings = ["1.10", "0.42", "1.10"]
    similarity = table.similarity(torch.tensor(np.stack(images)), spacings).numpy()
    assert similarity.shape == (3, 175)
    for row, (image, spacing) in enumerate(zip(images, spacings, strict=True)):
        for age in (0, 1, 100, 174):
            weeks, days = divmod(98 + age, 7)
            texts = [t.format(weeks=weeks, days=days, spacing=spacing) for t in TEMPLATES]
            expected = np.mean([100 * image @ embed(model, text) for text in texts])
            assert similarity[row, age] == pytest.approx(expected, abs=1e-4)


def test_every_image_is_compared_at_its_own_spacing_however_many_there_are():
    generator = np.random.default_rng(1)
    vectors, images = generator.normal(size=(2, 175, 4)), generator.normal(size=(130, 4))
    rows = [1] * 64 + [0] * 66
    table = AgeTable(("0.10", "0.20"), torch.tensor(vectors, dtype=torch.float32))
    spacings = [table.spacings[row] for row in rows]
    similarity = table.similarity(torch.tensor(images, dtype=torch.float32), spacings)
    expected = [
        [sum(100 * a * b for a, b in zip(image, vector, strict=True)) for vector in vectors[row].tolist()]
        for image, row in zip(images.tolist(), rows, strict=True)
    ]
    np.testing.assert_allclose(similarity.numpy(), expected, rtol=1e-4, atol=1e-2)


def test_templates_without_spacing_are_encoded_once_for_all(model):
    age_embeddings(model, ["{weeks} {days}"], ["0.1", "0.2", "0.3"])
    assert sum(model.batches) == 175


def test_progress_reaches_the_number_of_distinct_prompts(model, monkeypatch):
    calls = []
    monkeypatch.setattr("models.zero_shot.prompts_at_once", lambda *_: 100)
    age_embeddings(model, TEMPLATES, ["0.10"], progress=lambda *call: calls.append(call))
    assert calls == [(100, 350), (200, 350), (300, 350), (350, 350)]


def test_unknown_spacing_is_an_error():
    table = AgeTable(("0.10",), torch.zeros(1, 175, 4))
    with pytest.raises(KeyError, match=r"0.20"):
        table.similarity(torch.zeros(1, 4), ["0.20"])


def test_class_logits_are_100_cosines():
    image, classes = torch.eye(3)[:2], torch.eye(3)[[1, 2]]
    assert class_logits(image, classes).tolist() == [[0.0, 0.0], [100.0, 0.0]]


def test_comparisons_are_exact_under_autocast():
    image, classes = torch.nn.functional.normalize(torch.randn(3, 5, 16), dim=-1)[:2]
    table = AgeTable(("0.20",), torch.randn(1, 175, 16))
    logits, similarity = class_logits(image, classes), table.similarity(image, ["0.20"] * 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(class_logits(image, classes), logits)
        assert torch.equal(table.similarity(image, ["0.20"] * 5), similarity)
