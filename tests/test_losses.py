"Losses against values by hand, their gradients, and the inputs that break naive versions."
from math import log, sqrt

import numpy as np
import pytest
import torch

from synthdepth.metrics import LOSSES, gradient_loss, log_gradient_loss, masked_median
from synthdepth.metrics import silog_loss, ssi_loss, standardise


def batch(b=2, h=16, w=20, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    depth = torch.rand(b, h, w, generator=g)*5 + 1
    pred = torch.rand(b, h, w, generator=g)*5 + 1
    valid = torch.rand(b, h, w, generator=g) > .3
    return pred.to(dtype), depth.to(dtype), valid


def test_silog_is_the_published_formula():
    pred, depth, valid = batch()
    g = pred[valid].log() - depth[valid].log()
    # torch.var divides by n - 1
    published = 10*torch.sqrt(torch.var(g) + .15*torch.mean(g)**2 + 1e-6)
    torch.testing.assert_close(silog_loss(pred, depth, valid), published)


def test_silog_by_hand():
    depth, pred = torch.tensor([[[1., 1.]]]), torch.tensor([[[2., 4.]]])
    # g = ln 2, 2 ln 2: mean 1.5 ln 2, variance (ln 2)^2 / 2
    expected = 10*sqrt(log(2)**2/2 + .15*(1.5*log(2))**2 + 1e-6)
    assert silog_loss(pred, depth).item() == pytest.approx(expected, rel=1e-6)
    bare = silog_loss(pred, depth, variance_focus=0, scale=1, eps=0).item()
    assert bare == pytest.approx(log(2)/sqrt(2), rel=1e-6)


def test_silog_pools_the_batch():
    depth = torch.ones(2, 4, 4)
    # each image is right up to scale, the batch is not: 32 values +-ln 2
    pred = torch.stack([2*depth[0], depth[1]/2])
    both, alone = silog_loss(pred, depth).item(), silog_loss(pred[:1], depth[:1]).item()
    assert both == pytest.approx(10*sqrt(log(2)**2*32/31 + 1e-6), rel=1e-6)
    assert alone == pytest.approx(10*sqrt(.15*log(2)**2 + 1e-6), rel=1e-6)


def test_silog_clamps_predictions_at_zero_and_below():
    depth = torch.ones(1, 1, 2)
    pred = torch.tensor([[[-3., 0.]]], requires_grad=True)
    loss = silog_loss(pred, depth)
    assert loss.item() == pytest.approx(10*sqrt(.15*log(1e-6)**2 + 1e-6), rel=1e-5)
    loss.backward()
    assert pred.grad.isfinite().all()


def test_one_valid_pixel():
    depth = torch.tensor([[[2., 0.], [0., 0.]]])
    pred = torch.full_like(depth, 4.)
    # the variance of one value is taken as 0
    assert silog_loss(pred, depth).item() == pytest.approx(10*sqrt(.15*log(2)**2 + 1e-6), rel=1e-6)
    assert ssi_loss(pred, depth).item() == 0 and gradient_loss(pred, depth).item() == 0


def test_edges_in_log_depth_weigh_as_their_ratio():
    pred, depth, valid = batch()
    loss = log_gradient_loss(pred, depth, valid)
    assert torch.allclose(loss, log_gradient_loss(3*pred, 7*depth, valid))
    logs = [torch.where(valid, x, 1.).log() for x in (pred, depth)]
    assert torch.allclose(loss, gradient_loss(*logs, valid))
    assert log_gradient_loss(.5*depth, depth, valid) < 1e-5 < loss  # the scale is SILog's matter


@pytest.mark.parametrize('name', LOSSES)
def test_invalid_pixels_do_not_matter(name):
    pred, depth, valid = batch()
    spoiled, spoiled_depth = pred.clone(), depth.clone()
    spoiled[~valid], spoiled_depth[~valid] = torch.nan, torch.inf
    spoiled.requires_grad_()
    loss = LOSSES[name](spoiled, spoiled_depth, valid)
    assert torch.equal(loss.detach(), LOSSES[name](pred, depth, valid))
    loss.backward()
    assert spoiled.grad.isfinite().all()
    assert (spoiled.grad[~valid] == 0).all() and (spoiled.grad[valid] != 0).any()


@pytest.mark.parametrize('name', LOSSES)
def test_nan_prediction_is_not_hidden(name):
    pred, depth, valid = batch()
    row, column = valid[1].nonzero()[17].tolist()
    pred[1, row, column] = torch.nan
    assert LOSSES[name](pred, depth, valid).isnan()


@pytest.mark.parametrize('name', LOSSES)
def test_no_valid_pixel_is_no_number_with_zero_gradient(name):
    pred, depth, valid = batch(b=1)
    pred.requires_grad_()
    loss = LOSSES[name](pred, depth, torch.zeros_like(valid))
    loss.backward()
    assert loss.isnan() and (pred.grad == 0).all(), 'nothing to see is not a perfect score'


@pytest.mark.parametrize('name', LOSSES)
def test_empty_image_is_left_out_of_the_mean(name):
    pred, depth, valid = batch()
    valid[1] = False
    alone = LOSSES[name](pred[:1], depth[:1], valid[:1]).item()
    assert LOSSES[name](pred, depth, valid).item() == pytest.approx(alone)


@pytest.mark.parametrize('name', LOSSES)
def test_gradients_are_the_derivatives(name):
    pred, depth, valid = batch(b=2, h=5, w=6, dtype=torch.float64)
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: LOSSES[name](p, depth, valid), pred)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    pred, depth, valid = batch(b=1, h=64, w=64)
    half = pred.to(dtype).requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16): loss = LOSSES[name](half, depth, valid)
    assert loss.dtype == torch.float32
    assert torch.equal(loss.detach(), LOSSES[name](half.detach().float(), depth, valid))
    loss.backward()
    assert half.grad.dtype == dtype and half.grad.isfinite().all()


