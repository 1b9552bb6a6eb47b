"""Draw with the fused file of code/train_second_stage.sh: python infer.py [flags of `b4m generate`]."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))

from b4m.apps.cli import main  # noqa: E402  (the line above makes a fresh clone importable)

FUSED = ROOT / "outputs/second_stage/pytorch_lora_weights.safetensors"

if __name__ == "__main__":
    given = sys.argv[1:]
    names = {argument.partition("=")[0] for argument in given}
    if not names & {"--lora-file", "--content-file", "--style-file", "--config"}:
        given += ["--lora-file", str(FUSED)]
    if not names & {"--prompts", "--config"}:
        given += ["--prompts", "a snq car in w@z chalk style"]
    if not names & {"--base-model", "--preset", "--config"}:
        given += ["--base-model", str(ROOT / "examples/world/base"), "--preset", "embedded"]
    sys.exit(main(["generate", *given]))
