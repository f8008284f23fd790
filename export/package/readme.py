"""README.md, licence text and example programs of an export folder, so that it stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from export.package.model_card import as_text, card_data
from export.parity.ledger import Row
from models.student.onnx_files import AGES

HERE = Path(__file__).parent
README, LICENCE_TEXT = "README.md", "LICENSE-APACHE-2.0.txt"
CLIENTS = HERE / "clients"
PROGRAMS = (
    HERE.parent / "parity" / "verify_coreml.py",
    *(
        CLIENTS / name
        for name in ("example_client.py", "reader.mjs", "StudentReader.kt", "StudentReader.swift")
    ),
)
"""Programs that are copied into the folder."""


def licence_text() -> str:
    """Return the text of Apache-2.0, from the repository or the installed distribution."""
    own = HERE.parents[1] / "LICENSE"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    return distribution("sonodistill").read_text("licenses/LICENSE") or ""


def write_readme(path: Path, manifest: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write README.md, the card on the Hub: the contract, the formulas and a start in four languages.

    Args:
        path: File to write.
        manifest: Content of the export's manifest.
        rows: The parity ledger.
    """
    environment = Environment(  # nosec B701  # Markdown; `as_text` marks what comes from data
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters["as_text"] = as_text
    template = environment.from_string((HERE / "readme.md.jinja").read_text(encoding="utf-8"))
    heads, side = dict(manifest["heads"]), manifest["contract"]["input"]["shape"][3]
    text = template.render(
        contract=manifest["contract"], artifacts=manifest["artifacts"], side=side, ages=heads.pop(AGES, None),
        heads=heads, answers=manifest.get("answers"), card_data=card_data(manifest, rows).to_yaml(),
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
