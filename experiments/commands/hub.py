"""Push a checkpoint, an export or a run to the Hugging Face Hub with its card, or pull one.

usage: sonodistill hub push PATH OWNER/NAME [--public] [--with-images]
       sonodistill hub pull OWNER/NAME FOLDER [--revision=COMMIT]

PATH is a checkpoint, an export folder or a run's folder. Log in with `.venv/bin/hf auth login`, or set HF_TOKEN. A new
repository is private. Reports, plots and results of single images, but the phantom's, are pushed with --with-images
only.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from datamodules.pairs.image_reading import IMAGE_SUFFIXES
from experiments.process import Parser
from experiments.recipe_files import preset_of
from experiments.report.read_run import read_run
from experiments.runs.run_record import read_record, run_config, training_facts
from export.package.manifest import read_export
from export.package.model_card import data_terms, training_lines, weight_origin
from models.checkpoints.inspection import STUDENT, student_architecture
from models.checkpoints.weights import read_entry
from models.files import atomic_folder
from models.messages import count, one_line
from models.student.manifest import MANIFEST

HTTP_ERROR: Any = HfHubHTTPError.__bases__[0]  # that of its client, also when the server cannot be reached
CARD = "README.md"
BEST = "checkpoints/best.ckpt"
OF_A_RUN = ("config.yaml", "results.json", "metrics.csv", "report.html", "plots/*.png", BEST)
USAGE = """\
Install SonoDistill from a clone of its repository (`pip install path/to/the/clone`), then:

```python
import sonodistill.folders  # puts SonoDistill's packages on the path, docs/embed.md
from models import load_student

student = load_student({!r})
```"""
SHOWS_IMAGES = {*IMAGE_SUFFIXES, ".html", ".pdf"}


def files_to_push(path: Path, with_images: bool) -> dict[str, Path | bytes]:
    """Return what is pushed: name in the repository -> file or content."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint, export or run")
    if path.is_file():
        return {CARD: checkpoint_card(path, path.name).encode(), path.name: path}
    if (path / MANIFEST).is_file():
        places = [path / str(entry["file"]) for entry in read_export(path).manifest["artifacts"].values()]
        found = [
            file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))
        ]
        files: dict[str, Path | bytes] = {MANIFEST: path / MANIFEST}
        simulated = path / "golden"  # the exporter draws them, and the manifest has their hash
        shown = [
            file for file in found if file.suffix.lower() in SHOWS_IMAGES and simulated not in file.parents
        ]
    elif (path / BEST).is_file():
        found = [file for pattern in OF_A_RUN for file in sorted(path.glob(pattern))]
        files = {CARD: checkpoint_card(path / BEST, BEST).encode()}
        phantom = (path / "results.json").is_file() and read_run(path).is_phantom
        shown = [] if phantom else [file for file in found if file.suffix in (*SHOWS_IMAGES, ".json")]
    else:
        raise ValueError(f"{path}: neither an export ({MANIFEST}) nor a run ({BEST})")
    if shown and not with_images:
        names = ", ".join(str(file.relative_to(path)) for file in shown[:3])
        raise ValueError(
            f"{path}: {names}{', ...' if len(shown) > 3 else ''} may show images or names of patients; push the "
            "checkpoint or the export alone, or add --with-images"
        )
    return {**files, **{file.relative_to(path).as_posix(): file for file in found if file.is_file()}}


def checkpoint_card(path: Path, name: str) -> str:
    """Return a checkpoint's card: what it was trained from, and its terms. `name`: its path in the repository."""
    student = read_entry(path, "student")
    if student is None:
        raise ValueError(f"{path}: not a checkpoint that this project has trained")
    config = run_config(str(path))
    facts = training_facts(config, read_record(str(path)))
    source: dict[str, Any] = {
        "weights": "trained",
        "recipe": student_architecture({STUDENT: student}, str(path)),
        "training": facts,
    }
    source["data"] = preset_of(config) or facts.get("data", "not recorded")
    data = ModelCardData(license="other", license_name="see-card", tags=["medical", "fetal-ultrasound"])
    lines = [*training_lines(source), *weight_origin(source), *data_terms(source)]
    listed = "\n".join(f"- {line}" for line in dict.fromkeys(lines))
    usage = USAGE.format(name)
    text = f"---\n{data.to_yaml()}\n---\n\n# SonoDistill student\n\nNot a medical device.\n\n{listed}\n\n{usage}\n"
    return str(ModelCard(text))


def push(path: Path, repository: str, public: bool, with_images: bool) -> None:
    """Push in one commit, and print its address."""
    files = files_to_push(path, with_images)
    api = HfApi()
    api.create_repo(repository, private=not public, exist_ok=True)
    changes = [CommitOperationAdd(name, content) for name, content in files.items()]
    commit = api.create_commit(repository, changes, commit_message=f"Push {path.name}")
    print(f"{count(len(files), 'file')}: {commit.commit_url}")


def pull(repository: str, folder: Path, revision: str | None) -> None:
    """Download one commit into a new folder, and check an export's hashes."""
    if folder.exists():
        raise ValueError(f"{folder}: exists already; name a new folder")
    info = HfApi().model_info(repository, revision=revision)
    names = [file.rfilename for file in info.siblings or []]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{repository}: {name!r} would leave the folder")
    with atomic_folder(folder) as partial:
        cache = partial / ".cache"  # where the client keeps its own notes, too
        snapshot_download(repository, revision=info.sha, local_dir=partial, cache_dir=cache)
        shutil.rmtree(cache, ignore_errors=True)
        if (partial / MANIFEST).is_file():
            read_export(partial)
    print(f"{count(len(names), 'file')} in {folder}, commit {info.sha}")


def main(argv: list[str]) -> int:
    """Run one of the two."""
    parser = Parser(prog="sonodistill hub", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="push|pull")
    one = commands.add_parser("push")
    one.add_argument("path", type=Path)
    one.add_argument("repository")
    one.add_argument("--public", action="store_true")
    one.add_argument("--with-images", action="store_true")
    one = commands.add_parser("pull")
    one.add_argument("repository")
    one.add_argument("folder", type=Path)
    one.add_argument("--revision")
    options = parser.parse_args(argv)
    try:
        if options.command == "push":
            push(options.path, options.repository, options.public, options.with_images)
        else:
            pull(options.repository, options.folder, options.revision)
    except HTTP_ERROR as error:
        answered = isinstance(error, HfHubHTTPError)
        remedy = ".venv/bin/hf auth login, or HF_TOKEN=..." if answered else "check the network and repeat"
        raise ConnectionError(f"hub: {options.repository}: {one_line(error, 300)}; {remedy}") from error
    return 0
