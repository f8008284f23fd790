"""One training or evaluation run: folder, resuming, results and tracking."""
