"""The product benchmark: `tether train` beside TRL's DPO trainer, same machine, same run, same rows.

`python -m bench` (or `make bench`) writes rows and a random model, runs both programs in fresh processes in
turns, checks that they computed the same losses on the same tokens, and prints ratios.
"""
