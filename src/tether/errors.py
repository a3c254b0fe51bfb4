"""Every error a user can meet, drawn as one tree.

    TetherError                     exit 1   our bug, or not classified
    +-- UsageError (ValueError)     exit 2   the command line or a config key is wrong
    +-- RefusedInput (ValueError)   exit 3   the input is not what it claims to be
    |   +-- DataError                        a row, a file, a format
    |   +-- ModelError                       weights, tokenizer, template, adapter
    |   +-- ReferenceMismatch                the reference is not the one named
    |   +-- CheckpointError                  a checkpoint is damaged or belongs to another run
    |   +-- RunFolderError                   the output folder is in use or holds something else
    +-- ResourceError (RuntimeError) exit 4  memory, disk
    +-- NotBetter                   exit 5   an evaluation gate was not passed
    +-- GuardStop (RuntimeError)    exit 6   NaN, divergence, reference check at step 0
    +-- Interrupted                 exit 130/143   stopped by a signal, state saved
    +-- SaidElsewhere               as there  another process of this run failed and has said why

A message is one line that names the file, row and field, the value, the limit and the next thing to do.
"""


class TetherError(Exception):
    """Base of every error tether raises on purpose; `exit_code` is the process status it ends with."""

    exit_code = 1


class UsageError(TetherError, ValueError):
    """The command line or a config key is wrong: unknown key, value out of range, impossible combination."""

    exit_code = 2


class RefusedInput(TetherError, ValueError):
    """An input was read and refused; nothing was changed."""

    exit_code = 3


class DataError(RefusedInput):
    """A data file, row or field cannot be used as it is."""


class ModelError(RefusedInput):
    """A model folder, tokenizer, chat template or adapter cannot be used as it is."""


class ReferenceMismatch(RefusedInput):
    """The reference is not the one that was named, or it cannot answer for these rows."""


class CheckpointError(RefusedInput):
    """A checkpoint is damaged, incomplete, or belongs to another run."""


class RunFolderError(RefusedInput):
    """The output folder holds another run, or another process is using it."""


class ResourceError(TetherError, RuntimeError):
    """Memory or disk ran out; the message says what was needed and what to change."""

    exit_code = 4


class NotBetter(TetherError):
    """An evaluation gate (`--require`) was not passed."""

    exit_code = 5


class GuardStop(TetherError, RuntimeError):
    """A guard stopped the run before it could spoil something: NaN or inf, divergence, step-0 check."""

    exit_code = 6


class Interrupted(TetherError):
    """A signal stopped the run after its state was saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class SaidElsewhere(TetherError):
    """Another process of this run failed and has said why; this one ends silently with the same status."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run has said why it ended")
        self.exit_code = exit_code
