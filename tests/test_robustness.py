"Robustness: the published definitions, cameras that turn, intervals over scenes."
import math

import numpy as np
import pandas as pd
import pytest
import torch
from toy import write_synthdepth
from torch import nn

from synthdepth.data import loader, open_data
from synthdepth.evaluation import CAMERA_PERTURBATIONS, PERTURBATIONS, ConstantDepth, SentinelError
from synthdepth.evaluation import adjust_exposure, ce_rr, corrupt_sample, depth_estimation_error
from synthdepth.evaluation import measure_robustness
from synthdepth.evaluation import perturb, perturb_data, plot_curves, score_pictures, show_summary
from synthdepth.evaluation import summary, turn_camera


class Brightness(nn.Module):
    "Depth from the brightness of pixels: varied, and disturbed by every corruption."
    def __init__(self, gain=1.):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, rgb): return self.gain*(1 + 4*(1 - rgb.mean(1)))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=4, views=2))


@pytest.fixture
def batch(data): return next(iter(loader(data, size=None, batch_size=4)))


KEYS = ['a', 'b', 'c', 'd']
OPTIONS = dict(protocol='scale', show_anyway=True)


def test_dee_and_rates_by_hand():
    assert depth_estimation_error(.1, .9) == pytest.approx(.1) and depth_estimation_error(0, 1) == 0
    ce, rr = ce_rr([.3, .2], .1, [.15, .4])
    assert ce.tolist() == pytest.approx([200, 50]) and rr.tolist() == pytest.approx([700/9, 800/9])
    assert np.isnan(ce_rr([.3], .1)[0]).all()


def test_summary_is_the_published_definition(data):
    "CE_c: sum of DEE over that of the baseline; RR_c: sum of (1 - DEE) over n (1 - clean)."
    options = OPTIONS | dict(protocol='metric', corruptions=['fog', 'iso'], severities=(1, 3))
    rows = measure_robustness(Brightness(), data, baseline=Brightness(2.), **options)
    table, mean = summary(rows), rows.groupby(['model', 'corruption', 'severity']).dee.mean()
    for c in ('fog', 'iso'):
        assert table.ce[c] == pytest.approx(100*mean['model', c].sum()/mean['baseline', c].sum())
        left = (1 - mean['model', c]).sum()/(2*(1 - mean['model', 'clean', 0]))
        assert table.rr[c] == pytest.approx(100*left)
    assert table.ce['mean'] == pytest.approx(table.ce[:-1].mean())
    assert table.rr['mean'] == pytest.approx(table.rr[:-1].mean())
    assert table.attrs['clean'] == pytest.approx(mean['model', 'clean', 0])
    assert 'metric' in table.attrs['protocol']
    assert (table.ce_low < table.ce).all() and (table.ce < table.ce_high).all()


def test_rows_are_those_of_the_evaluation(data):
    "The loop on batches and the dataset that spoils as it reads agree."
    model = Brightness()
    rows = measure_robustness(model, data, corruptions=['snow', 'roll'], severities=[2],
                              batch_size=3, **OPTIONS)
    assert len(rows) == 3*len(data) and set(rows.corruption) == {'clean', 'snow', 'roll'}
    for name in ('snow', 'roll'):
        alone = score_pictures(model, perturb_data(data, name, 2), 'scale', batch_size=2)
        ours = rows[rows.corruption == name]
        assert np.allclose(ours.abs_rel, alone.abs_rel, rtol=1e-5)
        assert list(ours.scene) == list(alone.scene)


def test_clean_pictures_are_predicted_once(data):
    seen = []

    class Watched(Brightness):
        def forward(self, rgb):
            seen.append(len(rgb))
            return super().forward(rgb)
    rows = measure_robustness(Watched(), data, corruptions=['fog'], severities=[1, 2], **OPTIONS)
    assert sum(seen) == 3*len(data) == len(rows)


def test_one_way_to_corrupt_a_sample(data):
    sample = data[3]
    foggy = corrupt_sample(sample, 'fog', 3)
    assert (foggy.rgb == perturb_data(data, 'fog', 3)[3].rgb).all()
    assert (foggy.rgb != sample.rgb).any() and foggy.capture == sample.capture
    assert (foggy.depth == sample.depth).all() and (foggy.valid == sample.valid).all()


def test_the_same_numbers_whatever_the_batch(data):
    options = OPTIONS | dict(corruptions=['glass', 'pitch'], severities=[4])
    a, b = (measure_robustness(Brightness(), data, batch_size=n, **options) for n in (1, 8))
    keys = ['corruption', 'scene', 'view']
    pd.testing.assert_series_equal(a.sort_values(keys).dee.reset_index(drop=True),
                                   b.sort_values(keys).dee.reset_index(drop=True))


def test_one_scene_has_no_interval_and_no_baseline_no_ce(data):
    table = summary(measure_robustness(Brightness(), data.subset([0, 1]), corruptions=['gray'],
                                       severities=[1], **OPTIONS))
    assert table[['rr_low', 'rr_high', 'ce']].isna().all().all() and table.rr.notna().all()
    assert (show_summary(table)['CE ↓ (%)'] == '').all()


def test_an_artefact_is_refused(data):
    with pytest.raises(SentinelError, match='constant'):
        measure_robustness(ConstantDepth(2.), data, corruptions=['fog'], severities=[1])
    rows = measure_robustness(ConstantDepth(2.), data, corruptions=['fog'], severities=[1],
                              show_anyway=True)
    assert summary(rows).rr['mean'] == pytest.approx(100)


