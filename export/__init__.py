"""Artifacts for devices: ONNX and Core ML files, heads, proof of parity, latency."""

from export.build import Options, export_student
from export.manifest import Export, read_export

__all__ = ["Export", "Options", "export_student", "read_export"]
