"""Exact resume and many processes on a GPU.

    PYTHONPATH=src:tests python tests/gpu/faults_on_gpu.py [--json PATH]

Five random stops of a 30-step run with deterministic algorithms, in fp32, bf16 and fp16: the resumed run against the
whole one, by every bit of the final state. Signals to a run on the GPU. Two processes: NCCL where there are two GPUs,
else gloo with both on one GPU; against one process, and with memory that really runs out in one of them. One call does
all of it in about five minutes; the table comes last. Without a GPU everything runs on the CPU. The exit code is 1 if a
row is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from spanwright import Extractor, train
from spanwright.train_config import LoopOptions, OptimizerOptions, TrainConfig, ValidationOptions
from spanwright.training import run as run_module
from spanwright.training.state import load_state, newest_state, states_in
from support.data import sentences
from support.runs import STEPS, as_killed_after, differences, everything
from support.tiny import tiny_extractor

MODEL = "SPANWRIGHT_GPU_MODEL"  # the folder of the model that all processes begin with
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAST = f"state-{STEPS:06}"
RATES = OptimizerOptions(backbone_lr=2e-3, lr=5e-3, warmup=0.2)
Result = tuple[bool, str]


def model_folder() -> Path:
    """A small model, made once: its tokenizer is trained, and would be another in another process."""
    if MODEL not in os.environ:
        os.environ[MODEL] = tempfile.mkdtemp()
        tiny_extractor(dropout=0.3, num_rnn_layers=2, rnn_dropout=0.2).save(Path(os.environ[MODEL]) / "model")
    return Path(os.environ[MODEL]) / "model"


def life(output: Path, seed: int, *, resume: bool, dropout: float = 0.3, **training: object) -> None:
    """One life of a run with two LSTM layers, dropout between them, and evaluations.

    `seed` spoils the weights that it begins with: nothing of them may show in the end of a resumed run.
    """
    extractor = Extractor.from_pretrained(model_folder(), device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for parameter in extractor.model.parameters() if seed else ():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    for module in extractor.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = min(module.p, dropout)
    options = LoopOptions(**{"max_steps": STEPS, "batch_size": 3, "save_every": 1, "keep_states": STEPS, **training})
    config = TrainConfig(training=options, optimizer=RATES, validation=ValidationOptions(every=7, threshold=0.3))
    with mock.patch.object(run_module, "draw_curve"):
        train(extractor, sentences(), sentences(), output=output, config=config, device=DEVICE, resume=resume)


def exact_resume(precision: str, accumulate: int) -> Result:
    """Five random stops: each resumed run ends with the state of the whole one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            right, told = _exact_resume(precision, accumulate)
        finally:
            torch.use_deterministic_algorithms(False)
    undetermined = {str(w.message).split(" does not have")[0] for w in caught if "deterministic" in str(w.message)}
    return right, told + (f"; not deterministic: {', '.join(sorted(undetermined))}" if undetermined else "")


def _exact_resume(precision: str, accumulate: int) -> Result:
    options = {"precision": precision, "accumulate": accumulate}
    rng = random.Random(precision)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        life(whole, 0, resume=False, **options)
        life(Path(folder) / "twice", 0, resume=False, **options)
        repeats = not differences(everything(whole / LAST), everything(Path(folder) / "twice" / LAST))
        wrong = []
        stops = sorted(rng.sample(range(1, STEPS), 5))
        for step in stops:
            resumed = as_killed_after(whole, step, Path(folder) / str(step))
            life(resumed, step, resume=True, **options)
            wrong += differences(everything(whole / LAST), everything(resumed / LAST))[:1]
        scaler = load_state(whole / LAST).scaler
    told = f"stops {', '.join(map(str, stops))}: {5 - len(wrong)} of 5 equal bit for bit"
    told += f"; a second run repeats: {repeats}" + (f"; loss scale {scaler['scale']:g}" if scaler else "")
    return not wrong and repeats, told + (f"; first difference {wrong[0][:60]}" if wrong else "")


def child(call: str, *arguments: object, **env: str) -> subprocess.Popen[str]:
    """A process that calls a function of this file."""
    model_folder()
    command = [sys.executable, __file__, "--call", call, *map(str, arguments)]
    return subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def signalled() -> Result:
    """SIGTERM in the middle of steps: 143, a state, and the end of the run that was never stopped."""
    with tempfile.TemporaryDirectory() as folder:
        whole, stopped = Path(folder) / "whole", Path(folder) / "stopped"
        torch.use_deterministic_algorithms(True, warn_only=True)
        life(whole, 0, resume=False)
        codes = []
        for number in (5, 12, 10):
            one = child("life", stopped, SPANWRIGHT_FAULTS=f"step.forward:term@{number}")
            one.communicate(timeout=200)
            codes.append(one.returncode)
        step = int(newest_state(stopped, print).name[6:12])
        life(stopped, 9, resume=True)
        exact = not differences(everything(whole / LAST), everything(stopped / LAST))
    return codes == [143] * 3 and exact, f"exit codes {codes}, last stop after step {step}, resumed exactly: {exact}"


def killed_while_saving(kills: int = 12) -> Result:
    """Kill -9 at random moments of a run that saves each step: the newest state is whole each time."""
    rng = random.Random(4)
    unreadable = saved = 0
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        for _ in range(kills):
            before = len(list(output.glob("state-*")))
            one = child("life", output, "1000000")
            until = time.monotonic() + 120
            while len(list(output.glob("state-*"))) <= before and one.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.5))
            one.send_signal(signal.SIGKILL)
            one.communicate()
            unreadable += newest_state(output, print) != states_in(output)[0]
            saved = int(states_in(output)[0].name[6:12])
            for state in states_in(output)[3:]:
                shutil.rmtree(state)
    return unreadable == 0, f"{kills} kills, {unreadable} unreadable newest, {saved} steps saved in all"