@pytest.mark.parametrize('name', LOSSES)
def test_gradient_descent_lowers_it(name):
    pred, depth, valid = batch(b=1)
    pred.requires_grad_()
    optimiser = torch.optim.Adam([pred], lr=.05)
    start = LOSSES[name](pred, depth, valid).item()
    for _ in range(60):
        optimiser.zero_grad()
        LOSSES[name](pred, depth, valid).backward()
        optimiser.step()
    assert LOSSES[name](pred, depth, valid).item() < .5*start


def test_masked_median_is_numpys():
    pred, _, valid = batch(b=3, h=7, w=9)
    valid[2] = False
    expected = [pred[i][valid[i]].numpy() for i in range(2)]
    found = masked_median(pred, valid)
    assert found[:2].tolist() == pytest.approx([float(np.median(x)) for x in expected])
    assert found[2].isnan()


def test_ssi_forgets_scale_and_shift_per_image_but_not_order():
    _, depth, valid = batch()
    scale, shift = torch.tensor([2., .3])[:, None, None], torch.tensor([-1., 4.])[:, None, None]
    assert ssi_loss(scale*depth + shift, depth, valid).item() == pytest.approx(0, abs=1e-5)
    assert ssi_loss(-depth, depth, valid, trim=0).item() > .5


def test_constant_prediction_has_a_finite_gradient():
    _, depth, valid = batch()
    pred = torch.full_like(depth, 3.).requires_grad_()
    ssi_loss(pred, depth, valid).backward()
    assert pred.grad.abs().max() < 1
    assert (standardise(torch.full_like(depth, 3.), valid) == 0).all()


def test_gradient_loss_by_hand_at_two_scales():
    residual = torch.zeros(1, 4, 4)
    # full size: 4 differences of 1 over 16 pixels; every second pixel: 2 over 4
    residual[0, 2, 2] = 1.
    depth = torch.ones(1, 4, 4)
    assert gradient_loss(depth + residual, depth, scales=1).item() == pytest.approx(4/16)
    assert gradient_loss(depth + residual, depth, scales=2).item() == pytest.approx(4/16 + 2/4)
    # from an eighth of the size on, a single pixel is left, and it has no neighbour
    assert gradient_loss(depth + residual, depth, scales=6).item() == pytest.approx(4/16 + 2/4)


@pytest.mark.parametrize('shapes', [
    ((2, 1, 4, 4), (2, 4, 4)), ((4, 4), (4, 4)), ((2, 4, 5), (2, 4, 4)), ((1, 4, 4), (2, 4, 4))])
def test_shapes_never_broadcast(shapes):
    with pytest.raises(ValueError, match='one shape'):
        silog_loss(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_mask_mistakes_are_named():
    pred, depth, valid = batch()
    with pytest.raises(ValueError, match='mask of bool, found torch.float32'):
        silog_loss(pred, depth, valid.float())
    depth[0, 0, :3] = 0
    with pytest.raises(ValueError, match='3 of 640 valid pixels have no depth above 0'):
        silog_loss(pred, depth, torch.ones_like(valid))