def test_faults_are_named(data):
    for arguments, message in [(dict(corruptions=['rain']), 'unknown change rain'),
                               (dict(protocol='published'), 'pools')]:
        with pytest.raises(ValueError, match=message):
            measure_robustness(Brightness(), data, **arguments)
    with pytest.raises(ValueError, match='unknown change'): perturb_data(data, 'rain', 1)
    with pytest.raises(ValueError, match='severity'):
        perturb({'rgb': 0, 'depth': 0, 'valid': 0}, 'roll', 6, [])
    with pytest.raises(ValueError, match='no corruption'):
        summary(measure_robustness(Brightness(), data, corruptions=[], **OPTIONS))


@pytest.mark.parametrize('name', PERTURBATIONS)
def test_every_change_keeps_the_contract(name, batch):
    new = perturb(batch, name, 3, KEYS)
    assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in batch.items()}
    assert new['valid'].dtype == torch.bool and (new['depth'][new['valid']] > 0).all()
    assert not torch.equal(new['rgb'], batch['rgb']) and new['rgb'].min() >= 0
    assert new['rgb'].max() <= 1
    if name not in ('fov', 'roll', 'pitch'): assert torch.equal(new['depth'], batch['depth'])
    if name in CAMERA_PERTURBATIONS: assert perturb(batch, name, 0, KEYS) is batch


def plane(b=1, height=48, width=64):
    "A slanted plane n.X = 1 and the camera it is seen by."
    camera = torch.tensor([60., 60., width/2, height/2]).expand(b, 4)
    u, v = (torch.arange(width) + .5 - width/2)/60, (torch.arange(height) + .5 - height/2)/60
    normal = torch.tensor([.05, -.08, .25])
    depth = 1/(normal[0]*u + normal[1]*v[:, None] + normal[2])
    return depth.expand(b, -1, -1).contiguous(), camera, normal, u, v


@pytest.mark.parametrize('pitch, roll, zoom',
                         [(12., 0., 1.), (-12., 0., 1.), (0., 25., 1.), (0., -25., 1.),
                          (0., 0., 1.6)])
def test_a_turned_camera_sees_the_turned_plane(pitch, roll, zoom):
    "The normal turns with the camera, and the new depth map is that of the turned plane."
    depth, camera, normal, u, v = plane()
    one = torch.ones(1)
    _, new, seen = turn_camera(torch.rand(1, 3, 48, 64), depth, depth > 0, camera, pitch*one,
                               roll*one, zoom*one)
    p, r = math.radians(pitch), math.radians(roll)
    up = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    turn = np.array([[math.cos(r), math.sin(r), 0], [-math.sin(r), math.cos(r), 0], [0, 0, 1]]) @ up
    n = turn @ normal.numpy()
    expected = 1/(n[0]*u/zoom + n[1]*v[:, None]/zoom + n[2])
    assert seen.float().mean() > .5
    # nearest neighbour of a slanted plane
    assert ((new[0] - expected).abs()/expected)[seen[0]].max() < .02
    assert not new[~seen].any() or pitch == roll == 0


def test_pitching_up_shows_what_is_above():
    rgb = torch.zeros(1, 3, 49, 65)
    rgb[:, :, :10] = 1
    flat, nan, one = torch.full((1, 49, 65), 3.), torch.full((1, 4), torch.nan), torch.ones(1)
    up, _, _ = turn_camera(rgb, flat, flat > 0, nan, 15*one, 0*one, one)
    assert up[0, 0, 20, 32] == 1 and up[0, 0, 48, 32] == 0


def test_no_change_of_the_camera_is_no_change():
    depth, camera, *_ = plane()
    rgb, zero = torch.rand(1, 3, 48, 64), torch.zeros(1)
    new, z, valid = turn_camera(rgb, depth, depth > 2, camera, zero, zero, zero + 1)
    assert torch.allclose(new, rgb, atol=1e-4) and torch.allclose(z, depth)
    assert torch.equal(valid, depth > 2)


def test_exposure_doubles_light():
    gray = torch.full((1, 3, 2, 2), .5)
    linear = ((.5 + .055)/1.055)**2.4
    brighter = adjust_exposure(gray, torch.ones(1))[0, 0, 0, 0].item()
    assert brighter == pytest.approx(1.055*(2*linear)**(1/2.4) - .055, abs=1e-6)
    assert torch.allclose(adjust_exposure(adjust_exposure(gray, -torch.ones(1)), torch.ones(1)),
                          gray, atol=1e-5)


def test_corrupted_data_reads_like_data(data):
    fov = perturb_data(data, 'fov', 5)
    s = fov[3]
    assert s.rgb.dtype == np.uint8 and s.rgb.shape == data[3].rgb.shape and len(fov) == len(data)
    assert fov.scenes == data.scenes
    assert s.capture.intrinsics.fx == 2*data[3].capture.intrinsics.fx
    part = fov.subset([3])
    assert len(part) == 1 and (part[0].rgb == s.rgb).all()
    assert (perturb_data(data, 'jpeg', 0)[0].rgb == data[0].rgb).all()


def test_curves_have_a_panel_each(data):
    rows = measure_robustness(Brightness(), data, corruptions=['fog', 'iso'], severities=[1, 2],
                              **OPTIONS)
    fig = plot_curves(rows, dict(model='ours'), 2)
    assert [ax.get_title() for ax in fig.axes] == ['fog', 'iso']
    assert len(fig.axes[0].lines[0].get_xdata()) == 3
