"""Files of an export folder: manifest, heads, golden files, model card."""
