"""`tether chat`: talk to a model, or to two side by side, and keep the better answer as a preference row."""

import contextlib
import importlib
import json as text_json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tether.cli.options import with_options
from tether.cli.output import print_json
from tether.cli.screen import Screen
from tether.config.chat import CHAT_ALIASES, CHAT_GROUPS, ChatConfig, ChatOptions
from tether.config.generate import SamplingOptions, speaker_of
from tether.config.parse import build
from tether.errors import DataError, ResourceError, TetherError, UsageError

if TYPE_CHECKING:
    from tether.generation.conversation import Spoken, Turn
    from tether.generation.voices import Saying, Voice

HELP = """\
TEXT                 ask; // at its beginning asks what begins with one /
/again               another answer to the same question
/pick N              go on from answer N of the last turn (else from the first)
/save N [over M]     save answer N as better than the other (or than answer M);
                     the talk goes on from it
/undo                take the last turn back
/reset               begin anew
/system [TEXT]       set the system message and begin anew; no TEXT: none
/temperature 0.7     likewise /top_p /top_k /min_p /max_new_tokens /seed /stop
                     /dial; without a value the present one is shown
/help /quit          Ctrl-C stops an answer, Ctrl-D ends"""


@with_options(ChatOptions, CHAT_GROUPS, CHAT_ALIASES)
def chat(
    model: Annotated[
        str | None, Parameter(help="Model or adapter: folder, owner/name of the hub, or a name on --server.")
    ] = None,
    /,
    *,
    json: Annotated[
        bool, Parameter(help="Print the whole conversation as JSON at its end.", negative="")
    ] = False,
    quiet: Annotated[bool, Parameter(help="No notes beside the answers.", negative="")] = False,
    **options: Any,
) -> int:
    """Talk to a model, or to two side by side; lines from a pipe are turns, answered in plain text."""
    named = {} if model is None else {"model": model}
    config = build(ChatConfig, named | options, aliases=CHAT_ALIASES, source="tether chat")
    screen = Screen(quiet=json, notes=not quiet)
    session = Session(config, screen)
    if screen.live:
        for number, voice in enumerate(session.voices, start=1):
            screen.note(f"{number} {voice.name}")
        screen.note("/help tells the commands; Ctrl-C stops an answer, Ctrl-D ends.")
    for line in _lines(screen):
        try:
            if not session.take(line):
                break
        except TetherError as error:
            # From a pipe nobody reads a note and thinks again.
            if not screen.live:
                raise
            screen.note(str(error))
    if json:
        print_json(session.record())
    return 0


def _lines(screen: Screen) -> Iterator[str]:
    if not screen.live:
        try:
            yield from (line.rstrip("\r\n") for line in sys.stdin)
        except UnicodeDecodeError as error:
            raise DataError(f"standard input: not UTF-8 ({error.reason}); give text as UTF-8") from error
        return
    # Once imported it lets input() edit lines and remember them; not every Python has it.
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")
    while True:
        try:
            yield input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            screen.note("\n(Ctrl-D or /quit ends)")


