import cv2
import numpy as np
import pytest

from datamodules.phantom.geometry import Probe
from datamodules.phantom.renderer import _scan_convert
from datamodules.phantom.speckle import Receiver, receive, speckle, transmission


def receiver(**changes: float) -> Receiver:
    settings = dict.fromkeys(Receiver.__dataclass_fields__, 0.0)
    settings.update(
        axial=1.5, lateral=3.0, dynamic_range=60.0, haze=-200.0, haze_depth=0.1, gamma=1.0, noise=-200.0,
        smoothing=0.01, ghost_depth=0.1,
    )  # fmt: skip
    return Receiver(**{**settings, **changes})


@pytest.mark.parametrize(("axial", "lateral"), [(1.0, 1.5), (1.5, 3.0), (2.5, 5.0)])
def test_uniform_tissue_gives_rayleigh_speckle(axial: float, lateral: float) -> None:
    flat = np.full((500, 500), 0.2, np.float32)
    envelope = speckle(
        flat, np.zeros_like(flat), receiver(axial=axial, lateral=lateral), np.random.default_rng(0)
    )
    # Rayleigh with mean square 0.2^2: mean = 0.2 sqrt(pi) / 2, mean / std = sqrt(pi / (4 - pi)) = 1.913
    assert envelope.mean() == pytest.approx(0.2 * np.sqrt(np.pi) / 2, rel=0.06)
    assert envelope.mean() / envelope.std() == pytest.approx(1.913, rel=0.05)


def test_a_reflector_turns_speckle_rician() -> None:
    flat = np.full((300, 300), 0.1, np.float32)
    bone = speckle(flat, np.full_like(flat, 1.0), receiver(), np.random.default_rng(0))
    assert bone.mean() == pytest.approx(1.0, rel=0.02)
    assert bone.std() < 0.1


def test_bone_casts_a_shadow_and_keeps_its_own_echo() -> None:
    attenuation = np.zeros((100, 40), np.float32)
    attenuation[30:34, 10:20] = 5.0  # 20 decibels across
    left = transmission(attenuation)
    np.testing.assert_allclose(left[:31, 15], 1.0)
    np.testing.assert_allclose(left[34:, 15], 0.1, rtol=1e-5)
    np.testing.assert_allclose(left[:, 25], 1.0)


def test_picture_is_brighter_where_the_echo_is_stronger() -> None:
    echo = np.full((200, 100), -40.0, np.float32)
    echo[:, 50:] = -20.0
    nothing = np.zeros_like(echo)
    grey = receive(echo, nothing, nothing, receiver(), np.random.default_rng(0))
    assert grey.min() >= 0
    assert grey.max() <= 1
    assert grey[:, 55:].mean() - grey[:, :45].mean() == pytest.approx(20 / 60, abs=0.02)


def test_speckle_is_wider_laterally_with_depth() -> None:
    rng = np.random.default_rng(0)
    probe = Probe(x=150.0, y=-60.0, r_min=60.0, r_max=380.0, half_angle=0.6, tilt=0.0)
    flat = np.full((320, 260), -30.0, np.float32)
    nothing = np.zeros_like(flat)
    image = _scan_convert(receive(flat, nothing, nothing, receiver(), rng), probe, 300, 300).astype(
        np.float32
    )

    def lateral_correlation(rows: slice) -> float:
        patch = image[rows, 110:190] - cv2.blur(image[rows, 110:190], (31, 31))
        return float((patch[:, 4:] * patch[:, :-4]).mean() / (patch**2).mean())

    assert lateral_correlation(slice(230, 290)) > lateral_correlation(slice(20, 80)) + 0.1
