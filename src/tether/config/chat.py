"""Every knob of `tether chat`: those of `tether generate` about who answers and how, and a few of its own."""

from typing import Self

from pydantic import model_validator

from tether.config.generate import ModelOptions, speaker_of
from tether.config.train import knob

CHAT_GROUPS = ["Session", "Sampling", "Dial", "Server", "Speed"]
CHAT_ALIASES = {"max_tokens": "max_new_tokens"}


class ChatOptions(ModelOptions):
    """What `tether chat` can be told."""

    beside: str | None = knob(
        "Session", "Second model (folder, adapter, hub name or URL#MODEL), shown beside the first.", None
    )
    system: str | None = knob("Session", "System message the conversation begins with.", None)
    save_to: str = knob("Session", "JSONL file that /save adds preference rows to.", "preferences.jsonl")


class ChatConfig(ChatOptions):
    """One `tether chat`."""

    model: str | None = knob("Session", "Model or adapter (folder or hub name), or the server's model.", None)

    @model_validator(mode="after")
    def _someone_answers(self) -> Self:
        speaker_of(self.model, self.server)
        return self

    @property
    def beside_server(self) -> bool:
        """Whether the second model is on a server."""
        return self.beside is not None and self.beside.startswith(("http://", "https://"))
