"""Dual encoders, their preprocessing contract, and checkpoint loading.

Names are imported on first use (``__init__.pyi`` lists them): what reads an export folder needs no PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
