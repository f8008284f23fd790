import json

import pytest

from datamodules.evaluation.protocol import DEFAULT_PROTOCOL, Protocol
from models import build_tokenizer
from models.preprocessing import Preprocessing

PLANES = {name: [f"a {name}"] for name in ("brain", "abdomen", "heart", "femur", "cervix")}
SUBPLANES = {f"trans-{name}": ["x"] for name in ("thalamic", "cerebellum", "ventricular")}
BIOMETRY = ["{weeks} w {days} d {spacing} mm"]


def write(path, **changes):
    content = {"planes": PLANES, "subplanes": SUBPLANES, "biometry": BIOMETRY} | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def test_default_covers_the_benchmarks():
    protocol = Protocol.load()
    assert {"brain", "abdomen", "heart", "femur", "cervix"} == set(protocol.planes)
    assert set(protocol.subplanes) == set(SUBPLANES)
    texts = protocol.biometry[0].format(weeks=20, days=3, spacing="0.42")
    assert all(part in texts for part in ("20 weeks", "3 days", "0.42"))


def test_default_prompts_are_distinct_and_fit_a_short_context():
    protocol = Protocol.load()
    tokenize = build_tokenizer(Preprocessing(32, (0, 0, 0), (1, 1, 1), tokenizer="fetal", context_length=32))
    texts = [
        text for group in (protocol.planes, protocol.subplanes) for texts in group.values() for text in texts
    ]
    assert len(set(texts)) == len(texts)
    texts += [template.format(weeks=38, days=6, spacing="0.39") for template in protocol.biometry]
    assert (tokenize(texts)[:, -1] == 0).all(), "a prompt fills the whole context, so it may be cut"


def test_default_wording_is_not_the_official_one(fetalclip_root):
    official = {
        text.strip(". ").lower()
        for path in fetalclip_root.glob("*_prompts.json")
        for texts in json.loads(path.read_text()).values()
        for text in texts
    }
    own = json.loads(DEFAULT_PROTOCOL.read_text())
    assert not official & {
        text.lower() for key in ("planes", "subplanes") for g in own[key].values() for text in g
    }


def test_saved_and_loaded_again(tmp_path):
    protocol = Protocol.load()
    protocol.save(tmp_path / "copy.json")
    assert Protocol.load(tmp_path / "copy.json") == protocol
    assert [path.name for path in tmp_path.iterdir()] == ["copy.json"]


def test_the_digest_depends_on_every_word(tmp_path):
    first = Protocol.load(write(tmp_path / "a.json"))
    same = Protocol.load(write(tmp_path / "b.json"))
    other = Protocol.load(write(tmp_path / "c.json", biometry=["{weeks} {days}"]))
    assert first.digest == same.digest
    assert first.digest != other.digest
    assert len(first.digest) == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planes": None}, "planes: .*equired"),
        ({"extra": 1}, r"\['extra'\] are not among the keys"),
        ({"planes": []}, "planes: .*dictionary"),
        (
            {"planes": {"brain": ["x"], "abdomen": ["y"]}},
            r"planes: no prompts for \['heart', 'femur', 'cervix'\]",
        ),
        ({"subplanes": SUBPLANES | {"trans-thalamic": []}}, "subplanes.trans-thalamic: .*at least 1 item"),
        ({"planes": PLANES | {"brain": [" "]}}, "planes.brain.0: "),
        ({"biometry": []}, "biometry: .*at least 1 item"),
        ({"biometry": [3]}, "biometry.0: .*string"),
        ({"biometry": ["{weeks}"]}, r"biometry.0: .*'{weeks}' has the fields \['weeks'\]"),
        ({"biometry": ["{weeks} {day}"]}, r"has the fields \['day', 'weeks'\]"),
        ({"biometry": ["{weeks} {days"]}, "biometry.0: .*expected '}'"),
    ],
)
def test_errors_name_file_and_key(tmp_path, changes, message):
    path = write(tmp_path / "mine.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        Protocol.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.json: no such protocol"):
        Protocol.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad.json: not a JSON file"):
        Protocol.load(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list.json: expected a JSON object, not list"):
        Protocol.load(tmp_path / "list.json")
