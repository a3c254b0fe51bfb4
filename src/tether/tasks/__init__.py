"""The tasks of the literature end to end: data, training runs, answers, win rates against references."""
