"""What passes between stages: rows (no torch), tensors, results on disk (no torch), protocols."""
