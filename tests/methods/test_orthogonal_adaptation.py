"""Orthogonal Adaptation: D is a fixed share of one orthogonal basis, and disjoint shares do not see each other."""

import pytest
import torch
from conftest import refused
from loras import job, product

from b4m.backbones.registry import open_backbone
from b4m.files.lora import load_lora
from b4m.methods.low_rank import DirectSumConfig
from b4m.methods.orthogonal_adaptation import (
    OrthogonalAdaptation,
    OrthogonalContentConfig,
    OrthogonalStyleConfig,
    columns,
    orthogonal,
)
from b4m.training.loop import train

JOBS = {"content": OrthogonalContentConfig, "style": OrthogonalStyleConfig}


@pytest.fixture
def config(tiny_base, folders, tmp_path):
    def make(kind: str, **changes):
        images = {f"{kind}_dir": folders[kind]}
        return job(JOBS[kind], tiny_base, tmp_path / f"{kind}-{len(str(changes))}", **images, **changes)

    return make


def test_the_basis_is_orthogonal_and_of_the_seed():
    for n in (32, 48):
        basis = orthogonal(n, 0)
        assert torch.allclose(basis.T @ basis, torch.eye(n, dtype=basis.dtype), atol=1e-12)
        orthogonal.cache_clear()
        assert torch.equal(basis, orthogonal(n, 0)) and not torch.equal(basis, orthogonal(n, 1))


def test_columns_follow_seed_and_kind(config):
    content, style = config("content", rank=4), config("style", rank=4)
    taken = columns(32, 4, "content", content).tolist()
    assert taken == columns(32, 4, "content", content).tolist() and len({*taken}) == 4
    assert taken != columns(32, 4, "style", style).tolist()
    assert taken != columns(32, 4, "content", config("content", rank=4, seed=5)).tolist()
    apart = config("content", rank=4, columns="disjoint")
    assert columns(32, 4, "content", apart).tolist() == [0, 1, 2, 3]
    assert columns(32, 4, "style", apart).tolist() == [4, 5, 6, 7]


def test_only_up_learns_and_down_stays_the_share(config, tiny_base):
    learner = OrthogonalAdaptation().task(config("content")).start(open_backbone(tiny_base))
    assert all(name.startswith("up/") for name in learner.named) and learner.learns_from(0) == {"up"}
    result = train(config("content"))
    layers, metadata = load_lora(result.path)
    for name, (up, down) in layers.items():
        n = down.shape[1]
        share = orthogonal(n, 0)[:, columns(n, 2, "content", config("content"))].T.float()
        assert torch.equal(down, share) and up.any(), name
        assert torch.allclose(down @ down.T, torch.eye(2), atol=1e-6)
    assert metadata["b4m.trained_parameters"] == str(sum(up.numel() for up, _ in layers.values()))


def test_disjoint_concepts_do_not_see_each_other_and_their_order_is_all_one(config, tiny_base, tmp_path):
    files = {f"{kind}_file": str(train(config(kind, columns="disjoint")).path) for kind in JOBS}
    content, style = (load_lora(path)[0] for path in files.values())
    for name in content:
        assert (style[name][1] @ content[name][1].T).abs().max() < 1e-6
        inner = (product(content[name]) * product(style[name])).sum()
        assert abs(inner) < 1e-6 * product(content[name]).norm() * product(style[name]).norm() + 1e-12
    summed = load_lora(train(job(DirectSumConfig, tiny_base, tmp_path / "a", **files)).path)[0]
    swapped = {"content_file": files["style_file"], "style_file": files["content_file"]}
    other = load_lora(train(job(DirectSumConfig, tiny_base, tmp_path / "b", **swapped)).path)[0]
    for name in summed:
        assert torch.allclose(product(summed[name]), product(other[name]), atol=1e-6)
        x = content[name][1][0]  # an input that the content reads
        assert torch.allclose(product(summed[name]) @ x, product(content[name]) @ x, atol=1e-5)


def test_a_rank_that_does_not_fit_is_refused(config, tiny_base):
    for changes, needed in ((dict(rank=33), "33"), (dict(rank=17, columns="disjoint"), "34")):
        task = OrthogonalAdaptation().task(config("content", **changes))
        refused(lambda task=task: task.start(open_backbone(tiny_base)), "--rank", "32 inputs", needed)
