"""The programs in an export folder do what the contract says, bit by bit where it is about pixels."""

import hashlib
import json
import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from datamodules.pairs.image_reading import read_image
from models import Preprocessing, load_student
from models.preprocessing import resize_padded
from models.student.manifest import seal
from models.student.onnx_files import read_heads

SIDE = 48
# Shapes that shrink a lot, little, grow, are square, and of odd differences, with every extreme of pixel values.
SHAPES = [(541, 800), (300, 99), (97, 97), (48, 48), (20, 33), (1, 64), (1080, 1920)]

FIRST, ROWS = 10, 90  # an age table of the spacings 0.10 to 0.99 mm
# Width, height and pixel size (mm) of frames whose spacings are 0.105, 0.110, ... 0.985 mm: some are exact ties, such
# as 0.125, others the double above or below a tie.
SPACED = [
    (width, height, step * 0.005 * SIDE / max(width, height))
    for width, height in [(SIDE, SIDE // 2), (800, 541), (300, 99), (33, 20), (97, 97), (1, 63), (1079, 1917)]
    for step in range(2 * FIRST + 1, 2 * (FIRST + ROWS) - 2)
]

DROP = 1.0  # of the similarity times 100: two days of a slope of 1/256
# Days of the narrow and of the flat peak of a row, and the age with its interval: where the age is beyond, up to it.
PEAKS = [(98, 200, (196, 98, 196)), (272, 150, (153, 153, 272))]


def days_of(width, height, pixel_size):
    """Return the age that `spaced_heads` has in the row whose name is Python's spacing."""
    printed = f"{max(width, height) / SIDE * pixel_size:.2f}"
    return 110 + round(100 * float(printed)) - FIRST


def spaced_heads(folder):
    """Write heads whose age of the embedding [0, 1] is 110 days in the row 0.10, and one more in each further row.

    The fifteen most similar ages are that day and seven to each side. To [1, 0] all ages are equally similar, but for
    the rows of `PEAKS`, which have a narrow and a flat peak.
    """
    days, peaks = np.arange(98, 273), 110 + np.arange(ROWS)[:, None]
    away = np.stack([np.zeros((ROWS, days.size)), -np.abs(days - peaks) / 256], axis=2)
    for row, (narrow, flat, _) in enumerate(PEAKS):
        near = -2 * np.abs(days - narrow)
        away[row, :, 0] = np.where(near > -14, near, -20 - np.abs(days - flat)) / 256
    texts = {
        "kind": "ages",
        "cosine_scale": 100,
        "ages_days": [98, 272],
        "spacings_mm_per_px": [f"{(FIRST + row) / 100:.2f}" for row in range(ROWS)],
        "basis": "ages_basis",
    }
    tensors = {"ages": away.astype(np.float16), "ages_basis": np.eye(2, dtype=np.float32)}
    save_file(tensors, folder / "spaced.safetensors", {"ages": json.dumps(texts)})
    return folder / "spaced.safetensors"


def frames():
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate(SHAPES):
        noise = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
        yield np.where(noise > 127, 255, 0).astype(np.uint8) if number % 2 else noise


@pytest.fixture(scope="module")
def example(exported):
    """The reference client, imported from the folder, which stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.syspath_prepend(exported.folder)
        import example_client

        yield example_client
    del sys.modules["example_client"]


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_python_resizes_as_pillow_does(example, kernel):
    contract = Preprocessing(SIDE, (0.0,) * 3, (1.0,) * 3, interpolation=kernel)
    for frame in frames():
        np.testing.assert_array_equal(
            example.prepare(frame, SIDE, kernel == "bicubic"), resize_padded(frame, contract)
        )


def test_the_reference_client_answers_as_the_student_does(exported, golden, example):
    own, student = example.Student(exported.folder), load_student(exported.folder)
    for row in golden[0]:
        frame = np.asarray(Image.open(exported.folder / "golden" / row["frame"]).convert("RGB"))
        embedding = own.embed(frame)
        np.testing.assert_allclose(embedding, student.embed([frame])[0], atol=1e-5)
        assert own.classify(embedding, "planes") == pytest.approx(row["planes"], abs=1e-3)
        if "ages" in row:
            (answer,) = student.ages(embedding[None], [float(row["ages"]["spacing_mm_per_px"])])
            (exact,) = student.ages(np.array([row["embedding"]]), [0.30])
            assert abs(row["ages"]["age_days"] - exact["ga_days"]) <= 1, (
                "sums in another order: two ages may tie"
            )
            assert own.read(frame, row["ages"]["pixel_size_mm"], every=True)["age"] == (
                answer["ga_days"],
                None,
                None,
            )
    with pytest.raises(ValueError, match=r"spacing 0\.31 mm is not in"):
        own.age(embedding, 0.31)


def test_the_reference_client_knows_thresholds_and_intervals(copied, example):
    own = example.Student(copied)
    embedding = own.embed(np.full((50, 40, 3), 99, np.uint8))
    own.manifest["answers"] = {"none_below": {"planes": 1e6}, "age_drop": 1e6}
    assert own.classify(embedding, "planes") is None
    assert own.classify(embedding, "subplanes") is not None
    days, low, high = own.age(embedding, 0.30)
    assert (low, high) == (98, 272)
    assert low <= days <= high


@pytest.fixture
def program(monkeypatch, capsys):
    """Run the client of a folder as a program, in this process; return its exit status or error, and its output."""

    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["example_client.py", *arguments])
        status = 0
        try:
            runpy.run_path("example_client.py", run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        return status, capsys.readouterr()

    return run


def test_the_command_of_the_readme_answers(copied, program):
    manifest = json.loads((copied / "manifest.json").read_text())
    Image.new("L", (manifest["contract"]["input"]["shape"][3],) * 2).save(copied / "frame.png")
    command = [sys.executable, "example_client.py", "frame.png"]
    done = subprocess.run(command, cwd=copied, capture_output=True, text=True, check=True)
    assert "planes" in json.loads(done.stdout)
    del manifest["heads"]["planes"]  # by which the untrained student may see no brain
    (copied / "manifest.json").write_text(json.dumps(seal(manifest)))
    assert set(json.loads(program(copied, "frame.png", "0.3")[1].out)) == {"subplanes", "age"}
    assert "0.31 mm is not in" in json.loads(program(copied, "frame.png", "0.31")[1].out)["no_age"]
    error, _ = program(copied, "none.png")
    assert re.fullmatch("error: .*none.png.*", error)


@pytest.mark.parametrize("arguments", [[], ["frame.png", "0,39"], ["frame.png", "0.39", "age"]])
def test_the_reference_client_refuses_other_arguments_with_its_usage(exported, program, arguments):
    status, said = program(exported.folder, *arguments)
    assert status == 2
    assert said.err.startswith("usage: example_client.py [-h] picture [pixel_size_mm]\n")


@pytest.mark.parametrize("brain", [True, False])
def test_the_reference_client_gives_sub_plane_and_age_of_brain_planes_alone(
    exported, example, monkeypatch, brain
):
    own, frame = example.Student(exported.folder), np.full((50, 50, 3), 99, np.uint8)
    answers = {"planes": {"femur": 0.5, "brain": 0.9 if brain else 0.1}, "subplanes": {"trans-thalamic": 1.0}}
    monkeypatch.setattr(own, "classify", lambda _, name: answers[name])
    pixel_size = float(own.manifest["heads"]["ages"]["spacings_mm_per_px"][0]) * own.side / 50
    assert set(own.read(frame, pixel_size)) == ({"planes", "subplanes", "age"} if brain else {"planes"})
    assert set(own.read(frame, pixel_size, every=True)) == {"planes", "subplanes", "age"}
    answers["planes"] = None
    assert set(own.read(frame, pixel_size)) == {"planes"}
    assert set(own.read(frame, pixel_size, every=True)) == {"planes", "subplanes", "age"}
    far = own.read(frame, 99.0, every=True)
    assert "age" not in far
    assert far["no_age"].endswith("is not in the export's age table")
    del own.manifest["heads"]["planes"]  # nothing says that it is another plane
    assert set(own.read(frame, pixel_size)) == {"subplanes", "age"}
    del own.manifest["heads"]["ages"]
    assert own.read(frame, pixel_size)["no_age"] == "the export has no age table"


DAYS = np.arange(98, 273)
ONE_PEAK = 10 - 0.4 * np.abs(DAYS - 171)
# The fifteen most similar ages are 100 to 106 and 196 to 203.
TWO_PEAKS = np.where((DAYS >= 100) & (DAYS <= 106), 10 - 0.4 * (DAYS - 100), 5 - 0.1 * np.abs(DAYS - 200))


@pytest.fixture
def by_hand(example):
    """A client with numbers of its own: the embedding [1, 0] has the similarities `ONE_PEAK`, [0, 1] `TWO_PEAKS`."""
    own = object.__new__(example.Student)
    ages = {"cosine_scale": 2.0, "ages_days": [98, 272], "spacings_mm_per_px": ["0.30"]}
    planes = {"cosine_scale": 10.0, "labels": ["a", "b", "c"]}
    own.manifest = {"heads": {"ages": ages, "planes": planes}, "answers": None}
    own.tensors = {
        "ages": np.stack([ONE_PEAK, TWO_PEAKS], axis=1)[None],
        "ages_basis": np.eye(2),
        "planes": np.eye(3),
    }
    return own


@pytest.mark.parametrize(
    ("drop", "first", "second"), [(None, (None, None), (None, None)), (1, (170, 172), (100, 196))]
)
def test_the_reference_client_takes_the_middle_of_fifteen_ages_and_its_interval_by_the_scaled_similarity(
    by_hand, drop, first, second
):
    by_hand.manifest["answers"] = {"age_drop": drop}
    assert by_hand.age(np.array([1.0, 0.0]), 0.30) == (171, *first)
    assert by_hand.age(np.array([0.0, 1.0]), 0.30) == (196, *second), "the interval reaches the age itself"


def test_the_reference_client_takes_the_age_of_the_spacing_as_python_prints_it(
    example, monkeypatch, tmp_path
):
    own, ages = object.__new__(example.Student), read_heads(spaced_heads(tmp_path))["ages"]
    own.side, own.manifest = SIDE, {"heads": {"ages": ages.description}}
    own.tensors = {"ages": ages.vectors, "ages_basis": ages.basis}
    monkeypatch.setattr(own, "embed", lambda _: np.array([0, 1], np.float32))
    for width, height, pixel_size in SPACED:
        answer = own.read(np.zeros((height, width, 3), np.uint8), pixel_size, every=True)
        assert answer["age"] == (days_of(width, height, pixel_size), None, None)
    assert own.age(np.array([1, 0], np.float32), 0.3)[0] == 98 + 7, "the middle of the first fifteen"


def test_the_reference_client_rejects_by_the_lead_of_the_best_logit_over_the_mean(by_hand):
    embedding = np.array([0.6, 0.5, 0.1])  # logits 6, 5 and 1: the lead is 2
    odds = np.exp([6, 5, 1])
    wanted = pytest.approx(dict(zip("abc", odds / odds.sum(), strict=True)))
    assert by_hand.classify(embedding, "planes") == wanted
    for lowest, answer in ((1.5, wanted), (2.5, None)):
        by_hand.manifest["answers"] = {"none_below": {"planes": lowest}}
        assert by_hand.classify(embedding, "planes") == answer


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["heads"]["planes"]["labels"].reverse(),
        lambda manifest: manifest.pop("manifest_sha256"),
        lambda manifest: manifest.update(format=99),
        lambda manifest: manifest.clear(),
    ],
)
def test_the_reference_client_refuses_an_edited_manifest_in_one_line(copied, program, change):
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    error, _ = program(copied, "golden/frame_0.png")
    assert re.fullmatch(r"error: .*manifest\.json: edited after the export", error)


def pictures():
    """Files whose 8-bit pixels depend on how they are read."""
    generator = np.random.default_rng(0)
    wide = generator.integers(0, 65536, (20, 30)).astype(np.uint16)
    colour = Image.fromarray(generator.integers(0, 256, (20, 30, 3)).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 90 degrees to show it
    yield "wide.png", Image.fromarray(wide), {}
    yield "twelve.tif", Image.fromarray(wide >> 4), {}
    yield "turned.png", colour, {"exif": turned}
    yield "palette.png", colour.convert("P"), {}
    yield "alpha.png", colour.convert("RGBA"), {}
    yield "gray.png", colour.convert("L"), {}
    yield "damaged.png", colour, {"exif": b"Exif\0\0damaged"}
    yield "xmp.jpg", colour, {"xmp": b'<x:xmpmeta tiff:Orientation="6"/>'}


def test_the_reference_client_decodes_as_the_project_does(example, tmp_path):
    for name, image, options in pictures():
        image.save(tmp_path / name, **options)
        expected = read_image(tmp_path / name)
        if expected.ndim == 2:
            expected = np.repeat(expected[..., None], 3, axis=2)
        np.testing.assert_array_equal(example.decode(tmp_path / name), expected, err_msg=name)
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating-point"):
        example.decode(tmp_path / "float.tif")
    for value in (-1, 65536):
        Image.fromarray(np.full((2, 2), value, np.int32)).save(tmp_path / "wide.tif")
        with pytest.raises(ValueError, match="beyond the 16-bit range"):
            example.decode(tmp_path / "wide.tif")


@pytest.mark.parametrize("name", ["eps.png", "pages.tif", "large.png", "cut.png", "none.png"])
def test_the_reference_client_refuses_in_one_line_what_the_project_refuses(
    example, tmp_path, monkeypatch, name
):
    picture, path = Image.new("RGB", (30, 20)), tmp_path / name
    if name != "none.png":
        kinds = {"eps.png": {"format": "EPS"}, "pages.tif": {"save_all": True, "append_images": [picture]}}
        picture.save(path, **kinds.get(name, {}))
    if name == "cut.png":
        path.write_bytes(path.read_bytes()[:45])
    if name == "large.png":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    for decode in (read_image, example.decode):
        with pytest.raises((ValueError, FileNotFoundError), match=f"{name}.*") as refusal:
            decode(path)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_the_reference_client_resizes_by_the_contract_of_the_export(copied, example, kernel):
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["contract"]["preprocessing"]["interpolation"] = kernel
    path.write_text(json.dumps(seal(manifest)))
    own, (frame, *_) = example.Student(copied), frames()
    own.session = SimpleNamespace(run=lambda _, inputs: [inputs["image"]])
    wanted = resize_padded(frame, Preprocessing(**manifest["contract"]["preprocessing"]))
    np.testing.assert_array_equal(own.embed(frame), wanted.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["image_encoder.onnx", "heads.safetensors"])
def test_the_reference_client_refuses_a_file_that_is_not_the_manifests(copied, example, name):
    with (copied / name).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ValueError, match=f"{name}: not the file that the manifest describes"):
        example.Student(copied)


def test_hash_of_a_folder_is_the_one_that_the_readme_describes(exported):
    folder, total = exported.folder / "golden", hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        line = f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        total.update(line.encode())
    assert total.hexdigest() == exported.manifest["artifacts"]["golden"]["sha256"]


def test_readme_names_what_the_python_client_imports(exported):
    client = (exported.folder / "example_client.py").read_text()
    imported = {name.lower() for name in re.findall(r"^ *(?:import|from) (\w+)", client, re.MULTILINE)}
    own = {"pillow" if name == "pil" else name for name in imported - sys.stdlib_module_names}
    line = re.search(r"pip install ([\w ]+)`", (exported.folder / "README.md").read_text())
    assert set(line[1].split()) == own
