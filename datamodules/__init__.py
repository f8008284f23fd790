"""Corpora: readers, captions, transforms and the LightningDataModules over them."""
