import json

import pytest

from datamodules.evaluation.protocol import Protocol
from datamodules.evaluation.protocol_import import import_protocol

PLANES = {
    name: [f"a {name}", f"the {name}"] for name in ("brain", "abdomen", "heart", "femur", "cervix", "spine")
}
SUBPLANES = {f"trans-{name}": [name] for name in ("thalamic", "cerebellum", "ventricular")}
SOURCE = """
import a_package_that_does_not_exist
raise SystemExit("this source was run")
INPUT_SIZE = 224
TEMPLATES = {
    "brain": [
        "head at {weeks} weeks, {day} days; "
        "{pixel_spacing} mm",
        "{pixel_spacing}: {weeks} and {day}",
    ],
}
LAYERS = [1, 2, [3, "x"]]
NAMES = ["a", "b"]
COMPUTED = [str(x) for x in LAYERS]
"""
# FetalCLIP keys its templates by plane; MobileFetalCLIP has the list by itself, in a package beside its prompts.
MOBILE_SOURCE = """
from ..nowhere import DICT_TEMPLATES as OTHERS
GA_TEMPLATES = [
    "head at {weeks} weeks, {day} days; {pixel_spacing} mm",
    "{pixel_spacing}: {weeks} and {day}",
]
GA_DAYS = [weeks * 7 + day for weeks in range(14, 39) for day in range(7)]
DICT_TEMPLATES = {}
DICT_TEMPLATES["brain"] = GA_TEMPLATES
def prompts(weeks, day, pixel_spacing):
    return [text.format(weeks=weeks, day=day, pixel_spacing=pixel_spacing) for text in DICT_TEMPLATES["brain"]]
"""
EXPECTED = ["head at {weeks} weeks, {days} days; {spacing} mm", "{spacing}: {weeks} and {days}"]


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "FetalCLIP"
    (folder / "zero_shot_planes").mkdir(parents=True)
    (folder / "zero_shot_planes" / "planes_prompts.json").write_text(json.dumps(PLANES))
    (folder / "zero_shot_planes" / "sub_prompts.json").write_text(json.dumps(SUBPLANES))
    (folder / "zero_shot_planes" / "prediction.json").write_text(
        '{"prediction": ["brain"], "label": ["brain"]}'
    )
    (folder / "broken.json").write_text("{")
    (folder / "old.py").write_text("print 'python 2'")
    (folder / "hc18.py").write_text(SOURCE)
    return folder


def test_prompts_and_templates_are_found_without_running_code(checkout, tmp_path):
    protocol = import_protocol(checkout, tmp_path / "official.json")
    assert protocol == Protocol(PLANES, SUBPLANES, EXPECTED)
    assert Protocol.load(tmp_path / "official.json") == protocol


@pytest.fixture
def mobile_checkout(tmp_path):
    package = tmp_path / "MobileFetalCLIP" / "src" / "mobile_fetal_clip"
    (package / "prompts").mkdir(parents=True)
    (package / "prompts" / "five_planes_prompts.json").write_text(json.dumps(PLANES, indent=4))
    (package / "prompts" / "brain_subplanes_prompts.json").write_text(json.dumps(SUBPLANES, indent=4))
    (package / "evaluation").mkdir()
    (package / "evaluation" / "zero_shot.py").write_text(MOBILE_SOURCE)
    return tmp_path / "MobileFetalCLIP"


def test_both_repositories_give_the_same_protocol(checkout, mobile_checkout, tmp_path):
    first = import_protocol(checkout, tmp_path / "first.json")
    second = import_protocol(mobile_checkout, tmp_path / "second.json")
    assert second == first == Protocol(PLANES, SUBPLANES, EXPECTED)
    assert second.digest == first.digest
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "first.json").read_bytes()


def test_the_official_json_files(fetalclip_root, checkout, tmp_path):
    for path in (checkout / "zero_shot_planes").iterdir():
        path.unlink()
    for name in ("five_planes_prompts.json", "brain_subplanes_prompts.json"):
        (checkout / name).write_bytes((fetalclip_root / name).read_bytes())
    protocol = import_protocol(checkout, tmp_path / "official.json")
    assert protocol.planes == json.loads((fetalclip_root / "five_planes_prompts.json").read_text())
    assert len(protocol.planes) == 9


def test_equal_copies_are_fine_and_different_ones_an_error(checkout, tmp_path):
    (checkout / "copy.py").write_text(SOURCE)
    import_protocol(checkout, tmp_path / "official.json")
    (checkout / "copy.py").write_text("X = ('{weeks} {day}',)\nY = ['{weeks} {day}!']")
    with pytest.raises(ValueError, match=r"copy.py line 1, .*hc18.py line 6 disagree about 'biometry'"):
        import_protocol(checkout, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    ("file", "benchmark"),
    [
        ("zero_shot_planes/planes_prompts.json", "planes"),
        ("zero_shot_planes/sub_prompts.json", "subplanes"),
        ("hc18.py", "biometry"),
    ],
)
def test_what_is_missing_is_named(checkout, tmp_path, file, benchmark):
    (checkout / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"FetalCLIP: no prompts for '{benchmark}'"):
        import_protocol(checkout, tmp_path / "official.json")
    assert not (tmp_path / "official.json").exists()


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; give a checkout"):
        import_protocol(tmp_path / "nowhere", tmp_path / "official.json")
