"Metrics against values by hand and a NumPy loop; alignment; protocols; what is no depth."
import json
from dataclasses import replace
from math import log, log10, sqrt

import numpy as np
import pandas as pd
import pytest
import torch

from synthdepth.metrics import GEOMETRY, METRICS, PROTOCOLS, Protocol, align, apply_protocol
from synthdepth.metrics import batches, depth_metrics, evaluate_batch, fit_alignment
from synthdepth.metrics import geometry_metrics, get_protocol, pixel_metrics, summarise
from synthdepth.metrics.batches import use_kernels
from synthdepth.metrics.pixel_metrics import HIGHER_IS_BETTER, SUM_NAMES, array_sums, kernel_sums
from synthdepth.metrics.protocols import PROTOCOL_SOURCES, crop_mask


def batch(b=3, h=24, w=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    depth = torch.rand(b, h, w, generator=g)*8 + 1
    pred = depth*(1 + .3*torch.randn(b, h, w, generator=g)).clamp(min=.1)
    valid = torch.rand(b, h, w, generator=g) > torch.linspace(.1, .8, b)[:, None, None]
    return pred, depth, valid


def reference(p, t): # one image's valid pixels in float64, as the benchmarks write it
    g, ratio = np.log(p) - np.log(t), np.maximum(p/t, t/p)
    return {'d1': (ratio < 1.25).mean(), 'd2': (ratio < 1.25**2).mean(),
            'd3': (ratio < 1.25**3).mean(),
            'abs_rel': (abs(p - t)/t).mean(), 'sq_rel': ((p - t)**2/t).mean(),
            'rmse': np.sqrt(((p - t)**2).mean()),
            'rmse_log': np.sqrt((g**2).mean()), 'log10': abs(np.log10(p) - np.log10(t)).mean(),
            'mae': abs(p - t).mean(), 'silog': 100*np.sqrt((g**2).mean() - g.mean()**2),
            'silog_published': np.sqrt((g**2).mean() - .5*g.mean()**2)}


def as_numpy(x, valid): return x[valid].double().numpy()


# Four pixels: true 1, 2, 4, 5; predicted 2 (ratio 2), 2 (exact), 3 (ratio 1.33), 6 (ratio 1.2).
BY_HAND = {
    'd1': 2/4, 'd2': 3/4, 'd3': 3/4, # 1.25, 1.5625, 1.953125
    'abs_rel': (1/1 + 0 + 1/4 + 1/5)/4,
    'sq_rel': (1/1 + 0 + 1/4 + 1/5)/4,
    'rmse': sqrt(3/4),
    'mae': 3/4,
    'log10': (log10(2) + 0 + log10(4/3) + log10(6/5))/4,
    'rmse_log': sqrt((log(2)**2 + log(3/4)**2 + log(6/5)**2)/4),
    'silog': 100*sqrt((log(2)**2 + log(3/4)**2 + log(6/5)**2)/4
                      - ((log(2) + log(3/4) + log(6/5))/4)**2),
    'silog_published': sqrt((log(2)**2 + log(3/4)**2 + log(6/5)**2)/4
                            - .5*((log(2) + log(3/4) + log(6/5))/4)**2),
}


@pytest.mark.parametrize('name', METRICS)
def test_metric_by_hand(name):
    depth, pred = torch.tensor([[[1., 2.], [4., 5.]]]), torch.tensor([[[2., 2.], [3., 6.]]])
    assert depth_metrics(pred, depth)[name].item() == pytest.approx(BY_HAND[name], rel=1e-6)


def test_values_lie_in_the_stated_range_and_the_source_is_named():
    pred, depth, _ = batch()
    found = depth_metrics(pred, depth)
    found |= geometry_metrics(pred, depth, None, torch.tensor([30., 30., 16., 12.]))
    for name, metric in (METRICS | GEOMETRY).items():
        low, high = map(float, metric.range.strip('[])').split(','))
        assert ((found[name] >= low) & (found[name] <= high)).all(), name
        assert metric.source and metric.formula


def test_vectorised_equals_a_loop_over_images():
    pred, depth, valid = batch()
    found = depth_metrics(pred, depth, valid)
    assert list(found) == list(METRICS) == list(HIGHER_IS_BETTER)
    for i in range(len(pred)):
        expected = reference(as_numpy(pred[i], valid[i]), as_numpy(depth[i], valid[i]))
        for name, value in expected.items():
            assert found[name][i].item() == pytest.approx(value, rel=2e-6), name


@pytest.mark.parametrize('shape', [(2, 1, 1), (2, 256, 256), (2, 300, 437)])
def test_loops_equal_numpy_and_the_way_of_the_device(shape):
    pred, depth, valid = batch(*shape)
    pred[~valid], depth[~valid] = torch.nan, -1.
    assert use_kernels(pred, depth, valid) and not use_kernels(pred.double(), depth.double(), valid)
    one, other = kernel_sums(pred, depth, valid), array_sums(pred, depth, valid)
    for name in SUM_NAMES:
        torch.testing.assert_close(one[name], other[name], rtol=2e-6, atol=1e-9, msg=name)
    double = depth_metrics(pred.double(), depth.double(), valid)
    for i in range(len(pred)):
        if not valid[i].any(): continue
        expected = reference(as_numpy(pred[i], valid[i]), as_numpy(depth[i], valid[i]))
        found = {name: value[i].item() for name, value in depth_metrics(pred, depth, valid).items()}
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9 if valid[i].sum() > 1 else 1e-4)
        exact = {name: value[i].item() for name, value in double.items()}
        assert exact == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize('scale', [1e-18, 1e18])
