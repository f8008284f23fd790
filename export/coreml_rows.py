"""What the inspection of Core ML packages adds to the ledger, and the rows that only a Mac can finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from export.parity import FAILED, NOT_RUN, Gates, Row, device_limits

ON_DEVICE = "-on-device"


def check_packages(artifacts: Mapping[str, Mapping[str, Any]], rows: Sequence[Row]) -> None:
    """Fail the row of a package whose inspection found a problem, and note what may miss the Neural Engine."""
    for row in rows:
        report = artifacts.get(row.variant, {}).get("inspection", {})
        if report.get("problems"):
            row.status, row.note = FAILED, "; ".join(report["problems"])
        elif report.get("not_on_neural_engine"):
            unknown = f"not known to run on the Neural Engine: {', '.join(report['not_on_neural_engine'])}"
            row.note = "; ".join(filter(None, [row.note, unknown]))


def device_rows(artifacts: Mapping[str, dict[str, Any]], gates: Gates, *, trained: bool) -> list[Row]:
    """Return a row a package for what only a Mac can tell, and leave the limits for it in the package's entry."""
    note = "at the export; verify_coreml.py, run on a Mac, enters the verdict in parity.json"
    packages = {name: entry for name, entry in artifacts.items() if entry["kind"] == "coreml"}
    for entry in packages.values():
        entry["on_device"] = device_limits(entry["gate"], gates, trained=trained)
    return [Row(name + ON_DEVICE, "Core ML", status=NOT_RUN, note=note) for name in packages]
