"""The plain products on CPUs equal torch's fused attention, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from omnivast.model.attention import additive, attend

SHAPE = (2, 3, 5, 8)


def inputs(dtype=torch.bfloat16):
    noise = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(SHAPE, generator=noise).to(dtype).requires_grad_() for _ in range(3))
    boolean = torch.rand(2, 1, 5, 5, generator=noise) < 0.6
    boolean[..., 0] = True
    return query, key, value, boolean


def exact(query, key, value, mask):
    q, k, v = (x.detach().double().requires_grad_() for x in (query, key, value))
    mask = mask.double() if mask is not None and mask.dtype is not torch.bool else mask
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out.square().sum().backward()
    return out, q.grad, k.grad, v.grad


@pytest.mark.parametrize("kind", ["none", "boolean", "added"])
def test_plain_products_equal_the_fused_kernel(kind):
    query, key, value, boolean = inputs()
    bias = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    mask = {"none": None, "boolean": boolean, "added": bias}[kind]
    out = attend(query, key, value, mask)
    out.square().sum().backward()
    for got, wanted in zip((out, query.grad, key.grad, value.grad), exact(query, key, value, mask)):
        assert got.dtype is torch.bfloat16
        torch.testing.assert_close(got.double(), wanted.detach(), rtol=0.05, atol=0.05)


def test_the_fused_path_accepts_added_masks_of_another_type():
    query, key, value, _ = inputs()
    bias = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        fused = attend(query.detach(), key, value, bias)
    torch.testing.assert_close(fused, attend(query, key, value, bias).detach(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_keys_have_no_weight(dtype):
    query, key, value, _ = inputs(dtype)
    seen = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    seen[..., :2] = True
    other_key, other_value = key.detach().clone(), value.detach().clone()
    other_key[:, :, 2:], other_value[:, :, 2:] = 50, 1e4
    assert torch.equal(attend(query, key, value, seen), attend(query, other_key, other_value, seen))


def test_an_added_mask_from_a_boolean_one():
    mask = additive(torch.tensor([[True, False]]), torch.float32)
    assert mask.tolist() == [[0.0, float("-inf")]]


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    query = torch.zeros(1, 1, 400, 4, dtype=torch.bfloat16, requires_grad=True)
    out = attend(query, torch.zeros(1, 1, 50, 4, dtype=torch.bfloat16), torch.ones(1, 1, 50, 4, dtype=torch.bfloat16), dropout=0.5)
    assert out.float().mean().item() == pytest.approx(1.0, abs=0.05) and out.float().std() > 0.05
