"""The package that ``pip install`` leaves in an environment: every folder of the repository, under one name.

`sonodistill.losses` and `sonodistill.metrics` import nothing of the others and work anywhere. The others import each
other by the folders' own names: ``import sonodistill.folders`` first, or use the command ``sonodistill``.
"""

from pathlib import Path

if not (Path(__path__[0]) / "losses").is_dir():  # a clone, where the folders are beside this one
    __path__.append(str(Path(__path__[0]).parent))
