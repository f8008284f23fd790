"""A page on which an exported student reads frames in the visitor's browser (docs/demo.md)."""
