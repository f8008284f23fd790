"""Simulated patients, their machines, and the list of pictures of each corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metrics.growth_chart import LOWER, MEDIAN, UPPER, head_circumference_mm

OUTER_Z = 1.959964  # standard deviations from the median to the 2.5th and 97.5th centile

CORPORA = ("planes", "hc18", "pairs")

# The most common picture sizes of FETAL_PLANES_DB times 0.4, and the size of HC18 times 0.6.
PLANES_CANVASES = ((277, 192), (256, 157), (307, 208), (283, 212), (298, 224), (256, 208))
HC18_CANVAS = (480, 324)

# Shares of the planes. With the official ones (brain 25 %, other 34 %, abdomen 6 %) a small corpus would have
# too few abdomens to score and too few brains to learn the sub-planes.
PLANE_SHARES: Mapping[str, float] = {
    "brain": 0.46, "abdomen": 0.11, "heart": 0.11, "femur": 0.11, "cervix": 0.11, "other": 0.10,
}  # fmt: skip
BRAIN_PLANE_SHARES: Mapping[str, float] = {
    "trans-thalamic": 0.36, "trans-cerebellum": 0.31, "trans-ventricular": 0.30, "other": 0.03,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Image properties that all pictures of one patient share."""

    name: str  # column US_Machine of FETAL_PLANES_DB
    operator: str  # column Operator
    axial_mm: float  # standard deviation of the point spread along the beam
    lateral_ratio: float  # its width across the beam relative to that, at half depth
    dynamic_range: float  # decibels between black and white
    gamma: float  # exponent of the grey map
    brightness_db: float  # offset of the gain


@dataclass(frozen=True)
class Patient:
    """One pregnancy on one day."""

    number: int  # within its corpus, from 1
    ga_days: int
    growth_z: float  # head size for that age, in standard deviations from the median
    head_ratio: float  # biparietal over occipitofrontal diameter (cephalic index)
    machine: Machine
    train: bool  # official split of FETAL_PLANES_DB

    @property
    def hc_mm(self) -> float:
        """Head circumference: lognormal on each side of the median, through the chart's outer centiles."""
        weeks = self.ga_days / 7
        median, edge = (
            math.log(head_circumference_mm(weeks, centile))
            for centile in (MEDIAN, UPPER if self.growth_z > 0 else LOWER)
        )
        return math.exp(median + abs(self.growth_z) / OUTER_Z * (edge - median))


@dataclass(frozen=True)
class Picture:
    """Description of one picture; everything else is drawn from the generator of [seed, corpus, index]."""

    corpus: str  # one of `CORPORA`
    index: int  # in its corpus, from 0
    patient: Patient
    number: int  # among the patient's pictures of this plane, from 1
    of: int  # number of those pictures
    plane: str
    brain_plane: str | None
    width: int
    height: int


def _machine(rng: np.random.Generator) -> Machine:
    name = str(rng.choice(["Voluson E6", "Voluson S10", "Aloka", "Other"], p=[0.55, 0.1, 0.3, 0.05]))
    operator = str(rng.choice(["Op. 1", "Op. 2", "Op. 3", "Other"], p=[0.3, 0.2, 0.2, 0.3]))
    sharp = {"Voluson E6": 0.8, "Voluson S10": 0.95, "Aloka": 1.15, "Other": 1.3}[name]
    return Machine(
        name, operator, axial_mm=sharp * rng.uniform(0.20, 0.30), lateral_ratio=rng.uniform(1.5, 2.6),
        dynamic_range=rng.uniform(50, 62), gamma=rng.uniform(0.95, 1.45), brightness_db=rng.normal(0, 2.5),
    )  # fmt: skip


def _patient(rng: np.random.Generator, number: int, test_share: float) -> Patient:
    return Patient(
        number=number,
        ga_days=int(rng.integers(14 * 7, 38 * 7 + 7)),
        growth_z=float(np.clip(rng.normal(), -2.5, 2.5)),
        head_ratio=float(np.clip(rng.normal(0.78, 0.03), 0.70, 0.86)),
        machine=_machine(rng),
        train=bool(rng.random() >= test_share),
    )


def list_pictures(
    corpus: str, count: int, seed: int, images_per_patient: float, test_share: float, tests: int = 0
) -> list[Picture]:
    """Return `count` pictures of one of `CORPORA`, then `tests` of further patients, all for tests.

    A pure function of the arguments (see `PhantomSettings`): more `tests` change no other picture.
    """
    rng = np.random.default_rng([seed, CORPORA.index(corpus)])
    pictures: list[Picture] = []
    number = 0
    while len(pictures) < count + tests:
        number += 1
        end, share = (count, test_share) if len(pictures) < count else (count + tests, 1.0)
        patient = _patient(rng, number, share)
        wanted = min(1 + int(rng.poisson(images_per_patient - 1)), end - len(pictures))
        chosen = ["brain"] * wanted if corpus == "hc18" else _choose(rng, PLANE_SHARES, wanted)
        for k, plane in enumerate(chosen):
            brain_plane = _choose(rng, BRAIN_PLANE_SHARES, 1)[0] if plane == "brain" else None
            canvas = HC18_CANVAS
            if corpus != "hc18":
                canvas = PLANES_CANVASES[int(rng.integers(len(PLANES_CANVASES)))]
            nth, of = chosen[: k + 1].count(plane), chosen.count(plane)
            pictures.append(Picture(corpus, len(pictures), patient, nth, of, plane, brain_plane, *canvas))
    return pictures


def _choose(rng: np.random.Generator, shares: Mapping[str, float], count: int) -> list[str]:
    return [str(name) for name in rng.choice(list(shares), count, p=list(shares.values()))]