def two(call: str, *arguments: object, **env: str) -> list[tuple[int, str]]:
    """Two processes of one world, by torchrun's variables; (exit code, output) of each."""
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **env}
    if DEVICE == "cpu":
        shared["ACCELERATE_USE_CPU"] = "true"
    ranks = [child(call, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in (0, 1)]
    outputs = [rank.communicate(timeout=280)[0] for rank in ranks]
    return [(rank.returncode, output) for rank, output in zip(ranks, outputs, strict=True)]


def backend() -> str:
    """What two processes talk over here. One GPU cannot serve two NCCL ranks, so they share it over gloo."""
    return "nccl" if torch.cuda.device_count() > 1 else "gloo"


def two_equal_one() -> Result:
    """30 steps of the same global batch."""
    with tempfile.TemporaryDirectory() as folder:
        both, alone = Path(folder) / "both", Path(folder) / "alone"
        started = time.perf_counter()
        ranks = two("pair", both, "1")
        seconds = time.perf_counter() - started
        one = child("pair", alone, "2")
        output = one.communicate(timeout=280)[0]
        if any(code for code, _ in ranks) or one.returncode:
            return False, (ranks[0][1] + ranks[1][1] + output)[-300:]
        states = [load_state(run / LAST) for run in (both, alone)]
        largest = max(
            float((states[0].model[name].float() - value.float()).abs().max())
            for name, value in states[1].model.items()
        )
        reports = [
            [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"f1"' in line]
            for run in (both, alone)
        ]
        same = [json.loads(a)["f1"] for a in reports[0]] == [json.loads(b)["f1"] for b in reports[1]]
    bound = 1e-6 if DEVICE == "cpu" else 1e-4  # Adam magnifies the rounding of GPU sums; by how much, the table says
    return largest <= bound and same, f"{backend()}, {seconds:.0f} s: weights within {largest:.1e}, same F1s: {same}"


def memory_runs_out() -> Result:
    """Out of memory on rank 1 alone, in a forward and in a backward: both end, with its reason and rank."""
    told = []
    right = True
    for point in ("step.forward", "step.backward"):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            ranks = two("pair", Path(folder) / "run", "1", SPANWRIGHT_FAULTS=f"{point}:memory@4/1")
            named = all(re.search(r"[Rr]ank 1: .*memory must hold", output) for _, output in ranks)
            kept = newest_state(Path(folder) / "run", print)
            right &= named and all(code == 70 for code, _ in ranks) and kept is not None and kept.name == "state-000003"
            told.append(
                f"{point}: codes {[code for code, _ in ranks]}, named {named}, {time.perf_counter() - started:.0f} s"
            )
    return right, "; ".join(told)


def a_rank_stops() -> Result:
    """Rank 1 stops answering (SIGSTOP): the job ends within the timeout and names it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ranks = two("pair", Path(folder) / "run", "1", SPANWRIGHT_FAULTS="step.forward:stop@4/1")
        seconds = time.perf_counter() - started
    named = bool(re.search(r"but rank 1 \(process \d+", ranks[0][1]))
    return named and ranks[0][0] == 70 and ranks[1][
        0
    ] == -9, f"named: {named}, codes {[c for c, _ in ranks]}, {seconds:.0f} s"


def call(name: str, arguments: list[str]) -> None:
    """The part that children run."""
    from spanwright.errors import SpanwrightError

    torch.use_deterministic_algorithms(True, warn_only=True)
    if os.environ.get("WORLD_SIZE") == "2" and DEVICE == "cuda" and backend() == "gloo":
        torch.distributed.init_process_group("gloo")  # before accelerate would choose NCCL
    options: dict[str, object] = {"rank_timeout": 10.0}
    try:
        if name == "life":
            steps = {"max_steps": int(arguments[1]), "keep_states": 4} if len(arguments) > 1 else {}
            life(Path(arguments[0]), 0, resume=True, **options, **steps)
        else:
            options |= {"accumulate": int(arguments[1])}
            life(Path(arguments[0]), 0, resume=False, dropout=0.0, **options)
    except SpanwrightError as error:
        print(f"spanwright: {error}")
        sys.exit(error.exit_code)


def rows():
    for precision, accumulate in (("fp32", 1), ("fp32", 3), ("bf16", 1), ("fp16", 1)):
        if precision == "fp16" and DEVICE == "cpu":
            continue
        name = f"exact resume, {precision}, accumulation {accumulate}"
        yield name, lambda p=precision, a=accumulate: exact_resume(p, a)
    yield "SIGTERM three times", signalled
    yield "kill -9 while saving", killed_while_saving
    yield "two processes against one", two_equal_one
    yield "memory runs out on one rank", memory_runs_out
    yield "a rank stops", a_rank_stops


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--call", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.call:
        call(options.call[0], options.call[1:])
        return 0
    found = []
    for name, check in rows():
        started = time.perf_counter()
        try:
            right, told = check()
        except Exception as error:
            right, told = False, f"{type(error).__name__}: {error}"
        found.append({"check": name, "right": right, "told": told, "seconds": round(time.perf_counter() - started, 1)})
        print(f"... {name}: {'as it must be' if right else 'WRONG'}", flush=True)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    print(f"\ntorch {torch.__version__}, {torch.cuda.device_count()} x {device}\n")
    print("| check | result | s | |\n|---|---|---|---|")
    for row in found:
        told = row["told"].replace("\n", " ")
        print(f"| {row['check']} | {told} | {row['seconds']} | {'as it must be' if row['right'] else 'WRONG'} |")
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "device": device, "rows": found}, indent=2))
    return 0 if all(row["right"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
