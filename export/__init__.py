"""Artifacts for devices: ONNX and Core ML files, heads, parity, latency.

Names are imported on first use, so that a latency worker's cold start measures only the runtime that it times.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.build import export_student
    from export.options import Options
    from export.package.manifest import Export, read_export

__all__ = ["Export", "Options", "export_student", "read_export"]

_HOMES = {
    "Export": "export.package.manifest",
    "Options": "export.options",
    "export_student": "export.build",
    "read_export": "export.package.manifest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
