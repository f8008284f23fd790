"""Artifacts for devices: ONNX and Core ML files, heads, parity, latency.

Names are imported on first use (``__init__.pyi`` lists them): a latency worker's cold start measures only the runtime
that it times.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
