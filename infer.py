"""Draw with the fused file of code/train_second_stage.sh: python infer.py [flags of `b4m generate`].

Relative paths start where you stand, as in the scripts.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from b4m.apps.cli import main  # noqa: E402  (the line above makes a fresh clone importable)

FUSED = "outputs/second_stage/pytorch_lora_weights.safetensors"


def completed(given: list[str]) -> list[str]:
    """The flags, with a file and a prompt where none are given."""
    names = {argument.partition("=")[0].replace("_", "-") for argument in given}
    if not names & {"--lora-file", "--content-file", "--style-file", "--config"}:
        given = [*given, "--lora-file", FUSED]
    if not names & {"--prompts", "--config"}:
        given = [*given, "--prompts", "a snq car in w@z watercolour style"]
    return given


if __name__ == "__main__":
    sys.exit(main(["generate", *completed(sys.argv[1:])]))
