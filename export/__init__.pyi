from .build import Subject, export_student
from .options import Options
from .package.manifest import Export, read_export

__all__ = [
    "Export",
    "Options",
    "Subject",
    "export_student",
    "read_export",
]
