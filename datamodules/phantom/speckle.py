"""Echo formation: shadowing, Rayleigh speckle under a point-spread function, log compression.

All arrays are on the beam grid [samples, beams] (rows are depth). A point spread that is constant in angle
gets wider in millimetres with depth, like the lateral blur of a real curvilinear probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.phantom.geometry import FloatArray

DB = np.float32(np.log(10) / 20)  # decibels of amplitude to nepers


@dataclass(frozen=True)
class Receiver:
    """Settings by which a machine converts echoes to grey values; levels in decibels, depths as shares of the full."""

    axial: float  # standard deviation of the point spread along the beam, samples
    lateral: float  # and across beams, beams
    dynamic_range: float  # between black and white
    gain: float  # added before compression
    depth_gain: float  # added linearly from the probe to the deepest sample (mistuned time gain compensation)
    edge_loss: float  # lost at the outermost beams
    dropout: float  # standard deviation of the beams' gain (poor contact, overlying tissue)
    haze: float  # level of the clutter below the probe's face
    haze_depth: float  # at which that clutter has fallen by 8.7 dB
    gamma: float  # exponent of the grey map
    noise: float  # level of electronic noise
    smoothing: float  # blur after detection, in units of the point spread (frame averaging and compounding)
    reverberation: float  # amplitude of the ghost of strong reflectors
    ghost_depth: float  # distance of that ghost below its reflector


def transmission(attenuation_db: FloatArray) -> FloatArray:
    """Return the remaining amplitude [samples, beams] along each beam, given the loss per sample."""
    crossed = np.cumsum(attenuation_db, axis=0, dtype=np.float32) - attenuation_db
    left: FloatArray = np.exp(-DB * np.minimum(crossed, 60.0))
    return left


def speckle(
    amplitude: FloatArray, specular: FloatArray, receiver: Receiver, rng: np.random.Generator
) -> FloatArray:
    """Return the envelope [samples, beams] of scatterers and reflectors under the point spread.

    Scatterers with random phases, weighted by their echo `amplitude`, are blurred as a complex field, whose
    modulus is Rayleigh distributed in uniform tissue. `specular` adds a coherent part in phase, which
    makes the speckle Rician on bone.
    """
    field: FloatArray = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32)
    field *= amplitude[..., None]
    axial, lateral = receiver.axial, receiver.lateral
    field = np.asarray(cv2.GaussianBlur(field, (0, 0), sigmaX=lateral, sigmaY=axial))
    # A blur divides the variance of white noise by 4 pi sx sy. Undo it, so that levels are comparable between
    # machines; the real and the imaginary part have half of the power each.
    field *= np.float32(np.sqrt(2 * np.pi * axial * lateral))
    coherent = cv2.GaussianBlur(specular, (0, 0), sigmaX=0.5 * lateral, sigmaY=0.5 * axial)
    envelope = cv2.magnitude(field[..., 0] + coherent, np.ascontiguousarray(field[..., 1]))
    blur = receiver.smoothing
    return cv2.GaussianBlur(envelope, (0, 0), sigmaX=blur * lateral, sigmaY=blur * axial)


def receive(
    echo_db: FloatArray, specular: FloatArray, attenuation_db: FloatArray, receiver: Receiver,
    rng: np.random.Generator,
) -> FloatArray:  # fmt: skip
    """Return the log-compressed picture [samples, beams], 0-1, of a scene on the beam grid.

    The scene is given as in `Scene`, with the attenuation per sample, there and back.
    """
    samples, beams = echo_db.shape
    left = transmission(attenuation_db)
    depth = np.linspace(0, 1, samples, dtype=np.float32)[:, None]
    angle = np.linspace(-1, 1, beams, dtype=np.float32)[None, :]
    haze = np.exp(DB * np.float32(receiver.haze) - depth / receiver.haze_depth)
    amplitude = np.exp(DB * echo_db) * left + haze
    reflected = specular * left
    shift = max(1, round(receiver.ghost_depth * samples))
    reflected[shift:] += np.float32(receiver.reverberation) * reflected[:-shift]
    envelope = speckle(amplitude, reflected, receiver, rng)
    envelope += np.exp(DB * np.float32(receiver.noise))
    level = np.log(envelope) / DB + receiver.gain
    level += receiver.depth_gain * depth - receiver.edge_loss * angle**4
    coarse = rng.standard_normal((1, int(rng.integers(6, 20))), dtype=np.float32)
    level += receiver.dropout * cv2.resize(coarse, (beams, 1), interpolation=cv2.INTER_CUBIC)
    grey = np.clip(level / receiver.dynamic_range + 1, 0, 1)
    return grey ** np.float32(receiver.gamma)
