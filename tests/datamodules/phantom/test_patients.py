import pickle
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from datamodules.phantom.patients import CORPORA, HC18_CANVAS, PLANE_SHARES, list_pictures
from metrics.growth_chart import LOWER, UPPER, head_circumference_mm


def planes(count: int = 3000, seed: int = 1) -> list:
    return list_pictures("planes", count, seed, 6.9, 0.3)


@pytest.mark.parametrize(("z", "centile"), [(-1.959964, LOWER), (1.959964, UPPER)])
def test_outer_centiles_of_the_chart_are_met(z: float, centile: float) -> None:
    for patient in {picture.patient for picture in planes(200)}:
        drawn = replace(patient, growth_z=z)
        assert drawn.hc_mm == pytest.approx(float(head_circumference_mm(patient.ga_days / 7, centile)))


def test_ages_span_14_to_38_weeks_and_sizes_follow_the_chart() -> None:
    patients = {p.patient for corpus in CORPORA for p in list_pictures(corpus, 2000, 2, 1.5, 0.3)}
    ages = np.array([patient.ga_days for patient in patients])
    assert ages.min() == 14 * 7
    assert ages.max() == 38 * 7 + 6
    hc = np.array([patient.hc_mm for patient in patients])
    inside = (hc >= head_circumference_mm(ages / 7, LOWER)) & (hc <= head_circumference_mm(ages / 7, UPPER))
    assert inside.mean() == pytest.approx(0.95, abs=0.02)


def test_list_is_a_function_of_its_arguments() -> None:
    assert planes() == planes()
    assert planes() != planes(seed=2)
    assert pickle.loads(pickle.dumps(planes(5))) == planes(5)


def test_patients_have_several_pictures_on_one_side_of_the_official_split() -> None:
    pictures = planes()
    assert [p.index for p in pictures] == list(range(3000))
    per_patient = Counter(p.patient.number for p in pictures)
    assert np.mean(list(per_patient.values())) == pytest.approx(6.9, rel=0.06)
    sides = {(p.patient.number, p.patient.train) for p in pictures}
    assert len(sides) == len(per_patient)
    assert 0.6 < np.mean([train for _, train in sides]) < 0.8
    numbers = defaultdict(list)
    for p in pictures:
        numbers[p.patient.number, p.plane, p.of].append(p.number)
    assert len(numbers) == len({(p.patient.number, p.plane) for p in pictures})
    for (_, _, of), found in numbers.items():
        assert found == list(range(1, of + 1))


def test_shares_of_the_planes() -> None:
    counts = Counter(p.plane for p in planes())
    for plane, share in PLANE_SHARES.items():
        assert counts[plane] / 3000 == pytest.approx(share, abs=0.03)
    assert all((p.brain_plane is None) == (p.plane != "brain") for p in planes())


def test_hc18_holds_heads_of_one_size() -> None:
    heads = list_pictures("hc18", 300, 0, 1.24, 0.3)
    assert {p.plane for p in heads} == {"brain"}
    assert {(p.width, p.height) for p in heads} == {HC18_CANVAS}
    assert len({p.patient.number for p in heads}) > 200
