"""The normalisation inside the graph is the training pipeline's."""

import numpy as np
import pytest
import torch

from datamodules.pairs.transforms import normalise
from export.graphs.pixel_graph import PixelClassifier, PixelEncoder
from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, DualEncoder, Preprocessing
from models.encoders.dual_encoder import normalize


class Pixels(DualEncoder):
    """Its "embedding" is the input itself, so that nothing hides the normalisation."""

    def __init__(self, mean, std):
        super().__init__()
        self.preprocessing = Preprocessing(4, mean, std)

    def image_features(self, image):
        return image.flatten(1)

    def text_features(self, tokens):
        raise NotImplementedError

    log_logit_scale = None

    def init_args(self):
        return {}


@pytest.mark.parametrize(
    ("mean", "std"), [(CLIP_MEAN, CLIP_STD), (IMAGENET_MEAN, IMAGENET_STD), ((0, 0, 0), (1, 1, 1))]
)
def test_folded_normalisation_equals_the_training_pipeline(mean, std):
    model = Pixels(mean, std)
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    expected = normalize(normalise(image, model.preprocessing).flatten()[None], dim=-1)
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    torch.testing.assert_close(PixelEncoder(model)(pixels), expected, atol=1e-6, rtol=0)


def test_a_gray_frame_is_the_same_frame_three_times(student):
    encoder = PixelEncoder(student).eval()
    gray = torch.randint(0, 256, (2, 1, 64, 64)).float()
    with torch.no_grad():
        torch.testing.assert_close(encoder(gray), encoder(gray.repeat(1, 3, 1, 1)))


def test_classifier_is_softmax_of_a_hundred_cosines(student):
    encoder = PixelEncoder(student).eval()
    classes = torch.nn.functional.normalize(torch.randn(5, 32), dim=-1)
    pixels = torch.randint(0, 256, (3, 3, 64, 64)).float()
    with torch.no_grad():
        probabilities = PixelClassifier(encoder, classes)(pixels)
        image = encoder(pixels)
    for row in range(3):
        weights = [float(torch.exp(100 * (image[row].double() @ c.double()))) for c in classes]
        for column, weight in enumerate(weights):
            assert probabilities[row, column].item() == pytest.approx(weight / sum(weights), abs=1e-4)
