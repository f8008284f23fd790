"""A trained student that answers questions about images, from a checkpoint or an export folder."""
