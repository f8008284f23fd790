"""Fused and chunked arithmetic of the SRKD loss."""
