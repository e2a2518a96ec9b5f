import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from toy import write_synthdepth
from torch import nn

from synthdepth.data import open_data
from synthdepth.evaluation import Constant, SentinelError, bootstrap, compare, score_pictures
from synthdepth.evaluation import evaluate_all, evaluate_model, evaluate_models, evaluate_run
from synthdepth.evaluation import find_faults, prediction_grid, report, show_table
from synthdepth.evaluation import trivial_predictors, write_results
from synthdepth.training import finetune, make_recipe
from synthdepth.models import create_model, load_model


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


def test_perfect_predictions_score_perfectly(data):
    rows = score_pictures(Oracle(data), data)
    assert len(rows) == len(data) and rows.d1.min() == 1 and rows.abs_rel.max() < 1e-6
    assert rows.attrs['protocol'].startswith('metric: ')


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
    scores = {name: score_pictures(Oracle(data, lambda d, k=k: k*d), data) for name, k in factors.items()}
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


FILES = {'table.csv', 'differences.csv', 'rows.csv', 'table.md', 'table.json', 'grid.png'}


def without_parquet(folder): return {p.name for p in folder.iterdir() if p.suffix != '.parquet'}


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp('run')/'run'
    finetune(create_model('tiny', 'none'), data, make_recipe('corrected', epochs=1, height=64, width=64), run, progress=False)
    return run


def test_run_is_evaluated_on_its_own_test_scenes(data, run, tmp_path):
    origin = create_model('tiny', 'none')
    result = evaluate_run(run, original=origin, size=(48, 64), out=tmp_path/'out', show_anyway=True)
    assert without_parquet(tmp_path/'out') == FILES
    names = list(result['text'].index)
    assert names == ['original', 'fine-tuned', 'constant 10 m', 'training median', 'mean depth map', 'improvement']
    assert 'Protocol metric' in report(result)
    with pytest.raises(SentinelError, match='test scenes were trained on'): evaluate_run(run, data, origin)
    result = evaluate_run(run, data, origin, size=(48, 64), show_anyway=True)
    assert any('test scenes were trained on' in f for f in result['faults']) and '**sentinel:**' in report(result)


def test_run_that_did_not_learn_is_objected_to(run, tmp_path):
    with pytest.raises(SentinelError, match='bit by bit'): evaluate_run(run, original=load_model(run/'model'))
    about = json.loads((run/'run.json').read_text())
    about['asked']['recipe'] |= dict(select='train', frozen='backbone')
    shutil.copytree(run, tmp_path/'run')
    (tmp_path/'run'/'run.json').write_text(json.dumps(about | dict(frozen=0)))
    with pytest.raises(SentinelError, match='chosen by training loss.*no parameter was frozen'): evaluate_run(tmp_path/'run')


def healthy(data, noise):
    draw = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    return Oracle(data, lambda d: d*torch.exp(noise*draw))


def test_a_model_alone_and_with_a_baseline(data, tmp_path):
    alone = evaluate_models({'mine': healthy(data, .1)}, data, geometry=True)
    assert list(alone['text'].index) == ['mine', 'constant 10 m', "test set's median", "test set's mean depth map"]
    assert 'differences' not in alone and 'mine beats the best trivial predictor' in ' '.join(alone['verdict'])
    assert {'boundary_f1 ↑', 'normal_mean ↓ (deg)'} <= set(alone['text'].columns)
    both = evaluate_models({'theirs': healthy(data, .3), 'mine': healthy(data, .1)}, data)
    found = both['differences'].loc[('mine', 'abs_rel')]
    assert found.low > 0 and found.p < .05 and found.difference == both['table'].loc[('improvement', 'abs_rel'), 'mean']
    assert any(v.startswith('mine against theirs: better') for v in both['verdict'])
    write_results(both, tmp_path)
    stored = json.loads((tmp_path/'table.json').read_text())
    assert stored['protocol'] == both['protocol'] and stored['differences'][0]['model'] == 'mine'
    assert stored['table'][0]['mean'] == pytest.approx(both['table'].iloc[0]['mean'], rel=1e-12)
    rows = pd.read_csv(tmp_path/'rows.csv')
    assert list(rows.columns[:5]) == ['model', 'protocol', 'scene', 'view', 'rgb'] and len(rows) == 5*len(data)
    with pytest.raises(ValueError, match='found 3 models'): evaluate_models(dict.fromkeys('abc', Constant(2.)), data)


