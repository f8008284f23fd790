"""Random files for the readers of checkpoints and run folders: a value, or one line that names the file.

`FUZZ_EXAMPLES` is the number of inputs of each reader (25 in the ordinary suite; `make test-fuzz` sets more).
"""

import os

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonargparse import Namespace

from callbacks import run_id_of
from experiments.runs.resuming import check_same_run
from experiments.runs.run_record import run_config
from models import from_checkpoint, save_half
from models.checkpoints.inspection import describe
from models.checkpoints.weights import read_checkpoint, read_entry
from models.loading import student_entry

pytestmark = pytest.mark.fuzz
MOST = 500
many = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "25")),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)

primitives = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.text(max_size=200)
    | st.just("x" * 600)
)
values = st.recursive(
    primitives,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "visual.trunk.stem.0.weight", "text.positional_embedding", "positional_embedding", "token_embedding.weight",
    "text.token_embedding.weight", "text_projection", "image_encoder.model.classifier.proj", "logit_scale",
    "text_encoder.positional_embedding.pos_embed.pos_embed", "visual.trunk.patch_embed.0.rbr_conv.0.weight",
    "student.image.weight", "module.student.image.weight", "text_encoder.projection_layer",
]  # fmt: skip
tensors = st.builds(torch.zeros, st.lists(st.integers(0, 3), max_size=4))
states = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), tensors, max_size=4)


@st.composite
def mutated(draw, valid):
    """A valid nested value in which some parts are replaced or removed."""
    if isinstance(valid, dict) and draw(st.integers(0, 9)):
        kept = [key for key in valid if draw(st.integers(0, 9))]
        return {key: draw(mutated(valid[key])) for key in kept}
    return draw(values) if not draw(st.integers(0, 4)) else valid


def answer(reader, path):
    """Return what a reader raises, None for an answer; anything but one line about the file fails."""
    try:
        reader()
    except (ValueError, OSError) as error:
        message = str(error)
    else:
        return None
    assert "\n" not in message, message
    assert str(path) in message or path.name in message, message
    assert len(message.replace(str(path.parent), "")) <= MOST, message
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def all_readers(path):
    answer(lambda: describe(read_checkpoint(path), str(path)), path)
    answer(lambda: from_checkpoint(str(path)), path)
    answer(lambda: run_id_of(path), path)
    assert isinstance(read_entry(path, "run"), dict | None)


@many
@given(data=st.data())
def test_checkpoints_of_any_content(folder, tiny_student, data):
    valid = {
        "state_dict": {"student.scale": torch.zeros(())},
        "student": student_entry(tiny_student),
        "callbacks": {"WandbRun": {"run_id": "abc"}},
        "run": {"data": {}},
    }
    content = data.draw(mutated(valid) | states | values)
    path = folder / "content.ckpt"
    torch.save(content, path)
    all_readers(path)


@pytest.fixture(scope="module")
def raw(folder, tiny_student):
    torch.save(
        {"state_dict": {"student.w": torch.zeros(9)}, "student": student_entry(tiny_student)},
        folder / "a.ckpt",
    )
    save_half(tiny_student, folder / "a.safetensors")
    return {
        ".ckpt": (folder / "a.ckpt").read_bytes(),
        ".safetensors": (folder / "a.safetensors").read_bytes(),
    }


@many
@given(data=st.data())
def test_checkpoints_of_damaged_bytes(folder, raw, data):
    suffix = data.draw(st.sampled_from(sorted(raw)))
    content = bytearray(raw[suffix])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        junk = data.draw(st.binary(max_size=9))
        content[place : place + data.draw(st.sampled_from([0, 1, len(junk), 99, 10**9]))] = junk
    path = folder / f"bytes{suffix}"
    path.write_bytes(content)
    all_readers(path)


yaml_texts = (
    st.text(max_size=100)
    | st.binary(max_size=99)
    | values.map(lambda value: yaml.safe_dump(value, allow_unicode=True))
    | mutated({"experiment": "srkd", "data": {"class_path": "datamodules.HC18DataModule"}, "model": {}}).map(
        yaml.safe_dump
    )
    | st.text("{}[]:,&*!|>-?#%@`'\"\n \t019eé", max_size=99)
)


@many
@given(text=yaml_texts)
@example(text="[" * 500)
@example(text="2026-13-45")
@example(text="a: !!python/object/apply:os.system [ls]")
@example(text="{}: [&a [*a]]\n? {x: 1}\n: 1")
def test_settings_of_a_run(folder, text):
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    path = run / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    asked = Namespace(experiment="srkd", data=Namespace(class_path="d.HC18"))
    answer(lambda: check_same_run(checkpoint, asked), run)  # it names the checkpoint or the settings
    answer(lambda: run_config(checkpoint), path)
