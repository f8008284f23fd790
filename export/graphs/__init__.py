"""Conversion: pixel graph, ONNX, Core ML and text tower."""
