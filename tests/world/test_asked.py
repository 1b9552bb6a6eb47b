"""Which accessory a prompt asks for, and how often a row shows it (`examples/world/asked.py`)."""

import pytest
from world.asked import accessory, shares

PAIRS = [("cat", "oil"), ("cat", "neon"), ("cup", "oil"), ("cup", "neon")]


def test_what_a_prompt_asks_to_be_worn():
    assert accessory("a cat wearing a crown on grass in oil style") == "crown"
    assert accessory("a crown on a cat in oil style") is None


def test_shares_are_of_each_row_and_differences_from_the_first():
    asked = [(row, pair, "crown") for row in ("ours", "theirs") for pair in PAIRS]
    seen = ["crown", "crown", "crown", "hat", "crown", "none", "none", "none"]
    found = shares(asked, {"one": seen})["one"]
    assert (found["ours"]["share"]["mean"], found["theirs"]["share"]["mean"]) == (0.75, 0.25)
    assert found["ours"]["more"] == {"mean": 0, "low": 0, "high": 0}
    more = found["theirs"]["more"]
    assert more["mean"] == pytest.approx(-0.5) and more["low"] < -0.5 < more["high"] <= 0
