"""What `benchmarks/gpu.sh` runs: one command after another, each with its time, status and last words in gpu.json."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from b4m.benchmarking.bench import machine

SECONDS = 1200  # for everything
REFERENCES = "examples/references"
CAR = f"--content-dir {REFERENCES}/content/car --content-class car"
WATERCOLOUR = f"--style-dir {REFERENCES}/style/watercolour --style-class watercolour"
FOUR_ROWS = "--target-rows 1 --gradient-accumulation 1 --gradient-checkpointing --checkpoint-every 0"
BASE = "--preset sdxl --base-model {out}/base --mixed-precision bf16 --resolution {pixels}"
STEPS = [  # name, seconds at most, command; the most important first
    ("tests", 300, "pytest -m gpu {tests}"),
    ("step", 240, "b4m bench {bench} --output {out}/step.json"),
    ("step-compiled", 240, "b4m bench {bench} --compile --rivals none --output {out}/step-compiled.json"),
    ("base", 180, "python benchmarks/random_base.py {out}/base --size {size}"),
    (
        "concepts",
        360,
        "b4m bench {bench} --base-model {out}/base --gradient-checkpointing --rivals all --concept-steps {steps} "
        "--output {out}/concepts.json",
    ),
    (
        "memory",
        120,
        f"b4m train-content {BASE} {CAR} --partner-dirs {{styles}} {FOUR_ROWS} --steps {{few}} "
        "--output-dir {out}/content",
    ),
    (
        "int8",
        120,
        f"b4m train-content {BASE} {CAR} --partner-dirs {{styles}} {FOUR_ROWS} --steps {{few}} --quantize int8 "
        "--output-dir {out}/int8",
    ),
    (
        "style",
        120,
        f"b4m train-style {BASE} {WATERCOLOUR} --partner-dirs {{contents}} {FOUR_ROWS} --steps {{few}} "
        "--output-dir {out}/style",
    ),
    (
        "second-stage",
        120,
        f"b4m second-stage {BASE} --content-dir {REFERENCES}/content/car --style-dir {REFERENCES}/style/watercolour "
        "--content-file {out}/content/content.safetensors --style-file {out}/style/style.safetensors "
        "--gradient-checkpointing --checkpoint-every 0 --steps {second} --output-dir {out}/second",
    ),
    (
        "sampling",
        120,
        "b4m generate --preset sdxl --base-model {out}/base --mixed-precision fp16 "
        "--prompts 'a snq car in w@z watercolour style' --content-file {out}/content/content.safetensors "
        "--style-file {out}/style/style.safetensors --seeds 0..3 --size {side} --output-dir {out}/images",
    ),
]
FULL = {
    "tests": "", "bench": "--device cuda", "size": "sdxl", "steps": 250, "few": 30, "second": 60, "pixels": 512,
    "side": 1024,
}  # fmt: skip
DRY = {
    "tests": "--collect-only", "bench": "--device cpu --size small --steps 1 --warm-up 1", "size": "small", "steps": 1,
    "few": 1, "second": 1, "pixels": 64, "side": 64,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        print(
            "gpu.sh: error: torch sees no CUDA device here; --dry tries the commands on a CPU",
            file=sys.stderr,
        )
        return 2
    # What is under way ends with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "gpu.json"
    device = torch.device("cpu" if options.dry else "cuda")
    report = json.loads(path.read_text()) if path.exists() else {"machine": machine(device), "rows": {}}
    values = {**(DRY if options.dry else FULL), **partners(), "out": options.folder}
    began = time.monotonic()
    for name, limit, command in STEPS:
        left = SECONDS - (time.monotonic() - began)
        if report["rows"].get(name, {}).get("status") == 0:
            continue
        print(f"{name}: at most {min(limit, left):.0f} s", flush=True)
        report["rows"][name] = run(command.format(**values), min(limit, left), options.folder / f"{name}.log")
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"  status {report['rows'][name]['status']}, {report['rows'][name]['seconds']} s", flush=True)
    failed = [name for name, row in report["rows"].items() if row["status"] != 0]
    print(f"{path}: {len(report['rows'])} rows" + (f", failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def partners() -> dict[str, str]:
    """Three of either kind: with the target four rows."""
    return {
        kind: " ".join(map(str, sorted(Path(REFERENCES, "partners", kind).glob("*.png"))[:3]))
        for kind in ("styles", "contents")
    }


def run(command: str, seconds: float, log: Path) -> dict:
    """One command with its output in `log`; "cut" for a status where its time was up."""
    words = shlex.split(command)
    modules = {"b4m": ["-m", "b4m"], "pytest": ["-m", "pytest"], "python": []}
    argv = [sys.executable, *modules[words[0]], *words[1:]]
    began = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            status = "cut"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started itself
                process.wait()
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return {
        "command": command,
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "said": said[-1] if said else "",
    }


if __name__ == "__main__":
    raise SystemExit(main())