class Session:
    """The voices, how they sample, and the conversation; each line is a question or a command."""

    def __init__(self, config: ChatConfig, screen: Screen) -> None:
        """Load the models: everything heavy is imported here."""
        from tether.generation.conversation import Conversation
        from tether.generation.engines import sampling_of

        self.sampling = sampling_of(config)
        self.voices = _voices(config)
        kinds = {voice.chat for voice in self.voices}
        if len(kinds) > 1:
            without = next(voice.name for voice in self.voices if not voice.chat)
            raise UsageError(
                f"{without}: has no chat template and the other model has; compare like with like"
            )
        self.talk = Conversation(chat=kinds.pop(), system=config.system)
        self.save_to = Path(config.save_to)
        self.saved = 0
        self._screen = screen
        if not self.talk.chat:
            screen.note("no chat template: your text is continued, not answered")

    def take(self, line: str) -> bool:
        """Take one line; return whether the session goes on."""
        if not line.strip():
            return True
        if line.startswith("//"):
            line = line[1:]
        elif line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            return self._command(name.strip(), rest.strip())
        self.talk.ask(line)
        try:
            self._answer()
        except TetherError:
            self.talk.undo()
            raise
        return True

    def record(self) -> dict[str, Any]:
        """Return the conversation as data."""
        turns = [
            {
                "asked": turn.asked,
                "answers": [asdict(answer) for answer in turn.answers],
                "picked": turn.picked + 1 if turn.answers else None,
            }
            for turn in self.talk.turns
        ]
        return {
            "models": [voice.name for voice in self.voices],
            "system": self.talk.system,
            "sampling": asdict(self.sampling),
            "turns": turns,
            "saved": self.saved,
        }

    def _answer(self) -> None:
        turn, prompt = self.talk.turns[-1], self.talk.prompt()
        sample = len(turn.answers) // len(self.voices)
        numbers = range(len(turn.answers) + 1, len(turn.answers) + 1 + len(self.voices))
        kept = [_Kept(voice, voice.answer(prompt, self.sampling, sample)) for voice in self.voices]
        names = [voice.name for voice in self.voices]
        try:
            self._screen.answers(numbers, names, [one.pieces() for one in kept])
        except KeyboardInterrupt:
            if not self._screen.live:
                raise
            self._screen.note("(stopped)")
        turn.answers += [one.spoken() for one in kept]
        self._tell_cuts(turn, numbers)

    def _tell_cuts(self, turn: "Turn", numbers: range) -> None:
        cut = [number for number in numbers if not turn.answers[number - 1].ended]
        if cut and self._screen.live:
            which = " and ".join(map(str, cut))
            self._screen.note(f"(answers {which} were cut)" if len(cut) > 1 else f"(answer {which} was cut)")

    def _command(self, name: str, rest: str) -> bool:
        if name in ("quit", "exit", "q"):
            return False
        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: self._screen.note(HELP),
            "again": self._again,
            "pick": lambda text: self.talk.pick(_whole(text, "/pick N")),
            "save": self._save,
            "undo": lambda _: self._screen.note(f"taken back: {self.talk.undo()}"),
            "reset": lambda _: self.talk.reset(),
            "system": self._system,
            "dial": self._dial,
        }
        knob = CHAT_ALIASES.get(name.replace("-", "_"), name.replace("-", "_"))
        if name in commands:
            commands[name](rest)
        elif knob in SamplingOptions.model_fields:
            self._set(knob, rest)
        else:
            raise UsageError(f"/{name}: no such command; /help tells them")
        return True

    def _again(self, _: str) -> None:
        if not self.talk.turns:
            raise UsageError("/again: nothing was asked yet")
        self._answer()

    def _system(self, text: str) -> None:
        self.talk.reset()
        self.talk.system = text or None

    def _dial(self, text: str) -> None:
        voice: Any = self.voices[0]
        if text:
            if not hasattr(voice, "turn"):
                raise UsageError("/dial: needs models that are run here")
            voice.turn(_number(text, "/dial"))
        self._screen.note(f"dial {getattr(voice, 'dial', None)}")

    def _set(self, name: str, text: str) -> None:
        if text:
            value: Any = (text,) if name == "stop" else _number(text, f"/{name}")
            if isinstance(getattr(self.sampling, name), int):
                value = _whole(text, f"/{name} N")
            self.sampling = replace(self.sampling, **{name: value})
        self._screen.note(f"{name} {getattr(self.sampling, name)}")

    def _save(self, text: str) -> None:
        words = text.replace(" over ", " ").split()
        if not 1 <= len(words) <= 2:
            raise UsageError("/save N, or /save N over M")
        numbers = [_whole(word, "/save N over M") for word in words]
        row = self.talk.preference(*numbers)
        try:
            with self.save_to.open("a", encoding="utf-8", errors="surrogatepass") as stream:
                stream.write(text_json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ResourceError(f"{self.save_to}: not writable: {error.strerror}") from error
        self.saved += 1
        self.talk.pick(numbers[0])
        self._screen.note(f"saved to {self.save_to}")


class _Kept:
    """An answer being written: what was said so far stays when it is stopped."""

    def __init__(self, voice: "Voice", saying: "Saying") -> None:
        self._voice, self._saying = voice, saying
        self._said = ""
        self._whole: Spoken | None = None

    def pieces(self) -> Any:
        """Yield the text as it is written."""
        while True:
            try:
                piece = next(self._saying)
            except StopIteration as end:
                self._whole = end.value
                return
            self._said += piece
            yield piece

    def spoken(self) -> "Spoken":
        """Return the answer, cut where it was stopped."""
        from tether.generation.conversation import Spoken

        return self._whole or Spoken(self._voice.name, self._said, False)


def _voices(config: ChatConfig) -> "list[Voice]":
    from tether.generation.sample import hosted_model
    from tether.generation.speaker import machine, open_reference, open_speaker
    from tether.generation.voices import LocalVoice, ServerVoice

    where = machine(config.device, config.dtype, config.attn_implementation)
    url, name = speaker_of(config.model, config.server)
    if url is not None:
        voices: list[Voice] = [ServerVoice(hosted_model(config, url, name))]
    else:
        speaker = open_speaker(name, where)
        reference = None if config.reference is None else open_reference(config.reference, speaker, where)
        voices = [LocalVoice(speaker, reference=reference, dial=config.dial)]
    if config.beside is not None and config.beside_server:
        try:
            address, other = speaker_of(None, config.beside)
        except ValueError as error:
            raise UsageError(f"beside: {error}") from error
        voices.append(ServerVoice(hosted_model(config, str(address), other)))
    elif config.beside is not None:
        voices.append(LocalVoice(open_speaker(config.beside, where)))
    return voices


def _whole(text: str, form: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{form}: a whole number is needed, got {text!r}")
    return int(text)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name}: a number is needed, got {text!r}") from None
