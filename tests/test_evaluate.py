from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toy import write_synthdepth
from torch import nn

from synthdepth.data import open_data
from synthdepth.evaluate import compare, evaluate_run, prediction_grid, report, show_table
from synthdepth.finetune import finetune
from synthdepth.metrics import PROTOCOLS
from synthdepth.models import create_model
from synthdepth.recipes import make_recipe
from synthdepth.scores import (Constant, SentinelError, bootstrap, check_predictions, evaluate, find_faults,
                               trivial_predictors)


class Oracle(nn.Module):
    "The truth, changed by a function; it keeps the pictures it will be asked about."
    def __init__(self, data, change=lambda d: d):
        super().__init__()
        self.known = {s.rgb.tobytes(): torch.tensor(s.depth) for s in data}
        self.change = change

    def forward(self, rgb):
        keys = [(x.permute(1, 2, 0)*255).round().byte().numpy().tobytes() for x in rgb]
        return torch.stack([self.change(torch.where(self.known[k] > 0, self.known[k], 5.)) for k in keys])


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=8, views=2))


def noisy(d): return d*torch.exp(.1*torch.randn(d.shape, generator=torch.Generator().manual_seed(0)))


def test_perfect_predictions_score_perfectly(data):
    rows = evaluate(Oracle(data), data)
    assert len(rows) == len(data) and rows.d1.min() == 1 and rows.abs_rel.max() < 1e-6
    assert rows.attrs['protocol'].startswith('metric: ')


@pytest.mark.parametrize('change, message', [
    (lambda d: torch.full_like(d, 3.), 'constant at 3.000 m'),
    (lambda d: d*100, 'lie on the clamp'),
    (lambda d: d/1000, 'near 0.001: a unit is wrong'),
    (lambda d: 12-d.clamp(max=11.5), 'opposite to the truth')])
def test_sentinels_object(data, change, message):
    rows = evaluate(Oracle(data, change), data)
    with pytest.raises(SentinelError, match=message): check_predictions(rows, 'metric')
    assert any(message in f for f in check_predictions(rows, 'metric', show_anyway=True))


@pytest.mark.parametrize('change', [lambda d: d, noisy, lambda d: 1.3*d, lambda d: d+.5, lambda d: 2+.2*d])
def test_sentinels_let_healthy_predictions_pass(data, change):
    assert find_faults(evaluate(Oracle(data, change), data), 'metric') == []


def test_unit_factor_without_clamp(data):
    protocol = replace(PROTOCOLS['metric'], name='open', max_depth=1000., clamp=False)
    faults = find_faults(evaluate(Oracle(data, lambda d: 10*d), data, protocol), protocol)
    assert len(faults) == 1 and 'near 10' in faults[0]


def test_published_protocol_is_named_as_the_cause(data):
    protocol = replace(PROTOCOLS['published'], size=None)
    rows = evaluate(Oracle(data), data, protocol)
    with pytest.raises(SentinelError, match='multiplies predictions by 10.*turns everything above 1 m into 10 m'):
        check_predictions(rows, protocol)
    constant = evaluate(Constant(10.), data, protocol)
    assert rows[['abs_rel', 'rmse', 'mae']].to_numpy() == pytest.approx(constant[['abs_rel', 'rmse', 'mae']].to_numpy(), rel=1e-3)


def test_bootstrap_against_theory():
    "With one picture per scene the interval is that of a mean, up to the t quantile."
    rng = np.random.default_rng(0)
    rows, x = pd.DataFrame(dict(scene=np.arange(400))), rng.normal(2, 1, 400)
    mean, low, high = bootstrap(rows, x)
    assert mean == pytest.approx(x.mean())
    assert (high-low)/2 == pytest.approx(1.96*x.std()/20, rel=.1)


def test_bootstrap_coverage():
    "About 95 % of intervals hold the true mean, though views of a scene agree with each other."
    rng, hits = np.random.default_rng(1), 0
    for k in range(200):
        x = (rng.normal(size=30)[:, None] + .1*rng.normal(size=(30, 5))).ravel()
        _, low, high = bootstrap(pd.DataFrame(dict(scene=np.repeat(np.arange(30), 5))), x, draws=300, seed=k)
        hits += low <= 0 <= high
    assert .88 <= hits/200 <= .98


def test_one_scene_has_no_interval():
    mean, low, high = bootstrap(pd.DataFrame(dict(scene=[0, 0])), [1., 3.])
    assert mean == 2 and np.isnan(low) and np.isnan(high)


def test_improvement_is_paired_and_signed(data):
    factors = {'original': .7, 'fine-tuned': .9}
    scores = {name: evaluate(Oracle(data, lambda d, k=k: k*d), data) for name, k in factors.items()}
    table = compare(scores)
    for metric in ('d1', 'abs_rel', 'rmse', 'mae'):
        assert table.loc[('improvement', metric), 'low'] > 0, metric
    assert table.loc[('improvement', 'abs_rel'), 'mean'] == pytest.approx(.2, abs=1e-4)
    assert 'improvement' in show_table(table).index


def test_trivial_predictors_know_the_training_set_only(data):
    t = trivial_predictors(data)
    depth = np.concatenate([s.depth[(s.depth > .001) & (s.depth < 10)] for s in data])
    assert t['training median'].depth == pytest.approx(np.median(depth), rel=.05)
    assert t['constant 10 m'].depth == 10


def test_run_is_evaluated_on_its_own_test_scenes(data, tmp_path):
    torch.manual_seed(0)
    recipe = make_recipe('corrected', epochs=1, height=64, width=64)
    finetune(create_model('tiny', 'none'), data, recipe, tmp_path/'run', progress=False)
    origin = create_model('tiny', 'none')
    result = evaluate_run(tmp_path/'run', original=origin, size=(48, 64), out=tmp_path/'out', show_anyway=True)
    assert {p.name for p in (tmp_path/'out').iterdir()} == {'table.csv', 'rows.csv', 'table.md', 'grid.png'}
    names = list(result['text'].index)
    assert names == ['original', 'fine-tuned', 'constant 10 m', 'training median', 'mean depth map', 'improvement']
    assert 'Protocol metric' in report(result)
    with pytest.raises(SentinelError, match='test scenes were trained on'):
        evaluate_run(tmp_path/'run', data, origin, show_anyway=True)


def test_prediction_that_is_not_finite_is_named(data):
    with pytest.raises(ValueError, match='not a finite number'):
        evaluate(Oracle(data, lambda d: d*np.nan), data)


def test_grid_survives_a_picture_without_truth(data):
    class Blank(type(data)):
        def __getitem__(self, i):
            s = super().__getitem__(i)
            s.depth[:] = 0
            return s
        def subset(self, indices): return Blank(**vars(super().subset(indices)))
    blank = Blank(**vars(data))
    assert prediction_grid(blank, {'constant': Constant(2.)}, [0])
    rows = evaluate(Constant(2.), blank)
    assert rows.abs_rel.isna().all() and 'no picture has a valid pixel' in find_faults(rows, 'metric')[0]
