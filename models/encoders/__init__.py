"""Dual encoders from open_clip, timm and transformers behind one interface."""