def test_depths_of_no_ordinary_size(scale):
    "Their product leaves the range of float32."
    pred, depth, valid = batch(2, 30, 40)
    expected = depth_metrics(pred, depth, valid)
    found = depth_metrics(pred*scale, depth*scale, valid)
    for name in ('d1', 'abs_rel', 'silog', 'log10'):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=0)
    torch.testing.assert_close(found['mae']/scale, expected['mae'], rtol=1e-5, atol=0)


def test_without_numba_the_arrays_serve(monkeypatch):
    pred, depth, valid = batch()
    expected = depth_metrics(pred, depth, valid)
    monkeypatch.setattr(batches, 'find_spec', lambda name: None)
    monkeypatch.setattr(pixel_metrics, 'kernel_sums', None)
    found = depth_metrics(pred, depth, valid)
    for name in METRICS:
        torch.testing.assert_close(found[name], expected[name], rtol=2e-6, atol=1e-9)


def test_scale_that_is_wrong_by_a_thousand_leaves_the_shape_exact():
    "The mean of g is 6.9 here and its deviation 0.001."
    _, depth, _ = batch(1, 300, 400)
    noise = torch.randn(depth.shape, generator=torch.Generator().manual_seed(1))
    pred = 1000*depth*torch.exp(.001*noise)
    expected = reference(pred[0].double().numpy().ravel(),
                         depth[0].double().numpy().ravel())['silog']
    assert depth_metrics(pred, depth)['silog'].item() == pytest.approx(expected, rel=1e-4)


def test_views_and_gradients_are_scored_like_copies():
    pred, depth, valid = batch(4, 40, 60)
    views = [x.transpose(1, 2)[1:, ::2] for x in (pred.requires_grad_(), depth, valid)]
    found, copied = depth_metrics(*views), depth_metrics(*(x.detach().contiguous() for x in views))
    assert all(torch.equal(found[k], copied[k]) for k in found)


@pytest.mark.parametrize('value', [torch.nan, torch.inf, 0., -1.])
def test_what_is_no_depth_stops_wherever_it_is(value, recwarn):
    for at in (0, 70_000, 130_000):
        pred, depth, valid = (torch.full((1, 300, 437), x) for x in (2., 2., True))
        pred.view(-1)[at] = value
        with pytest.raises(ValueError, match=f'row {at//437}, column {at % 437}'):
            depth_metrics(pred, depth, valid)
        with pytest.raises(ValueError, match='ground truth is not'):
            depth_metrics(depth, pred, valid)
    assert not recwarn.list


def test_perfect_prediction():
    _, depth, valid = batch()
    for name, value in depth_metrics(depth, depth, valid).items():
        assert (value == HIGHER_IS_BETTER[name]).all(), name


