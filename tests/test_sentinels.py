"Every sentinel on a small case that it must object to, and on a healthy one that it must let pass."
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toy import write_flat, write_synthdepth
from torch import nn

from synthdepth.data import open_data, split_by_scene, split_over_images
from synthdepth.metrics import PROTOCOLS
from synthdepth.models import create_model
from synthdepth.training import make_recipe
from synthdepth.evaluation import ConstantDepth, SentinelError, check_predictions, find_faults
from synthdepth.evaluation import score_pictures
from synthdepth.evaluation import find_leaks, find_mask_faults, find_mismatches, find_run_faults
from synthdepth.evaluation import find_unchanged, stop_at_faults


class Oracle(nn.Module):
    "The truth, changed by a function; it keeps the pictures it will be asked about."
    def __init__(self, data, change=lambda d: d, predicts='metric'):
        super().__init__()
        self.known = {s.rgb.tobytes(): torch.tensor(s.depth) for s in data}
        self.change, self.predicts = change, predicts

    def forward(self, rgb):
        keys = [(x.permute(1, 2, 0)*255).round().byte().numpy().tobytes() for x in rgb]
        return torch.stack([self.change(torch.where(self.known[k] > 0, self.known[k], 5.))
                            for k in keys])


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=8, views=2))


def noise(d):
    return torch.randn(d.shape, generator=torch.Generator().manual_seed(int(d.sum()*1000) % 2**31))
def noisy(d): return d*torch.exp(.1*noise(d))


@pytest.mark.parametrize('change, message', [
    (lambda d: torch.full_like(d, 3.), 'constant at 3.000 m'),
    (lambda d: 3 + .01*noise(d), 'constant at 3.000 m'),
    (lambda d: d*100, 'lie on the clamp'),
    (lambda d: d/10, 'near 0.1: a unit is wrong'),
    (lambda d: d/1000, 'near 0.001: a unit is wrong'),
    (lambda d: 12-d.clamp(max=11.5), 'opposite to the truth'),
    (lambda d: 4 - .2*d + 2*noise(d), 'opposite to the truth'),
    (lambda d: 5/d, 'opposite to the truth')])
def test_predictions_are_objected_to(data, change, message):
    rows = score_pictures(Oracle(data, change), data)
    with pytest.raises(SentinelError, match=message): check_predictions(rows, 'metric')
    assert any(message in f for f in check_predictions(rows, 'metric', show_anyway=True))


@pytest.mark.parametrize('change',
                         [lambda d: d, noisy, lambda d: 1.3*d, lambda d: .6*d, lambda d: d+.5,
                          lambda d: 2+.2*d,
                                    lambda d: 3 + noise(d).clamp(-2, 2)])
def test_healthy_predictions_pass(data, change):
    assert find_faults(score_pictures(Oracle(data, change), data), 'metric') == []


@pytest.mark.parametrize('factor', [10, 100, 1000, .1, .01])
def test_unit_factor_without_clamp(data, factor):
    protocol = replace(PROTOCOLS['metric'], name='open', max_depth=20000., clamp=False)
    faults = find_faults(score_pictures(Oracle(data, lambda d: factor*noisy(d)), data, protocol),
                         protocol)
    assert len(faults) == 1 and f'near {factor:g}: ' in faults[0]
    assert find_faults(score_pictures(Oracle(data, lambda d: 3*noisy(d)), data, protocol),
                       protocol) == []


def test_published_protocol_is_named_as_the_cause(data):
    protocol = replace(PROTOCOLS['published'], size=None)
    rows = score_pictures(Oracle(data), data, protocol)
    with pytest.raises(SentinelError,
                       match='multiplies predictions by 10.*turns everything above 1 m into 10 m'):
        check_predictions(rows, protocol)
    constant = score_pictures(ConstantDepth(10.), data, protocol)
    names = ['abs_rel', 'rmse', 'mae']
    assert rows[names].to_numpy() == pytest.approx(constant[names].to_numpy(), rel=1e-3)


def rank_rows(ranks, scenes):
    return pd.DataFrame(dict(scene=scenes, rank=ranks, mean=3., std=1., true_mean=3., true_std=1.,
                             saturated=0., ratio=1.1))


def test_order_close_to_zero_is_honest_and_below_it_is_not():
    rng = np.random.default_rng(0)
    for mean, objects in ((0., False), (-.02, False), (-.1, True), (-.2, True), (.1, False)):
        rows = rank_rows(mean + .2*rng.normal(size=40), np.arange(40))
        assert bool(find_faults(rows, 'metric')) == objects, mean
    # little, but in nearly every scene
    steady = rank_rows(-.05 + .05*rng.normal(size=40), np.arange(40))
    assert 'opposite to the truth (rank correlation -0.0' in find_faults(steady, 'metric')[0]
    noise = rank_rows(-.2 + .6*rng.normal(size=6), np.arange(6))
    assert find_faults(noise, 'metric') == []  # below 0, but six scenes cannot tell
    # one scene: a stricter limit
    assert find_faults(rank_rows(np.full(30, -.2), np.zeros(30)), 'metric') == []
    assert find_faults(rank_rows(np.full(30, -.4), np.zeros(30)), 'metric')


def test_disparity_runs_the_right_way_and_its_opposite_does_not(data):
    for change, objects in ((lambda d: 1/d, False), (lambda d: d, True)):
        rows = score_pictures(Oracle(data, change, 'disparity'), data, 'affine_disparity')
        assert bool(find_faults(rows, 'affine_disparity')) == objects


