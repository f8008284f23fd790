"""Zero-shot evaluation of student and teacher during and after training."""
