"""The host tells a GPU what to do and waits for none of it: a step neither reads the device nor is held by a copy."""

import json

import pytest
import torch
from accelerate import Accelerator
from loops import bear, files_of, loaded, poison, same_files, stop_after
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from b4m.core.errors import UserError
from b4m.maths import riemannian
from b4m.training import look
from b4m.training.look import looks_late
from b4m.training.loop import Loop, train
from b4m.training.state import load_state

aten = torch.ops.aten
JOBS = [
    ("content", {"gradient_accumulation": 2, "partner_samples": 1, "snr_gamma": 5.0}),
    ("style", {"rows_per_pass": 1}),
    ("joint", {}),
    ("second", {"optimizer": "riemannian-adamw"}),
    ("second", {"optimizer": "riemannian-sgd"}),
]


def on_device(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "meta"


class BlockingCopies(TorchDispatchMode):
    """Fails on a copy from the host that holds it until the device has taken it. (From the device none can be made.)"""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        copies = {aten._to_copy.default: (found, args[0]), aten.copy_.default: args[:2]}.get(func)
        if copies and on_device(copies[0]) and not on_device(copies[1]):
            given = (kwargs or {}).get(
                "non_blocking", args[2] if func is aten.copy_.default and args[2:] else False
            )
            assert given, f"{func} of {tuple(copies[1].shape)} waits"
        return found


class HiddenCopies(TorchFunctionMode):
    """Fails on calls whose copy no dispatch mode sees: numbers that become tensors of the device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            assert not on_device(found), f"{func.__name__} of {args}"
        if func in (torch.where, Tensor.where):
            assert not on_device(found) or all(map(on_device, args)), "torch.where of a number"
        if func in (Tensor.__getitem__, Tensor.__setitem__) and on_device(args[0]):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert all(isinstance(i, int | slice | type(None) | type(...)) or on_device(i) for i in index), (
                index
            )
        return found


@pytest.fixture
def unreadable(monkeypatch):
    """Training runs on torch's meta device, whose tensors have no numbers to be read."""
    monkeypatch.setattr(Accelerator, "device", torch.device("meta"))
    monkeypatch.setattr(riemannian, "FUSED_KERNELS", ("meta",))
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(
        True
    )  # a parameter that moves stays the same object
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


class Unread:
    """In place of `Arriving`: whether it was asked."""

    made: list["Unread"] = []

    def __init__(self, values: Tensor) -> None:
        assert on_device(values)
        self.size, self.asked = len(values), False
        self.made.append(self)

    def read(self) -> list[float]:
        self.asked = True
        return [0.0] * self.size


@pytest.mark.parametrize(("stage", "changes"), JOBS, ids=[f"{stage}{i}" for i, (stage, _) in enumerate(JOBS)])
def test_a_step_neither_reads_the_device_nor_waits_for_a_copy(
    stage, changes, settings, trained, tmp_path, monkeypatch, unreadable
):
    loop = loaded(settings(stage, tmp_path, **files_of(trained, stage), **changes))
    assert all(map(on_device, loop.learner.parameters)) and not loop.late
    loop.late = True  # as on a GPU
    monkeypatch.setattr(look, "Arriving", Unread)
    monkeypatch.setattr(Unread, "made", [])
    assert loop.take_step() is None  # tables come to the device in the first one
    with BlockingCopies(), HiddenCopies():
        for loop.step in (1, 2):
            assert loop.take_step().step == loop.step
    asked = [each.asked for each in Unread.made]
    assert asked == [True, True, True, True, False, False], "losses and norms, of the step before alone"


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.where(x > 0, x, 0),
        lambda x: x[[0, 1]],
    ],
)
def test_what_waits_is_noticed(wait):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), BlockingCopies(), HiddenCopies():
        wait(torch.zeros(3, device="meta"))


def test_a_preconditioner_asks_for_no_number():
    """Not even inside torch, where cholesky_inverse does."""
    identity = torch.eye(4, dtype=torch.float64)
    gram = torch.stack([identity, -identity, 4 * identity])
    first, none, last = riemannian._unasked(gram)
    assert torch.equal(first, identity) and torch.equal(last, identity / 4) and not none.isfinite().any()
    assert not asks(riemannian._unasked, gram) and asks(torch.cholesky_inverse, gram)