def test_invalid_pixels_do_not_matter_and_one_image_is_a_batch():
    pred, depth, valid = batch()
    spoiled, spoiled_depth = pred.clone(), depth.clone()
    spoiled[~valid], spoiled_depth[~valid] = torch.nan, -1
    for protocol in PROTOCOLS.values():
        protocol = replace(protocol, size=None)
        clean = evaluate_batch(pred, depth, valid, protocol)
        dirty = evaluate_batch(spoiled, spoiled_depth, valid, protocol)
        assert all(torch.equal(clean[k], dirty[k]) for k in clean)
    one = depth_metrics(pred[1:2], depth[1:2], valid[1:2])
    all_of_them = depth_metrics(pred, depth, valid)
    assert all(one[k][0].item() == pytest.approx(all_of_them[k][1].item(), rel=1e-9) for k in one)


def test_half_precision_inputs():
    pred, depth, valid = batch()
    half = pred.bfloat16()
    found = evaluate_batch(half, depth, valid, 'metric')
    expected = evaluate_batch(half.float(), depth, valid, 'metric')
    assert all(torch.equal(found[k], expected[k]) for k in found)
    assert found['rmse'].dtype == torch.float64


def test_empty_image_has_no_score_and_is_counted():
    pred, depth, valid = batch()
    valid[1] = False
    for name in ('metric', 'median', 'scale', 'affine_depth', 'affine_disparity'):
        found = evaluate_batch(pred, depth, valid, name)
        assert all(found[k][1].isnan() and found[k][[0, 2]].isfinite().all() for k in METRICS)
        assert found['valid_pixels'].tolist() == [valid[0].sum(), 0, valid[2].sum()]
    rows = pd.DataFrame(found)
    assert summarise(rows)['n'] == 2 and summarise(rows)['excluded'] == 1
    assert summarise(rows)['d1'] == pytest.approx(found['d1'][[0, 2]].mean().item())


def test_summarise_all_excluded_and_nothing():
    rows = pd.DataFrame({'d1': [np.nan], 'scene': ['a']})
    assert np.isnan(summarise(rows)['d1']) and summarise(rows)['excluded'] == 1
    with pytest.raises(ValueError, match='nothing to summarise'): summarise(rows[:0])
    with pytest.raises(ValueError, match='nothing to summarise'):
        summarise(pd.DataFrame({'scene': ['a']}))


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_non_finite_prediction_stops_and_is_located(value):
    pred, depth, valid = batch()
    valid[:] = True
    pred[1, 2, 3], pred[1, 5, 0], pred[2, 0, 0] = value, value, value
    published = replace(PROTOCOLS['published'], size=None)
    message = '3 of 2304 valid pixels, in image 1, 2 of the batch; first at row 2, col'
    for protocol in ('metric', 'affine_depth', 'affine_disparity', published):
        with pytest.raises(ValueError, match=message):
            evaluate_batch(pred, depth, valid, protocol)


def test_negative_predictions_are_clamped_or_refused_never_counted_as_right():
    pred, depth = torch.full((1, 2, 2), -2.), torch.full((1, 2, 2), 2.)
    found = evaluate_batch(pred, depth, None, 'metric')
    assert found['d3'].item() == 0 and found['mae'].item() == pytest.approx(2 - 1e-3)
    with pytest.raises(ValueError, match='4 of 4 valid pixels.*: -2'): depth_metrics(pred, depth)
    with pytest.raises(ValueError, match='not a finite depth above 0'):
        evaluate_batch(pred, depth, None, Protocol('unclamped', clamp=False))


def test_published_protocol():
    pred, depth, valid = batch(b=4, h=256, w=256)
    pred, depth = pred/10, depth.clone()
    depth[0, :100] = 12. # out of range
    found = evaluate_batch(pred, depth, valid, 'published')
    for i in range(2): # batches of two, over all their pixels
        pair = slice(2*i, 2*i + 2)
        ok = valid[pair] & (depth[pair] > .001) & (depth[pair] < 10)
        p, t = as_numpy((pred[pair]*10).clamp(1e-3, 10), ok), as_numpy(depth[pair], ok)
        for name, value in reference(p, t).items():
            assert found[name][i].item() == pytest.approx(value, rel=2e-6), name
    three = evaluate_batch(pred[:3], depth[:3], valid[:3], 'published')
    assert len(found['d1']) == len(three['d1']) == 2
    with pytest.raises(ValueError,
                       match=r'compares at \(height, width\) \(256, 256\), found \(24, 32\)'):
        evaluate_batch(*batch(), 'published')


