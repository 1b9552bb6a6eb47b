"""What no method can pass on the drawn world: the truth is right, a blank is not, markings are asked of wearers."""

import torch
from world import ceiling
from world.contents import marking_kinds
from world.contents.markings import KINDS


def test_the_truth_is_right_and_a_blank_picture_is_not():
    scenes = {pair: some for pair, some in ceiling.members("tuning", 1).items() if pair[0] in ("car", "fish")}
    truth = ceiling.right(scenes, lambda pictures: pictures)
    assert truth["pictures"] == len(scenes) and truth["both"] == truth["car"] == 1
    blank = ceiling.right(scenes, torch.zeros_like)
    assert blank["both"] == 0 and blank["content"] < 1


def test_every_pose_of_a_pair_is_another_picture_of_the_same_members():
    scenes = ceiling.members("confirmation", 2)
    assert len(scenes) == 36
    for (content, _), (one, other) in scenes.items():
        assert one != other and one.content == other.content and one.style == other.style
        assert one.content.kind == content


def test_markings_are_asked_of_things_that_can_wear_them():
    for kind in KINDS:
        for scene in ceiling.marked(kind, 3):
            assert scene.content.marking.kind == kind and kind in marking_kinds(scene.content.kind)
            assert scene.style.family == "photo"
