"""One thin file per command, registered by import string in `main`: help starts without torch."""