def test_published_protocol_cannot_tell_models_apart():
    _, depth, valid = batch()
    protocol = replace(PROTOCOLS['published'], size=None)
    one = evaluate_batch(depth, depth, valid, protocol)
    other = evaluate_batch(11 - depth, depth, valid, protocol)
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_valid_range_is_open():
    depth = torch.tensor([[[.001, .0011, 9.999, 10., 0.]]])
    _, valid = apply_protocol(torch.ones_like(depth), depth, None, 'metric')
    assert valid.flatten().tolist() == [False, True, True, False, False]


def test_crops():
    eigen = crop_mask(480, 640, 'eigen')
    assert eigen[45:471, 41:601].all() and eigen.sum() == 426*560
    double = crop_mask(960, 1280, 'eigen')
    assert double[90:942, 82:1202].all() and double.sum() == 852*1120
    garg = crop_mask(375, 1242, 'garg')
    assert garg[153:371, 44:1197].all() and garg.sum() == (371 - 153)*(1197 - 44)
    with pytest.raises(ValueError, match="unknown crop 'nyu'"): crop_mask(4, 4, 'nyu')
    depth = torch.ones(1, 480, 640)
    assert evaluate_batch(depth, depth, None, 'nyu')['valid_pixels'].item() == 426*560


def test_alignment_is_numpys_least_squares():
    pred, depth, valid = batch()
    for space in ('depth', 'disparity'):
        x, y = (pred, depth) if space == 'depth' else (1/pred, 1/depth)
        scale, shift = fit_alignment(x, y, valid)
        for i in range(len(pred)):
            a, b = as_numpy(x[i], valid[i]), as_numpy(y[i], valid[i])
            expected = np.linalg.lstsq(np.stack([a, np.ones_like(a)], 1), b, rcond=None)[0]
            assert [scale[i].item(), shift[i].item()] == pytest.approx(expected, rel=1e-9)
            alone = fit_alignment(x, y, valid, 'scale')[0][i].item()
            assert alone == pytest.approx((a @ b)/(a @ a), rel=1e-9)
            ratio = np.median(b)/np.median(a)
            median = fit_alignment(x, y, valid, 'median')[0][i].item()
            assert median == pytest.approx(ratio, rel=1e-9)


def test_alignment_far_from_zero_is_stable():
    depth = torch.linspace(1, 9, 300).reshape(1, 15, 20)
    pred = depth*1e-3 + 1000 # float32 keeps 6e-5 of it: the fit must not lose more
    assert (align(pred, depth) - depth).abs().max() < .05


