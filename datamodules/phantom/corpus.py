"""Make the phantom corpus on disk, once: reproducibly, in parallel and atomically."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
from filelock import FileLock
from tqdm import tqdm

from datamodules.cores import usable_cores
from datamodules.phantom.layouts import image_path, write_tables
from datamodules.phantom.patients import CORPORA, Picture, list_pictures
from datamodules.phantom.renderer import Truth, render
from models.files import digest, write_json

SIMULATOR_VERSION = 3  # increase it whenever a picture changes, so that older corpora are not reused
DEFAULT_ROOT = Path("data/phantom")
PNG_COMPRESSION = 1  # speckle hardly compresses: higher levels only take longer
MOST_WORKERS = 8  # each imports torch with this package: half a gigabyte
IN_PROCESS = 200  # fewer pictures are drawn in this process: starting others would take longer


@dataclass(frozen=True)
class PhantomSettings:
    """Settings that determine the corpus, together with the simulator's version.

    Attributes:
        seed: Seed of every draw.
        num_planes_images: Pictures in the layout of FETAL_PLANES_DB.
        num_hc18_images: Pictures in the layout of HC18.
        num_pair_images: Image-caption pairs in WebDataset shards, from separate patients.
        planes_images_per_patient: Mean number of pictures of a patient (12,400 / 1,792 in the real set).
        hc18_images_per_patient: Mean number of pictures of a patient (999 / 806 in the real set).
        test_share: Share of FETAL_PLANES_DB-type patients whose official Train flag is 0.

    Raises:
        ValueError: A number is negative, a mean is below 1, or the share is not between 0 and 1.
    """

    seed: int = 0
    num_planes_images: int = 3600
    num_hc18_images: int = 1600
    num_pair_images: int = 256
    planes_images_per_patient: float = 6.9
    hc18_images_per_patient: float = 1.24
    test_share: float = 0.35

    def __post_init__(self) -> None:
        for name in ("seed", "num_planes_images", "num_hc18_images", "num_pair_images"):
            if getattr(self, name) < 0:
                raise ValueError(f"phantom: {name} must not be negative, not {getattr(self, name)}")
        for name in ("planes_images_per_patient", "hc18_images_per_patient"):
            if getattr(self, name) < 1:
                raise ValueError(f"phantom: {name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"phantom: test_share must lie in [0, 1), not {self.test_share}")

    def at_most(self, planes: int, heads: int) -> PhantomSettings:
        """Return the settings of a corpus of at most this many pictures in the two layouts, without pairs."""
        planes, heads = min(self.num_planes_images, planes), min(self.num_hc18_images, heads)
        return replace(self, num_planes_images=planes, num_hc18_images=heads, num_pair_images=0)

    @property
    def digest(self) -> str:
        """Name of the corpus's folder: a hash of the settings and the simulator's version."""
        return digest({"simulator": SIMULATOR_VERSION, **asdict(self)})[:12]

    def pictures(self) -> list[Picture]:
        """Return every picture of the corpus, in a fixed order."""
        sizes = (
            (self.num_planes_images, self.planes_images_per_patient),
            (self.num_hc18_images, self.hc18_images_per_patient),
            (self.num_pair_images, self.planes_images_per_patient),
        )
        return [
            picture
            for corpus, (count, mean) in zip(CORPORA, sizes, strict=True)
            for picture in list_pictures(corpus, count, self.seed, mean, self.test_share)
        ]


def make_corpus(
    settings: PhantomSettings, root: str | Path = DEFAULT_ROOT, workers: int | None = None
) -> Path:
    """Return the folder of the corpus, and make it first if it is missing.

    The folder gets its name only when it is complete. Of several processes that ask at once, one makes
    the corpus and the others wait for it.

    Args:
        settings: Settings of the corpus.
        root: Folder of all phantom corpora, one subfolder per hash.
        workers: Number of processes; None takes the cores that this process may use, at most 8. The pictures
            do not depend on it.
    """
    root = Path(root)
    target = root / settings.digest
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    unfinished = f".{settings.digest}.making-"
    with FileLock(root / f".{settings.digest}.lock"):
        if target.is_dir():
            return target
        for abandoned in root.glob(f"{unfinished}*"):  # of a killed process: this one has the lock
            shutil.rmtree(abandoned)
        with TemporaryDirectory(prefix=unfinished, dir=root) as temporary:
            folder = Path(temporary) / "corpus"
            _fill(folder, settings, workers)
            folder.replace(target)
    return target


def _fill(folder: Path, settings: PhantomSettings, workers: int | None) -> None:
    pictures = settings.pictures()
    for parent in {image_path(folder, picture).parent for picture in pictures}:
        parent.mkdir(parents=True)
    draw = partial(_draw, folder, settings.seed)
    workers = min(usable_cores(), MOST_WORKERS) if workers is None else workers
    bar = partial(tqdm, total=len(pictures), desc="phantom corpus", unit="image", disable=None, mininterval=1)
    if workers == 1 or len(pictures) < IN_PROCESS:
        truths = list(bar(map(draw, pictures)))
    else:
        # Fresh interpreters: a fork of a process with running OpenCV threads hangs.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            truths = list(bar(pool.map(draw, pictures, chunksize=8)))
    write_tables(folder, pictures, truths)
    write_json(folder / "settings.json", {"simulator": SIMULATOR_VERSION, **asdict(settings)})


def _draw(folder: Path, seed: int, picture: Picture) -> Truth:
    image, truth = render(picture, seed)
    path = image_path(folder, picture)
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]):
        raise OSError(f"{path}: could not be written; is the disk full?")
    return truth
