"""Child processes that are ready at once: a process that has imported everything forks one for each call.

Run as a script it is that process: it reads a line of JSON for each command and answers with one.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


@dataclass
class Child:
    """A running call. `log` holds what it wrote to standard output and error."""

    nursery: Nursery
    pid: int
    log: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code; minus the signal's number where one ended it.

        Raises:
            TimeoutError: it goes on for longer than `timeout` seconds; it is killed then.

        """
        status = self.nursery.ask({"wait": self.pid, "timeout": timeout})["status"]
        if status is None:
            self.kill()
            self.nursery.ask({"wait": self.pid, "timeout": 10})
            raise TimeoutError(f"process {self.pid} went on for {timeout} s:\n{self.told}")
        return status

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return self.nursery.ask({"wait": self.pid, "timeout": 0})["status"] is None

    @property
    def told(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


class Nursery:
    """Starts children. Use it as a context manager: none outlives it."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._pids: list[int] = []

    def __enter__(self) -> Nursery:
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment |= {"TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-W", "ignore", __file__, *self._modules]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            if self.ask({"wait": pid, "timeout": 0})["status"] is None:
                os.kill(pid, signal.SIGKILL)
                self.ask({"wait": pid, "timeout": 10})
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def start(self, call: str, *arguments: Any, log: Path, **env: str) -> Child:
        """Call ``module:function`` with `arguments` (as JSON takes them) in a child with `env` added."""
        pid = self.ask({"call": call, "arguments": arguments, "log": str(log), "env": env})["pid"]
        self._pids.append(pid)
        return Child(self, pid, log)

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command and its answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _serve() -> None:
    import torch

    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    from support.tiny import tiny_tokenizer

    tiny_tokenizer()  # trained once, for all children: training it again gives another vocabulary
    ended: dict[int, int] = {}
    for line in sys.stdin:
        command = json.loads(line)
        answer = {"pid": _fork(command)} if "call" in command else {"status": _wait(command, ended)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _wait(command: dict[str, Any], ended: dict[int, int]) -> int | None:
    pid, until = command["wait"], time.monotonic() + command["timeout"]
    while pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() >= until:
            return None
        else:
            time.sleep(0.005)
    return ended[pid]


def _fork(command: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(command["env"])
        from spanwright import faults

        faults._planted.update(faults._read(command["env"].get("SPANWRIGHT_FAULTS", "")))
        module, _, function = command["call"].partition(":")
        getattr(importlib.import_module(module), function)(*command["arguments"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        code = 130  # as shells say it
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one finds nothing left to stop
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
