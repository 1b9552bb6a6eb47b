"""Training state: whatever happens during a save, the newest whole state is what a resume gets."""

import json
import os
import shutil
import warnings

import pytest
import torch

from b4m.core.errors import UserError
from b4m.training import state as training_state
from b4m.training.state import META, SUMS, TENSORS, load_state, save_state


def state(step):
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "down.0.to_q.B": torch.randn(3, 4, generator=generator),
        "moment": torch.randn(2, 3, generator=generator, dtype=torch.float64).T,
        "rng": generator.get_state(),
        "step": torch.tensor(step),
        "empty": torch.zeros(0, 4),
        "half": torch.randn(5, generator=generator).bfloat16(),
    }
    return tensors, {"order": [step, 2, 3], "loss": 0.1 + step, "done": False, "name": "ö"}


def save(folder, step):
    save_state(folder, step, *state(step))


def check(found, step):
    tensors, meta = state(step)
    assert found[0] == step and found[2] == meta and found[1].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[1][name].dtype == tensor.dtype and torch.equal(found[1][name], tensor), name


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)


def test_nothing_saved_is_none(tmp_path):
    assert load_state(tmp_path) is None and load_state(tmp_path / "nowhere") is None
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "step-000001").write_text("a file")
    assert load_state(tmp_path) is None


def test_round_trip_is_bit_for_bit_and_two_states_are_kept(tmp_path):
    folder = tmp_path / "a b" / "ö"
    for step in (1, 9, 999_999, 1_000_000):
        save(folder, step)
        check(load_state(folder), step)
    assert sorted(os.listdir(folder)) == ["step-1000000", "step-999999"]


def test_what_was_loaded_may_be_written_to_and_outlives_the_files(tmp_path):
    save(tmp_path, 1)
    found = load_state(tmp_path)
    shutil.rmtree(tmp_path / "step-000001")
    check(found, 1)
    found[1]["half"].zero_()


def test_states_of_later_steps_go_when_a_run_starts_anew(tmp_path):
    for step in (100, 200, 50):
        save(tmp_path, step)
    check(load_state(tmp_path), 50)
    assert os.listdir(tmp_path) == ["step-000050"]


@pytest.mark.parametrize("name", [TENSORS, META, SUMS])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_newest_state_is_passed_over_with_a_warning(tmp_path, name, damage):
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "step-000002" / name
    if damage == "flip":
        flip(path, 8 * (path.stat().st_size // 2))
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "cut" else 0])
    with pytest.warns(UserWarning, match="step-000002"):
        check(load_state(tmp_path), 1)


def test_any_flipped_bit_is_noticed(tmp_path):
    save(tmp_path, 1)
    for name in (TENSORS, META, SUMS):
        path = tmp_path / "step-000001" / name
        bits = 8 * path.stat().st_size
        for bit in range(0, bits, bits // 60):
            flip(path, bit)
            with pytest.raises(UserError) as caught, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_state(tmp_path)
            assert str(caught.value).isprintable() and str(tmp_path) in str(caught.value)
            flip(path, bit)
    check(load_state(tmp_path), 1)


class Crash(BaseException):
    """Nothing may catch it: the process is gone."""


class Watch:
    """Lets the disk work until its `limit`-th call, then crashes in front of it, for good."""

    def __init__(self, monkeypatch, limit):
        self.calls, self.limit = 0, limit
        for module, name in (
            (training_state, "save_file"),
            (training_state, "sync"),
            (training_state.shutil, "rmtree"),
            (training_state.Path, "write_text"),
            (training_state.Path, "rename"),
            (training_state.Path, "mkdir"),
        ):
            monkeypatch.setattr(module, name, self.guard(getattr(module, name)))

    def guard(self, function):
        def guarded(*args, **kwargs):
            self.calls += 1
            if self.calls > self.limit:
                raise Crash
            return function(*args, **kwargs)

        return guarded


@pytest.mark.parametrize("before", [(), (1,), (2,), (1, 2), (2, 5)])
def test_a_crash_at_any_point_leaves_a_whole_state(tmp_path, before):
    """Saving step 2, also over a step 2 or below a step 5: the old newest state or the new one remains."""
    for limit in range(100):
        folder = tmp_path / str(limit)
        for step in before:
            save(folder, step)
        with pytest.MonkeyPatch.context() as patch:
            watch = Watch(patch, limit)
            try:
                save(folder, 2)
                finished = True
            except Crash:
                finished = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = load_state(folder)
        if before or finished:
            assert found is not None, limit
            check(found, found[0])
            assert found[0] in (2, max(before, default=2))
        if finished:
            check(found, 2)
            assert watch.calls > 5
            return
        save(folder, 3)  # the next save clears what the crash left behind
        assert all(name.startswith("step-") and not name.endswith(".old") for name in os.listdir(folder))
    raise AssertionError("the save never finished")


def test_the_same_step_is_replaced_without_a_moment_of_nothing(tmp_path):
    save(tmp_path, 2)
    old = state(2)
    new = ({**old[0], "half": torch.zeros(1)}, {"new": True})
    seen = []
    rename = training_state.Path.rename

    def look(self, target):
        rename(self, target)
        seen.append(load_state(tmp_path)[2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_state.Path, "rename", look)
        save_state(tmp_path, 2, *new)
    assert seen == [old[1], {"new": True}] and os.listdir(tmp_path) == ["step-000002"]


def test_nothing_is_pruned_before_the_new_state_is_whole(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_state, "save_file", full)
    with pytest.raises(UserError) as caught:
        save(tmp_path, 3)
    assert "No space left" in str(caught.value) and "step-000003" in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["step-000001", "step-000002"]
    check(load_state(tmp_path), 2)


def test_everything_is_flushed_before_the_rename(tmp_path, monkeypatch):
    calls = []
    rename, sync = training_state.Path.rename, training_state.sync
    monkeypatch.setattr(
        training_state.Path, "rename", lambda *names: (calls.append("rename"), rename(*names))
    )
    monkeypatch.setattr(training_state, "sync", lambda path: (calls.append(path.name[:4]), sync(path)))
    save(tmp_path, 1)
    flushed, after = calls[: calls.index("rename")], calls[calls.index("rename") :]
    assert sorted(flushed) == [".b4m", "SHA2", "stat", "tens"] and after == ["rename", tmp_path.name[:4]]


def test_meta_that_json_does_not_hold_is_loud_and_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        save_state(tmp_path, 1, {}, {"generator": torch.Generator()})
    assert os.listdir(tmp_path) == []


def test_the_files_are_plain(tmp_path):
    """No pickle, and sums that `sha256sum --check` reads."""
    save(tmp_path, 7)
    folder = tmp_path / "step-000007"
    assert sorted(os.listdir(folder)) == sorted([TENSORS, META, SUMS])
    assert json.loads((folder / META).read_text())["step"] == 7
    assert [line[64:] for line in (folder / SUMS).read_text().splitlines()] == [f"  {TENSORS}", f"  {META}"]
