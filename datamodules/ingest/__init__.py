"""DICOM files and cine loops: read one, or turn an archive into de-identified pictures with a table."""

from datamodules.ingest.archive import IngestSettings, ingest, pseudonym
from datamodules.ingest.overlays import mask_overlays
from datamodules.ingest.scans import Scan, ScanError, read_cine, read_dicom

__all__ = [
    "IngestSettings",
    "Scan",
    "ScanError",
    "ingest",
    "mask_overlays",
    "pseudonym",
    "read_cine",
    "read_dicom",
]
