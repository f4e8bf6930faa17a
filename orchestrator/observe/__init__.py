"""What winnow tells of itself: metrics, logs and traces. See docs/operations.md."""