def test_a_dataset_is_read_once_for_all_models(data):
    read = []

    class Counted(type(data)):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)
    models = {'a': Constant(2.), 'b': healthy(data, .1), 'c': Constant(3.)}
    scores = evaluate_all(models, Counted(**vars(data)), geometry=True)
    assert sorted(read) == list(range(len(data)))
    for name, model in models.items(): pd.testing.assert_frame_equal(scores[name], score_pictures(model, data, geometry=True))


def test_too_few_scenes_show_no_difference_and_intervals_stay_possible(data):
    few = data.subset(range(8))  # four scenes: no test of signs can reach p < 0.05
    result = evaluate_models({'theirs': healthy(few, .3), 'mine': healthy(few, .1)}, few, geometry=True)
    assert any(v.startswith('mine against theirs: not shown to differ (d1, abs_rel') for v in result['verdict'])
    assert not any('better' in v or 'worse' in v for v in result['verdict']) and (result['differences'].p >= .125).all()
    levels = result['table'].drop('improvement', level='model')
    assert (levels.low >= 0).all() and (levels.xs('d1', level='metric').high <= 1).all()


def test_corruptions_come_in_as_a_function_and_are_written(data, tmp_path):
    asked = []

    def measure(model, data, protocol, baseline, size, show_anyway, names):
        asked.append((model, protocol.name, baseline, size, show_anyway, names))
        table = pd.DataFrame(dict(ce=[98.5]), index=pd.Index(['fog'], name='corruption'))
        return dict(table=table, text=table.map('{:.1f}'.format), rows=table.reset_index(), figure=plt.figure())

    models = {'theirs': healthy(data, .3), 'mine': healthy(data, .1)}
    result = evaluate_models(models, data, corruptions=measure)
    names = dict(baseline='theirs', model='mine')
    assert asked == [(models['mine'], 'metric', models['theirs'], None, False, names)] and '| fog | 98.5 |' in report(result)
    write_results(result, tmp_path)
    assert without_parquet(tmp_path) == FILES | {'corruptions.csv', 'corruptions_rows.csv', 'corruptions.png'}


def test_models_by_name_folder_weights_and_run(data, run, tmp_path):
    tiny = create_model('tiny')
    tiny.save(tmp_path/'saved')
    result = evaluate_model(tmp_path/'saved', data.root, baseline='tiny=none', show_anyway=True, size=(48, 64))
    assert list(result['text'].index[:2]) == ['tiny', 'saved']
    twice = evaluate_model('tiny', data, baseline='tiny', show_anyway=True, size=(48, 64))
    assert list(twice['text'].index[:2]) == ['tiny (baseline)', 'tiny'] and not (twice['table'].loc['improvement']['mean']).any()
    assert list(evaluate_model(run, data, baseline='tiny', show_anyway=True)['text'].index[:2]) == ['tiny', 'run']
    assert list(evaluate_model(run, show_anyway=True)['text'].index[:2]) == ['original', 'fine-tuned']
    with pytest.raises(FileNotFoundError, match='not a run folder'): evaluate_model('tiny')
    with pytest.raises(ValueError, match='a baseline needs data'): evaluate_model(run, baseline='tiny')
    with pytest.raises(ValueError, match='tinier'): evaluate_model('tinier', data)


def test_a_table_shows_no_difference_without_its_interval(data):
    scene = data.subset(data.scenes[data.captures[0].scene])
    result = evaluate_models({'theirs': healthy(scene, .3), 'mine': healthy(scene, .1)}, scene)
    assert set(result['text'].loc['improvement']) == {'not shown [one scene]'}
    assert all('[' in cell for cell in result['text'].to_numpy().ravel())


def test_prediction_that_is_not_finite_is_named(data):
    with pytest.raises(ValueError, match='not a finite number'):
        score_pictures(Oracle(data, lambda d: d*np.nan), data)


def test_grid_survives_a_picture_without_truth(data):
    class Blank(type(data)):
        def __getitem__(self, i):
            s = super().__getitem__(i)
            s.depth[:] = 0
            return s
        def subset(self, indices): return Blank(**vars(super().subset(indices)))
    blank = Blank(**vars(data))
    assert prediction_grid(blank, {'constant': Constant(2.)}, [0])
    rows = score_pictures(Constant(2.), blank)
    assert rows.abs_rel.isna().all() and 'no picture has a valid pixel' in find_faults(rows, 'metric')[0]
