"""Manifests of shards: any bytes are either a manifest or one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.shards.manifest import parse_manifest
from datamodules.shards.pair_shards import shard_sizes
from datamodules.shards.storage import ShardStorage
from datamodules.shards.writer import verify_shards
from experiments.runs.input_digests import place_digests
from tests.test_fuzz_readers import many

ENTRY = {"name": "a.tar", "samples": 3, "bytes": 9, "sha256": "0" * 64}
VALID = {"plan": "x", "complete": True, "shards": [ENTRY], "sources": [{"name": "hc18", "counts": {}}]}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
)
entries = st.dictionaries(st.sampled_from([*ENTRY, "more"]), values) | values
manifests = st.fixed_dictionaries(
    {}, optional={"shards": st.lists(entries, max_size=3) | values, "sources": st.lists(entries) | values,
                  "complete": values, "plan": values},
)  # fmt: skip


@st.composite
def spoilt(draw):
    """A valid manifest in which a few bytes are others."""
    content = bytearray(json.dumps(VALID).encode())
    for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = draw(st.integers(0, 255))
    return bytes(content)


contents = st.binary(max_size=200) | spoilt() | manifests.map(lambda value: json.dumps(value).encode())


@pytest.mark.fuzz
@many
@given(contents)
def test_any_content_is_a_manifest_or_one_line(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    (tmp_path / "a.tar").write_bytes(b"123")
    for use in (
        lambda: shard_sizes(shards := [str(tmp_path / "a.tar")], ShardStorage().listed(shards)),
        lambda: verify_shards(tmp_path),
        lambda: place_digests({"SHARDS": str(tmp_path)}),
    ):
        message = said(use)
        assert "\n" not in message
        assert len(message) <= 500


def said(use):
    """Return the message of the only error that is allowed."""
    try:
        use()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "m.json: not a manifest of shards: Invalid JSON: EOF"),
        (b"[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        (b'{"shards": [{"samples": 3}]}', r"shards\.0\.name: Field required"),
        (b'{"shards": [{"name": "../a.tar", "samples": 3}]}', r"shards\.0\.name: String should match"),
        (b'{"shards": [{"name": "a.tar", "samples": -1}]}', r"shards\.0\.samples: .*greater"),
        (b'{"shards": [{"name": "a.tar", "samples": 1, "sha256": "aa"}]}', r"shards\.0\.sha256: "),
        (b'{"sources": 5}', "sources: .*array"),
    ],
)
def test_what_is_wrong_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        parse_manifest(content, "m.json")


def test_a_manifest_keeps_what_it_holds():
    assert parse_manifest(json.dumps(VALID).encode(), "m.json") == VALID