def test_alignment_recovers_each_images_own_scale_and_shift():
    _, depth, valid = batch()
    scale = torch.tensor([.1, 2., 30.])[:, None, None]
    shift = torch.tensor([3., -1., .5])[:, None, None]
    torch.testing.assert_close(align(scale*depth + shift, depth, valid), depth, rtol=1e-4,
                               atol=1e-4)
    disparity = align(scale/depth + shift, depth, valid, space='disparity', predicts='disparity')
    torch.testing.assert_close(disparity, depth, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(align(depth*scale, depth, valid, how='median'), depth)
    torch.testing.assert_close(align(depth*scale, depth, valid, how='scale', space='disparity'),
                               depth)


def test_disparity_below_zero_means_far():
    depth = torch.tensor([[[1., 1.1, 9., 9.]]])
    disparity = torch.tensor([[[1., .8, .3, -.5]]])
    aligned = align(disparity, depth, space='disparity', predicts='disparity')
    assert aligned.isfinite().all() and (aligned > 0).all() and aligned.max() == 10
    # a depth of zero and less
    metric = align(torch.tensor([[[-1., 0., 3., 4.]]]), depth, space='disparity')
    assert metric.isfinite().all() and (metric > 0).all()


def test_alignment_of_constant_predictions():
    _, depth, valid = batch()
    constant = torch.full_like(depth, 3.)
    mean = (depth.double()*valid).sum((1, 2))/valid.sum((1, 2))
    torch.testing.assert_close(align(constant, depth, valid)[:, 0, 0], mean.float())
    scale, shift = fit_alignment(0*constant, depth, valid, 'scale')
    assert (scale == 0).all() and (shift == 0).all()
    with pytest.raises(ValueError, match='positive median prediction, found -3 in image 0'):
        align(-constant, depth, valid, how='median')


def test_relative_models_must_be_aligned():
    pred, depth, valid = batch()
    for predicts in ('depth', 'disparity'):
        with pytest.raises(ValueError, match='has no metres'):
            evaluate_batch(pred, depth, valid, 'metric', predicts)
    with pytest.raises(ValueError, match='aligned in disparity'):
        evaluate_batch(pred, depth, valid, 'affine_depth', 'disparity')
    found = evaluate_batch(2/depth + 1, depth, valid, 'affine_disparity', 'disparity')
    assert found['rmse'].max() < 1e-3
    with pytest.raises(ValueError, match='unknown prediction'):
        evaluate_batch(pred, depth, valid, 'metric', 'metres')


def test_alignment_uses_only_the_pixels_that_count():
    depth = torch.full((1, 480, 640), 2.)
    depth[0, :, 320:] = 4.
    pred = depth.clone()
    pred[0, :45] = 100. # outside the Eigen crop
    protocol = replace(PROTOCOLS['nyu'], align='scale_and_shift')
    assert evaluate_batch(pred, depth, None, protocol)['rmse'].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('field, value, message', [
    ('crop', 'Eigen', "crop is 'Eigen', expected one of none, eigen, garg"),
    ('align', None, 'align is None, expected one of none, median'),
    ('align_space', 'log', "align_space is 'log'"),
    ('average', 'pixel', "average is 'pixel', expected one of image, batch"),
    ('silog', 'kitti', "silog is 'kitti'"),
    ('min_depth', 0., 'expected 0 < min_depth < max_depth, found 0.0 and 10.0'),
    ('max_depth', float('nan'), 'found 0.001 and nan'),
    ('max_depth', '10', "max_depth is '10', expected a number"),
    ('scale_prediction', -1., 'scale_prediction is -1.0, expected a factor above 0'),
    ('batch_size', 0, 'batch_size is 0, expected a whole number above 0'),
    ('clamp', 'yes', "clamp is 'yes', expected one of True, False"),
    ('size', 256, r'size is 256, expected \(height, width\) or None'),
    ('size', (256, 0), r'expected \(height, width\) or None'),
    ('name', '', "name is ''"),
])
def test_protocol_checks_its_fields(field, value, message):
    with pytest.raises(ValueError, match=message): Protocol(**{'name': 'x', field: value})


@pytest.mark.parametrize('protocol', PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_protocol_is_stored_and_printed(protocol):
    stored = json.loads(json.dumps(protocol.to_dict()))
    assert Protocol.from_dict(stored) == protocol == get_protocol(protocol.name)
    assert '\n' not in str(protocol) and str(protocol).startswith(f'{protocol.name}: ')
    with pytest.raises(ValueError, match='unknown field colour'):
        Protocol.from_dict(protocol.to_dict() | {'colour': 1})


@pytest.mark.parametrize('name, low, high, crop', [
    ('nyu', 1e-3, 10, 'eigen'), ('kitti', 1e-3, 80, 'garg'), ('ibims', 1e-3, 50, 'none'),
    ('diode_indoor', 1e-3, 50, 'none'), ('diode_outdoor', .6, 300, 'none'),
    ('sunrgbd', 1e-3, 8, 'none'), ('tum', 1e-3, 10, 'none'), ('scannet', 1e-3, 10, 'none'),
    ('7scenes', 1e-3, 10, 'none')])
def test_benchmarks_have_protocols_and_name_their_source(name, low, high, crop):
    p = PROTOCOLS[name]
    assert (p.min_depth, p.max_depth, p.crop) == (low, high, crop)
    assert (p.align, p.average) == ('none', 'image') and PROTOCOL_SOURCES[name]


def test_protocols_that_differ_print_differently():
    base = Protocol('x')
    others = [replace(base, **change) for change in (
        {'min_depth': .1}, {'max_depth': 80.}, {'crop': 'garg'}, {'align': 'scale'},
        {'clamp': False},
        {'scale_prediction': 10.}, {'average': 'batch'}, {'average': 'batch', 'batch_size': 4},
        {'silog': 'silog_published'},
        {'size': (1, 2)}, {'align': 'scale', 'align_space': 'disparity'})]
    assert len({str(p) for p in [base, *others]}) == len(others) + 1
    with pytest.raises(ValueError, match="unknown protocol 'nope', expected one of metric"):
        get_protocol('nope')
