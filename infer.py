"""Draw with the fused file of code/train_second_stage.sh: python infer.py [flags of `b4m generate`].

Relative paths start where you stand, as in the scripts.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from b4m.apps.cli import main  # noqa: E402  (the line above makes a fresh clone importable)

FUSED = "outputs/second_stage/pytorch_lora_weights.safetensors"

if __name__ == "__main__":
    given = sys.argv[1:]
    names = {argument.partition("=")[0] for argument in given}
    if not names & {"--lora-file", "--content-file", "--style-file", "--config"}:
        given += ["--lora-file", FUSED]
    if not names & {"--prompts", "--config"}:
        given += ["--prompts", "a snq car in w@z chalk style"]
    sys.exit(main(["generate", *given]))
