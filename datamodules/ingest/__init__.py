"""DICOM files and cine loops: read one, or turn an archive into de-identified pictures with a table."""

from datamodules.ingest.scans import Scan, ScanError, read_cine, read_dicom

__all__ = ["Scan", "ScanError", "read_cine", "read_dicom"]
