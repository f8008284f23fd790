"""WebDataset shards: stream, writer and data module."""
