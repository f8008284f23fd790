"""Public corpora: readers, checks and licences."""
