"""Batches to weights: the run, its steps and loop, optimiser, checkpoints and tracks."""
