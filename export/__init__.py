"""Artifacts for devices: ONNX and Core ML files, heads, proof of parity, latency.

Names are imported when they are first used: a process that times one runtime must not load all the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.build import export_student
    from export.manifest import Export, read_export
    from export.options import Options

__all__ = ["Export", "Options", "export_student", "read_export"]

_HOMES = {
    "Export": "export.manifest",
    "Options": "export.options",
    "export_student": "export.build",
    "read_export": "export.manifest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
