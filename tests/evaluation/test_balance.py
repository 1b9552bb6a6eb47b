"""`b4m balance`: strengths at which both move predictions equally far, or not too far."""

from dataclasses import replace

import pytest
import torch
from conftest import refused

from b4m.config.resolve import resolve
from b4m.config.sampling import GenerateConfig
from b4m.evaluation import pair
from b4m.evaluation.balance import MOST, balance, balance_table, strength_for
from b4m.evaluation.settings import BalanceConfig
from b4m.files.concept import load_concept, save_concept
from b4m.files.export import export
from b4m.files.fused import split_lora
from b4m.files.opening import open_any
from b4m.files.settings import ExportConfig


@pytest.fixture(autouse=True)
def few_states(monkeypatch):
    monkeypatch.setattr(pair, "LEVELS", 2)
    monkeypatch.setattr(pair, "SEEDS", range(1))


def config(trained, **changes) -> BalanceConfig:
    return BalanceConfig(trained["content_file"], trained["style_file"], prompts=("a bear",), **changes)


@pytest.mark.parametrize("power", [1.6, 2.0, 2.4])
def test_the_strength_of_a_move_is_found(power):
    def moved(strength):
        return 0.3 * strength**power

    for target in (0.05, 0.3, 1.0):
        assert moved(strength_for(moved, 0.3, target)) == pytest.approx(target, rel=0.01)
    assert strength_for(moved, 0.3, 1e6) == MOST


def test_both_move_equally_far(trained, tmp_path):
    found = balance(config(trained, output=str(tmp_path / "pair.yaml")))
    assert found.target == pytest.approx((found.moves["content"] * found.moves["style"]) ** 0.5)
    assert found.reached["content"] == pytest.approx(found.target, rel=0.03)
    assert found.reached["style"] == pytest.approx(found.target, rel=0.03)
    larger, smaller = sorted(found.moves, key=found.moves.get, reverse=True)
    assert found.strengths[larger] < 1 < found.strengths[smaller]
    settings = resolve(GenerateConfig, "embedded", tmp_path / "pair.yaml", prompts="a bear")
    assert settings.content_strength == found.strengths["content"]
    assert settings.style_strength == found.strengths["style"]
    assert (settings.content_file, settings.style_file) == (trained["content_file"], trained["style_file"])
    assert [line.split()[0] for line in balance_table(found).splitlines()[1:]] == ["content", "style"]


def test_what_is_written_is_folded_into_one_file(trained, tmp_path):
    found = balance(config(trained, output=str(tmp_path / "pair.yaml")))
    made = {"output": str(tmp_path / "pair.safetensors"), "dtype": "fp32"}
    content = load_concept(trained["content_file"])
    base = content.metadata["base_model"]
    path = export(resolve(ExportConfig, "embedded", tmp_path / "pair.yaml", base_model=base, **made))
    folded = open_any(str(path))
    B, _ = split_lora(folded.layers, folded.spec)
    for layer, learned in content.tensors.items():
        torch.testing.assert_close(B[layer], found.strengths["content"] * learned)


def test_a_bound_weakens_what_moves_more_and_nothing_else(trained):
    moves = balance(config(trained)).moves
    larger, smaller = sorted(moves, key=moves.get, reverse=True)
    bound = (moves[larger] * moves[smaller]) ** 0.5
    found = balance(config(trained, bound=bound))
    assert found.strengths[smaller] == 1 and found.reached[larger] == pytest.approx(bound, rel=0.03)


def test_what_cannot_be_balanced_is_refused_and_nothing_written(trained, tmp_path):
    concept = load_concept(trained["style_file"])
    still = {name: torch.zeros_like(tensor) for name, tensor in concept.tensors.items()}
    save_concept(tmp_path / "still.safetensors", replace(concept, tensors=still))
    out = tmp_path / "pair.yaml"
    given = replace(config(trained, output=str(out)), style_file=str(tmp_path / "still.safetensors"))
    refused(lambda: balance(given), "moves no prediction")
    refused(lambda: balance(replace(given, style_file=trained["content_file"])), "holds a content")
    assert not out.exists()
