"""What a run logs besides its losses."""
