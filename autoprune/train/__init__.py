"""Data, tasks, the only training loop, BatchNorm recalibration and distillation."""
