"""The worlds' studies: plans fixed before running, their runner, and the page that says what held."""
