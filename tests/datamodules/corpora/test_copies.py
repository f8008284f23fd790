"""Copies of benchmark images are found after re-encoding and resizing, and nothing else is."""

from __future__ import annotations

import json
import tarfile
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.fft import dctn

from datamodules.corpora.copies import NEAR, nearest_copies, perceptual_hash
from datamodules.corpora.public import CORPORA
from datamodules.pairs.image_reading import read_image
from experiments.commands.data import main
from tests.conftest import write_image


def bits(image: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.frombuffer(perceptual_hash(image), np.uint8))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE
    )


CHANGES = {
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "square": lambda image: cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR),
    "larger": lambda image: cv2.resize(image, None, fx=1.3, fy=1.3, interpolation=cv2.INTER_CUBIC),
    "jpeg": lambda image: jpeg(image, 20),
    "small jpeg": lambda image: jpeg(cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA), 75),
    "brighter": lambda image: (255 * (image / 255) ** 0.8).astype(np.uint8),
}


def test_the_hash_is_of_the_lowest_frequencies() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    expected = dctn(image.astype(np.float64), norm="ortho")[:16, :16].ravel()[1:]
    clear = abs(expected - np.median(expected)) > 1e-2  # rounding may turn the others
    assert clear.sum() > 250
    assert (bits(image)[:255] == (expected > np.median(expected)))[clear].all()
    assert perceptual_hash(np.dstack([image] * 3)) == perceptual_hash(image)


def test_the_nearest_within_the_limit_is_taken() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, 32, dtype=np.uint8)

    def away(number: int) -> bytes:
        flips = np.zeros(256, np.uint8)
        flips[rng.permutation(256)[:number]] = 1
        return (base ^ np.packbits(flips)).tobytes()

    assert nearest_copies([base.tobytes()], [away(90), away(9), away(3), away(30)]) == [2]
    assert nearest_copies([away(0), away(NEAR), away(NEAR + 1)], [base.tobytes()]) == [0, 0, None]
    assert nearest_copies([away(0)], []) == [None]


def test_real_copies_are_found(hc18_root) -> None:
    for record in CORPORA["hc18"].read(hc18_root)[::100]:
        image = read_image(record.image)
        own = bits(image)
        for name, change in CHANGES.items():
            assert (own != bits(change(image))).sum() <= NEAR, name


@pytest.mark.slow
def test_no_two_patients_of_hc18_are_taken_for_copies(hc18_root) -> None:
    records = CORPORA["hc18"].read(hc18_root)
    found = [(record.patient, bits(read_image(record.image))) for record in records]
    nearest = min((one != two).sum() for (a, one), (b, two) in combinations(found, 2) if a != b)
    assert nearest > 2 * NEAR


@pytest.fixture
def mixed(tiny_planes, tiny_hc18) -> list[str]:
    """Names of images of FETAL_PLANES_DB that were replaced by HC18's: re-encoded, resized, or as JPEG."""
    heads = []
    for seed, record in enumerate(CORPORA["hc18"].read(tiny_hc18), 1000):  # the corpora share their seeds
        write_image(record.image, seed)
        heads.append(read_image(record.image))
    records = [r for r in CORPORA["planes"].read(tiny_planes) if r.split == "train"]
    for number, change in enumerate((lambda image: image, CHANGES["larger"], CHANGES["small jpeg"])):
        cv2.imwrite(str(records[9 * number].image), change(heads[number]))
    return [records[9 * number].name for number in range(3)]


def test_the_check_names_every_copy(mixed, tiny_planes, tiny_hc18, capsys) -> None:
    arguments = ["check", "planes", str(tiny_planes), "--workers=1", "--all"]
    assert main(arguments) == 0
    assert "copies of" not in capsys.readouterr().out
    assert main([*arguments, f"--exclude=hc18:{tiny_hc18}"]) == 1
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("copies of benchmark images:")
    ]
    heads = ("000_HC.png", "000_2HC.png", "001_HC.png")
    expected = zip(mixed, heads, strict=True)
    assert lines == [f"copies of benchmark images: {name} = hc18 {head}" for name, head in expected]


def test_a_table_is_searched_for_copies_too(tiny_hc18, tmp_path, capsys) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,patient,text\nHC18/training_set/001_HC.png,1,a head\n")
    arguments = ["check", "table", str(table), f"--exclude=hc18:{tiny_hc18}", "--workers=1", "--all"]
    assert main(arguments) == 1
    assert "copies of benchmark images: HC18/training_set/001_HC.png = hc18" in capsys.readouterr().out
    for option in (f"--sheet={tmp_path / 'a.png'}", "--images=.", "--column=plane=x", "--context-length=9"):
        with pytest.raises(ValueError, match=f"{option.split('=')[0]}: for tables only"):
            main(["check", "hc18", str(tiny_hc18), option])


def test_shards_hold_no_copy(mixed, tiny_planes, tiny_hc18, tmp_path, capsys) -> None:
    arguments = [
        "shards",
        str(tiny_planes),
        str(tmp_path / "out"),
        f"--exclude=hc18:{tiny_hc18}",
        "--workers=1",
    ]
    assert main(arguments) == 0
    assert "left out of FETAL_PLANES_DB: 3 copies of images of HC18" in capsys.readouterr().out
    (source,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]
    assert source["benchmark_copies_left_out"] == {"hc18": 3}
    keys = set()
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as shard:
            keys |= {Path(name).stem.removeprefix("planes-") for name in shard.getnames()}
    assert source["counts"]["images"] == len(keys)
    records = CORPORA["planes"].assign_splits(CORPORA["planes"].read(tiny_planes))
    assert keys == {record.name for record in records if record.split == "train"} - set(mixed)


def test_shards_made_elsewhere_are_searched_too(mixed, tiny_planes, tiny_hc18, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["shards", str(tiny_planes), str(out)]) == 0
    arguments = ["check", "shards", str(out), f"--exclude=hc18:{tiny_hc18}", "--workers=1", "--all"]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "complete and unchanged" in printed
    (out / "manifest.json").unlink()
    assert main(arguments) == 1
    for text in (printed, capsys.readouterr().out):
        lines = [line for line in text.splitlines() if line.startswith("copies of benchmark images:")]
        assert {name for name in mixed for line in lines if f"/planes-{name}.png = hc18 " in line} == set(
            mixed
        )
        assert len(lines) == 3
    with tarfile.open(out / "pairs-000009.tar", "w") as shard:
        shard.addfile(tarfile.TarInfo("broken.png"))
    (out / "damaged.tar").write_bytes(b"no tar at all")
    assert main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    bad = [line for line in lines if line.startswith("unreadable images:")]
    assert [line.split(": ")[1] for line in bad] == ["damaged.tar", "pairs-000009.tar/broken.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: no tar file with images"):
        main(["check", "shards", str(tmp_path / "empty"), f"--exclude=hc18:{tiny_hc18}"])


def test_an_unknown_corpus_is_one_line(tiny_planes, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["shards", str(tiny_planes), str(tmp_path / "out"), "--exclude=/data/HC18"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "/data/HC18: expected CORPUS:FOLDER, a corpus of hc18, planes, african" in line
