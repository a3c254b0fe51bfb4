"""Two processes that train together on the CPU: started once, then given one job after the other."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(rank: int, count: int, pipe: Connection) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    import torch

    torch.set_num_threads(1)
    while True:
        message = pipe.recv()
        if message is None:
            return
        job, arguments, port = message
        os.environ["MASTER_PORT"] = str(port)
        try:
            pipe.send((True, job(**arguments)))
        except BaseException as error:
            pipe.send((False, (type(error).__name__, str(error), traceback.format_exc())))


class Together:
    """Some processes, each of which runs the same job; `run` returns their answers by rank."""

    def __init__(self, count: int = 2) -> None:
        context = multiprocessing.get_context("spawn")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.pipes: list[Any] = []
        self.processes: list[Any] = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, count, theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def outcomes(self, job: Callable[..., Any], **arguments: Any) -> list[tuple[bool, Any]]:
        port = free_port()
        for pipe in self.pipes:
            pipe.send((job, arguments, port))
        return [self._answer(pipe) for pipe in self.pipes]

    @staticmethod
    def _answer(pipe: Any) -> tuple[bool, Any]:
        try:
            return pipe.recv() if pipe.poll(120) else (False, ("Silence", "", ""))
        except EOFError:
            return False, ("Silence", "ended", "")

    def run(self, job: Callable[..., Any], **arguments: Any) -> list[Any]:
        answers = self.outcomes(job, **arguments)
        for fine, answer in answers:
            assert fine, "\n".join(answer)
        return [answer for _, answer in answers]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