def asks(inverse, gram: Tensor) -> bool:
    with torch.profiler.profile() as found:
        inverse(gram)
    return any(event.key == "aten::_local_scalar_dense" for event in found.key_averages())


@pytest.fixture
def late(monkeypatch):
    """The host looks at a step while the next one is under way, as on a GPU."""
    init = Loop.__init__

    def made(loop, *given, **named):
        init(loop, *given, **named)
        loop.late = True

    def set_late() -> None:
        monkeypatch.setattr(Loop, "__init__", made)

    return set_late


@pytest.mark.parametrize("stage", ["content", "second"])
def test_looking_late_changes_no_bit_and_no_line(stage, settings, trained, tmp_path, late):
    files = files_of(trained, stage)
    changes = {"steps": 3, "checkpoint_every": 2, "max_grad_norm": 1e-3, **files}
    at_once = train(settings(stage, tmp_path / "one", **changes))
    late()
    seen_late = train(settings(stage, tmp_path / "two", **changes))
    assert same_files(at_once.path, seen_late.path)
    assert (tmp_path / "one/log.jsonl").read_text() == (tmp_path / "two/log.jsonl").read_text()
    assert len(at_once.losses) == 3


@pytest.mark.parametrize(("gradient", "steps"), [(False, 2), (True, 2), (True, 4)])
def test_looking_late_nothing_is_saved_of_what_is_not_finite(
    steps, gradient, settings, folders, tmp_path, monkeypatch, late
):
    """Neither where a state is due after that very step, nor where it is the last one; samples are named as ever."""
    late()
    poison(monkeypatch, 2, "bear.png", gradient)
    given = {"content_dir": bear(folders, tmp_path), "steps": steps, "checkpoint_every": 1}
    with pytest.raises(UserError) as caught:
        train(settings("content", tmp_path / "out", **given))
    what = "the gradient is not finite" if gradient else "the loss is nan"
    assert f"{what} at step 2 in sample 1 ({tmp_path}/in/bear.png)" in str(caught.value)
    assert "chalk" not in str(caught.value), "a partner had no part in it"
    step, tensors, _ = load_state(tmp_path / "out/state")
    assert step == 1 and all(tensor.isfinite().all() for tensor in tensors.values())
    assert not (tmp_path / "out/content.safetensors").exists()
    assert len((tmp_path / "out/log.jsonl").read_text().splitlines()) == 1


def test_looking_late_a_signal_is_heard_a_step_later_and_the_run_ends_in_the_same_bits(
    settings, tmp_path, monkeypatch, late
):
    whole = train(settings("content", tmp_path / "whole", steps=4))
    late()
    config = settings("content", tmp_path / "cut", steps=4)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(SystemExit):
            train(config)
    assert load_state(tmp_path / "cut/state")[0] == 2
    again = train(config)
    assert same_files(whole.path, again.path) and whole.losses == again.losses


def test_where_it_must_be_known_at_once_it_is():
    """A step that may be left out must not have moved anything; the host of a CPU waits for nobody."""
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert looks_late(cuda, None, 0)
    assert not any([looks_late(cuda, None, 1), looks_late(cuda, object(), 0), looks_late(cpu, None, 0)])


@pytest.mark.gpu
@pytest.mark.parametrize(("stage", "changes"), [*JOBS, ("content", {"gradient_checkpointing": True})])
def test_a_step_makes_no_host_wait_for_a_gpu(stage, changes, settings, trained, tmp_path):
    loop = loaded(settings(stage, tmp_path, **files_of(trained, stage), **changes))
    assert loop.late and loop.accelerator.device.type == "cuda"
    for loop.step in range(2):  # buffers are made and kernels loaded in the first ones
        loop.take_step()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for loop.step in range(2, 4):
            loop.take_step()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    loop.settle(loop.pending)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
