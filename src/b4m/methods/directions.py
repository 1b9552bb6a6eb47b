"""What a content reads of its layers' inputs: the directions in which they vary most while the base model draws."""

from tqdm import tqdm

from ..backbones.protocol import Backbone
from ..maths.adapter import Adapter
from .class_images import AT_ONCE, draw

# Plain words for things of all kinds: what is measured is the base model's own, and all contents of one base read the
# same. (Measured on a concept's own images, they bind it to those: docs/tuning.md.)
THINGS = "dog cat bird fish house tree car boat flower cake guitar lamp robot bear train umbrella".split()
COLOURS = "red blue green yellow white black orange purple".split()
PLACES = (
    "on grass",
    "in the snow",
    "on a table",
    "at night",
    "on a beach",
    "in a room",
    "on a white background",
    "in the sky",
)
MANNERS = ("", "cartoon", "sketch", "watercolour", "oil", "yarn", "clay", "pixel")  # "": a photo
STEPS = 12


def prompts() -> list[str]:
    """Two of each thing, colours, places and manners taking turns."""
    found = []
    for i, thing in enumerate(THINGS):
        for j in range(2):
            manner = MANNERS[(3 * i + 5 * j) % len(MANNERS)]
            words = f"a {COLOURS[(7 * i + j) % len(COLOURS)]} {thing} {PLACES[(5 * i + 3 * j) % len(PLACES)]}"
            found.append(f"{words} in {manner} style" if manner else words)
    return found


def measure(adapter: Adapter, backbone: Backbone, size: int) -> None:
    """Let C of every layer read the principal directions of what it sees while the base model draws `prompts`.

    adapter: as installed, so that it changes nothing yet. Meanwhile the whole model is on the GPU if there is one, as
    where prior images are drawn; afterwards on the CPU, where it starts from.
    """
    asked = prompts()
    with adapter.measuring():
        batches = draw(backbone, asked, range(len(asked)), size, STEPS, guidance=1.0)
        for _ in tqdm(batches, total=-(-len(asked) // AT_ONCE), desc="directions", leave=False):
            pass
    backbone.to("cpu")