def test_inverted_order_is_scored_as_a_constant_and_named(data):
    rows = score_pictures(Oracle(data, lambda d: 12 - d), data, 'affine_depth')
    assert rows.abs_rel.min() > .1 and 'opposite' in ' '.join(find_faults(rows, 'affine_depth'))


def filled(data, value, holes):
    "The dataset with its holes stored as a depth."
    class Stored(type(data)):
        def __getitem__(self, i):
            s = super().__getitem__(i)
            s.depth[holes(s)] = value
            return s
    return Stored(**vars(data))


@pytest.mark.parametrize('value', [9.99, .01])
def test_missing_mask(data, value):
    def holes(s): return s.depth == 0
    assert np.mean([holes(s).mean() for s in data]) > .05
    faults = find_mask_faults(score_pictures(ConstantDepth(3.), filled(data, value, holes),
                                             'metric'), 'toy')
    assert len(faults) == 1 and f'have the truth {value:g} m exactly' in faults[0]


def test_masked_truth_and_coarse_labels_pass(data, tmp_path):
    assert find_mask_faults(score_pictures(ConstantDepth(3.), data, 'metric')) == []
    coarse = open_data(write_flat(tmp_path/'flat', scenes=6, views=2), views=2)  # 8 bit
    assert find_mask_faults(score_pictures(ConstantDepth(3.), coarse, 'metric')) == []

    def wall(s):  # each picture ends in a flat wall, at its own depth
        return s.depth > np.quantile(s.depth, .8)
    class Walls(type(data)):
        def __getitem__(self, i):
            s = super().__getitem__(i)
            s.depth[wall(s)] = 5 + .1*i
            return s
    assert find_mask_faults(score_pictures(ConstantDepth(3.), Walls(**vars(data)), 'metric')) == []


def test_resolution_mismatch(data):
    class Half(Oracle):
        def forward(self, rgb): return super().forward(rgb)[:, ::2, ::2]
    with pytest.raises(SentinelError,
                       match=r'shape \(8, 24, 32\), expected that of the truth, \(8, 48, 64\)'):
        score_pictures(Half(data), data)
    native = score_pictures(Oracle(data), data)
    small = score_pictures(ConstantDepth(2.), data, size=(24, 32))
    assert 'different pixels in 16 of 16 pictures' in find_mismatches({'a': native, 'b': small})[0]
    assert find_mismatches({'a': native, 'b': score_pictures(ConstantDepth(2.), data)}) == []
    median = score_pictures(ConstantDepth(2.), data, 'median')
    assert 'different protocols' in find_mismatches({'a': native, 'b': median})[0]
    assert 'different pictures' in find_mismatches({'a': native, 'b': native[:4]})[0]


def test_leaks(data, tmp_path):
    fair, leaky = split_by_scene(data), split_over_images(data)
    assert find_leaks(fair['train'], fair['test']) == []
    faults = find_leaks(leaky['train'], leaky['test'])
    assert len(faults) == 1 and 'test scenes were trained on, for example' in faults[0]
    again = tmp_path/'again'  # the same pictures, through JPEG, under other names
    write_synthdepth(again, scenes=3, views=1, preset='renamed')
    for file in again.glob('rgb/*.png'):
        packed = BytesIO()
        Image.open(file).save(packed, 'JPEG', quality=85)
        Image.open(packed).save(file)
    copies = open_data(again)
    assert not set(copies.scenes) & set(data.scenes)
    faults = find_leaks(data, copies)
    assert len(faults) == 1 and faults[0].startswith('3 of 3 test pictures are near-duplicates')
    assert find_leaks(data, copies, pictures=False) == []
    other = open_data(write_synthdepth(tmp_path/'other', scenes=8, views=2, seed=1))
    assert find_leaks(data, other) == []


def about(recipe='corrected', groups='', count=0):
    return dict(asked=dict(recipe=vars(make_recipe(recipe, frozen=groups))), frozen=count)


def test_run_records():
    healthy = pd.DataFrame(dict(epoch=[0, 1, 2], steps=[np.nan, 100, 100], skipped=[np.nan, 0, 3]))
    assert find_run_faults(about(), healthy) == []
    assert 'chosen by training loss' in find_run_faults(about('published'))[0]
    frozen = find_run_faults(about(groups='backbone'))
    assert "freezes 'backbone', but no parameter was frozen" in frozen[0]
    assert find_run_faults(about(groups='encoder', count=10_000)) == []
    skipping = find_run_faults(about(), healthy.assign(skipped=[np.nan, 0, 60]))
    assert '60 of 200 optimiser steps were skipped' in skipping[0]


def test_unchanged_weights_and_predictions(data):
    tiny, other = create_model('tiny', 'none'), create_model('tiny', 'none')
    assert 'bit by bit' in find_unchanged(tiny, tiny)[0]
    assert find_unchanged(tiny, other) == []
    assert find_unchanged(ConstantDepth(2.), ConstantDepth(3.)) == []  # nothing to compare
    one, two = score_pictures(ConstantDepth(2.), data), score_pictures(ConstantDepth(3.), data)
    assert find_unchanged(tiny, other, {'original': one, 'fine-tuned': two}) == []
    assert 'predict the same' in find_unchanged(tiny, other,
                                                {'original': one, 'fine-tuned': one})[0]


def test_objections_are_raised_or_returned():
    assert stop_at_faults([]) == [] and stop_at_faults(['a', 'b'], show_anyway=True) == ['a', 'b']
    with pytest.raises(SentinelError, match=r'no table.*a \| b.*show_anyway'):
        stop_at_faults(['a', 'b'])
