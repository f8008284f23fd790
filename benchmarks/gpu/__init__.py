"""The check of a card: tests, full-size step, loss and a real training (docs/performance.md)."""
