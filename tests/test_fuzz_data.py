"""Random tables, prompts, sweep files, shard samples and DICOM files: a value, or one line that names the file."""

import csv
import io
import json
from contextlib import suppress

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from datamodules.corpora.fetal_planes import FETAL_PLANES
from datamodules.corpora.hc18 import HC18
from datamodules.corpora.records import table_records
from datamodules.corpora.table import read_table
from datamodules.evaluation.protocol import Protocol, read_prompts
from datamodules.evaluation.protocol_import import import_protocol
from datamodules.ingest.scans import ScanError, read_dicom
from datamodules.shards.stream import decode_sample
from experiments.sweep.local_settings import local_settings
from experiments.sweep.sweep_file import read_sweep, sweep_path
from tests.conftest import write_image
from tests.dicom_archive import file_of
from tests.test_fuzz_readers import answer, many, mutated, values

pytestmark = pytest.mark.fuzz

cells = st.sampled_from(
    ["", "0.png", "p1", "brain", "0.2", "nan", "-1", "1e400", "train", "200", "a fetal head", '"', "é\n"]
)
cells = cells | st.text(max_size=12)
COLUMNS = [
    "image",
    "caption",
    "patient",
    "split",
    "plane",
    "brain_plane",
    "ga_days",
    "hc_mm",
    "pixel_size_mm",
]
PROMPTS = json.loads(json.dumps(Protocol.load().content()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz-data")
    write_image(path / "0.png", 0)
    (path / "training_set").mkdir()
    write_image(path / "training_set" / "001_HC.png", 0)
    (path / "Images").mkdir()
    write_image(path / "Images" / "0.png", 0)
    return path


@st.composite
def damaged(draw, content):
    """The bytes of a file of which a few are others, cut at any place.

    Places are shares of the length, which a workbook, with the time in it, has not the same twice.
    """
    raw = bytearray(draw(content) if isinstance(content, st.SearchStrategy) else content)
    places = st.integers(0, 9999)
    for place in draw(st.lists(places, max_size=4)):
        start = place * len(raw) // 10_000
        raw[start : start + 1] = bytes([draw(st.integers(0, 255))])
    return bytes(raw[: draw(places | st.just(10_000)) * len(raw) // 10_000])


def write_mutated(path, valid, dump, data):
    """Write a mutated value, half of the times with damaged bytes; return the path."""
    content = dump(data.draw(mutated(valid) | values)).encode()
    path.write_bytes(data.draw(damaged(content)) if data.draw(st.booleans()) else content)
    return path


@st.composite
def tables(draw, columns):
    """A CSV file with some of the columns and any cells."""
    header = draw(st.lists(st.sampled_from(columns) | cells, min_size=1, max_size=9))
    rows = draw(st.lists(st.lists(cells, min_size=1, max_size=len(header)), max_size=4))
    out = io.StringIO()
    csv.writer(out, delimiter=draw(st.sampled_from(",;\t"))).writerows([header, *rows])
    return out.getvalue().encode("utf-8", "surrogatepass")


@many
@given(content=st.binary(max_size=80) | tables(COLUMNS) | damaged(tables(COLUMNS)))
@example(content=b"image,hc_mm\n" + b"0.png," + b"9" * 140_000 + b"\n")
def test_tables_of_text(folder, content):
    for name in ("table.csv", "table.tsv"):
        (folder / name).write_bytes(content)
        answer(lambda name=name: table_records(read_table(folder / name)), folder / name)


json_rows = st.lists(
    mutated({"image": "0.png", "caption": ["a head"], "plane": "brain", "pixel_size_mm": 0.2}), max_size=3
)


@many
@given(rows=json_rows, damage=st.booleans(), data=st.data())
def test_tables_of_json_lines_parquet_and_excel(folder, rows, damage, data):
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    contents = {"table.jsonl": lines}
    frame = pd.DataFrame([row for row in rows if isinstance(row, dict)])
    for name, write in {"table.parquet": frame.to_parquet, "table.xlsx": frame.to_excel}.items():
        buffer = io.BytesIO()
        with suppress(Exception):  # what pyarrow or openpyxl does not write
            write(buffer)
            contents[name] = buffer.getvalue()
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(data.draw(damaged(content)) if damage else content)
        answer(lambda path=path: table_records(read_table(path)), path)


@many
@given(content=tables([*HC18.columns]) | damaged(tables([*HC18.columns])) | st.binary(max_size=80))
def test_the_table_of_hc18(folder, content):
    (folder / HC18.table).write_bytes(content)
    answer(lambda: HC18.read(folder), folder / HC18.table)


@many
@given(content=tables([*FETAL_PLANES.columns]) | damaged(tables([*FETAL_PLANES.columns])))
def test_the_table_of_the_planes(folder, content):
    (folder / FETAL_PLANES.table).write_bytes(content)
    answer(lambda: FETAL_PLANES.read(folder), folder / FETAL_PLANES.table)


@many
@given(data=st.data())
@example(data=None)  # a class whose name is two lines
def test_prompts(folder, data):
    path = folder / "prompts.json"
    if data is None:
        path.write_text('{"planes": {"a\\nb": null}, "\\n": null}')
    else:
        write_mutated(path, PROMPTS, json.dumps, data)
    answer(lambda: Protocol.load(path), path)
    answer(lambda: read_prompts(path), path)


@many
@given(data=st.data())
@example(data=None)
def test_a_checkout_with_prompts(folder, data):
    checkout = folder / "checkout"
    checkout.mkdir(exist_ok=True)
    templates = ["a head of {weeks} weeks and {day} days"]
    for name, valid in (("planes.json", PROMPTS["planes"]), ("subplanes.json", PROMPTS["subplanes"])):
        content = json.dumps(valid if data is None else data.draw(mutated(valid))).encode()
        (checkout / name).write_bytes(content if data is None else data.draw(damaged(content)))
    code = f"x = {templates!r}\n"
    (checkout / "a.py").write_bytes(b"[" * 5000 if data is None else data.draw(damaged(code.encode())))
    answer(lambda: import_protocol(checkout, folder / "imported.json"), checkout)


SWEEP = yaml.safe_load(sweep_path("decay").read_text())


@many
@given(data=st.data())
def test_sweep_files(folder, data):
    path = write_mutated(folder / "sweep.yaml", SWEEP, yaml.safe_dump, data)
    answer(lambda: local_settings(read_sweep(path)), path)


FACTS = {"caption": "a head", "captions": ["a"], "plane": "brain", "brain_plane": "trans-thalamic", "patient": "p",
         "pixel_size_mm": 0.2, "hc_mm": 200.0, "ga_days": 150}  # fmt: skip
PNG = cv2.imencode(".png", np.arange(64, dtype=np.uint8).reshape(8, 8))[1].tobytes()


@many
@given(data=st.data())
def test_samples_of_a_shard(folder, data):
    sample = {"__key__": "k1", "__url__": "a.tar"}
    sample |= {"json": json.dumps(data.draw(mutated(FACTS) | values)).encode(), "png": PNG}
    member = data.draw(st.sampled_from(["json", "png", "txt"]))
    sample[member] = data.draw(damaged(sample.get(member, b"a fetal head")))
    answer(lambda: decode_sample(sample, np.random.default_rng(0)), folder / "k1")


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz-dicom") / "a.dcm"
    loop = np.random.default_rng(0).integers(0, 255, (2, 24, 32), dtype=np.uint8)
    file_of(loop, region=(2, 2, 30, 22), pixel_size_mm=0.2).save_as(path, enforce_file_format=True)
    return path.read_bytes()


@many
@given(data=st.data())
def test_dicom_files(folder, dicom, data):
    content = data.draw(damaged(dicom))
    assume(content != dicom)
    (folder / "a.dcm").write_bytes(content)
    said = ""
    try:
        for frame in read_dicom(folder / "a.dcm", "all").frames:
            assert frame.picture.dtype == np.uint8
    except ScanError as error:
        said = str(error)
    assert "\n" not in said  # and no name of a file, which may be a patient's
    assert len(said) <= 500
