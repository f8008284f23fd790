"""Import this to use the folders by their own names, as in a clone: ``from models import load_student``.

They come first on the path of this process, and of the Python processes that it starts.
"""

import os
import sys

import sonodistill

FOLDER = sonodistill.__path__[-1]
sys.path.insert(0, FOLDER)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (FOLDER, os.environ.get("PYTHONPATH"))))
