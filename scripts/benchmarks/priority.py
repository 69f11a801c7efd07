"""Cost for training of a second of the worker's processor time, by its priority, if training uses all processors.

    python scripts/benchmarks/priority.py [--rounds 8]

Training steps of a small network, with torch's default threads, run alone and beside a process that computes without
pause. The process is stopped and continued in turn, so that a machine that becomes slower disturbs both alike. The last
column is (1 - speed beside it / speed alone) / its share of one processor. Linux with autogroup scheduling only.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import torch
from processes import cpu_s_of
from trainings.network import SmallNetwork

MODES = {
    "normal": "",
    "nice 10, autogroup 10 (the worker)": "autogroup(10); os.nice(10)",
    "nice 19, autogroup 19": "autogroup(19); os.nice(19)",
    "SCHED_IDLE, autogroup 10": "autogroup(10); os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
    "SCHED_IDLE, autogroup 19": "autogroup(19); os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
}
"""How the process sets its priority, in a session of its own like that of the worker."""
_BUSY = """
import os
from pathlib import Path
def autogroup(niceness):
    Path("/proc/self/autogroup").write_text(str(niceness))
{}
while True: sum(range(1000))
"""
_ALONE_S, _BESIDE_S = 0.8, 1.0


@dataclass
class Sums:
    """Steps and seconds of training alone and beside the process, and the processor time of the process."""

    steps_alone: int = 0
    alone_s: float = 0.0
    steps_beside: int = 0
    beside_s: float = 0.0
    used_s: float = 0.0

    def row(self) -> str:
        """Return the columns: speed alone, relative speed beside the process, its share, cost of its second."""
        alone = self.steps_alone / self.alone_s
        relative, share = self.steps_beside / self.beside_s / alone, self.used_s / self.beside_s
        return f"{alone:.1f} | {relative:.2f} | {share:.2f} | {(1 - relative) / share:.2f}"


class Training:
    """Steps of the small network of `whole_run.py`."""

    def __init__(self) -> None:
        self.network = SmallNetwork()
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.patches = torch.randn(24, 1, 64, 64)

    def run(self, seconds: float) -> tuple[int, float]:
        """Train for a time; returns the number of steps and the seconds that they took."""
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            self.optimizer.zero_grad()
            amp, phase = self.network(self.patches)
            torch.fft.fft2(torch.complex(amp, phase)).abs().square().mean().backward()
            self.optimizer.step()
            steps += 1
        return steps, time.perf_counter() - began


def measure(rounds: int) -> dict[str, Sums]:
    """Alternate training alone and beside each process."""
    sums, training = {mode: Sums() for mode in MODES}, Training()
    training.run(2.0)
    programs = [
        subprocess.Popen([sys.executable, "-c", _BUSY.format(code)], start_new_session=True) for code in MODES.values()
    ]
    try:
        time.sleep(1.0)  # each has set its priority
        for program in programs:
            program.send_signal(signal.SIGSTOP)
        for _ in range(rounds):
            for one, program in zip(sums.values(), programs, strict=True):
                steps, took_s = training.run(_ALONE_S)
                one.steps_alone, one.alone_s = one.steps_alone + steps, one.alone_s + took_s
                before_s = cpu_s_of(program.pid)
                program.send_signal(signal.SIGCONT)
                steps, took_s = training.run(_BESIDE_S)
                program.send_signal(signal.SIGSTOP)
                one.steps_beside, one.beside_s = one.steps_beside + steps, one.beside_s + took_s
                one.used_s += cpu_s_of(program.pid) - before_s
    finally:
        for program in programs:
            program.kill()
            program.wait()
    return sums


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="slices per priority (default: %(default)s)")
    sums = measure(parser.parse_args().rounds)
    print(f"{os.cpu_count()} processors, {torch.get_num_threads()} threads of torch\n")
    print("| priority | steps/s alone | speed beside it / alone | share | training s per processor s |")
    print("|---|---|---|---|---|")
    for mode, one in sums.items():
        print(f"| {mode} | {one.row()} |")


if __name__ == "__main__":
    main()
