import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toy import write_synthdepth
from torch import nn

from synthdepth.data import DepthData, open_data
from synthdepth.evaluation import GAP, HEAD, BAR_HEIGHT, ConstantDepth, PredictedCapture
from synthdepth.evaluation import PredictionError, SentinelError, bootstrap, compare, evaluate_model
from synthdepth.evaluation import evaluate_models, evaluate_run, find_faults, panel_page, predict
from synthdepth.evaluation import prediction_grid, report, score_models, score_pictures, show_table
from synthdepth.evaluation import NothingToScore, measure_robustness, named_model, with_range
from synthdepth.evaluation import trivial_predictors, write_results
from synthdepth.files import WriteError
from synthdepth.metrics import get_protocol
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
        return torch.stack([self.change(torch.where(self.known[k] > 0, self.known[k], 5.))
                            for k in keys])


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
        _, low, high = bootstrap(pd.DataFrame(dict(scene=np.repeat(np.arange(30), 5))), x,
                                 draws=300, seed=k)
        hits += low <= 0 <= high
    assert .88 <= hits/200 <= .98


def test_one_scene_has_no_interval():
    mean, low, high = bootstrap(pd.DataFrame(dict(scene=[0, 0])), [1., 3.])
    assert mean == 2 and np.isnan(low) and np.isnan(high)


def test_improvement_is_paired_and_signed(data):
    factors = {'original': .7, 'fine-tuned': .9}
    scores = {name: score_pictures(Oracle(data, lambda d, k=k: k*d), data)
              for name, k in factors.items()}
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
    finetune(create_model('tiny', 'none'), data,
             make_recipe('corrected', epochs=1, height=64, width=64), run, progress=False)
    return run


def test_run_is_evaluated_on_its_own_test_scenes(data, run, tmp_path):
    origin = create_model('tiny', 'none')
    result = evaluate_run(run, original=origin, size=(48, 64), out=tmp_path/'out', show_anyway=True)
    assert without_parquet(tmp_path/'out') == FILES
    names = list(result['text'].index)
    assert names == ['original', 'fine-tuned', 'constant 10 m', 'training median', 'mean depth map',
                     'improvement']
    assert 'Protocol metric' in report(result)
    with pytest.raises(SentinelError, match='test scenes were trained on'):
        evaluate_run(run, data, origin)
    result = evaluate_run(run, data, origin, size=(48, 64), show_anyway=True)
    assert any('test scenes were trained on' in f for f in result['faults'])
    assert '**sentinel:**' in report(result)


def test_run_that_did_not_learn_is_objected_to(run, tmp_path):
    with pytest.raises(SentinelError, match='bit by bit'):
        evaluate_run(run, original=load_model(run/'model'))
    about = json.loads((run/'run.json').read_text())
    about['asked']['recipe'] |= dict(select='train', frozen='backbone')
    shutil.copytree(run, tmp_path/'run')
    (tmp_path/'run'/'run.json').write_text(json.dumps(about | dict(frozen=0)))
    with pytest.raises(SentinelError, match='chosen by training loss.*no parameter was frozen'):
        evaluate_run(tmp_path/'run')


def healthy(data, noise):
    draw = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    return Oracle(data, lambda d: d*torch.exp(noise*draw))


def test_a_model_alone_and_with_a_baseline(data, tmp_path):
    alone = evaluate_models({'mine': healthy(data, .1)}, data, geometry=True)
    assert list(alone['text'].index) == ['mine', 'constant 10 m', "test set's median",
                                         "test set's mean depth map"]
    assert 'differences' not in alone
    assert 'mine beats the best trivial predictor' in ' '.join(alone['verdict'])
    assert {'boundary_f1 ↑', 'normal_mean ↓ (deg)'} <= set(alone['text'].columns)
    both = evaluate_models({'theirs': healthy(data, .3), 'mine': healthy(data, .1)}, data)
    found = both['differences'].loc[('mine', 'abs_rel')]
    assert found.low > 0 and found.p < .05
    assert found.difference == both['table'].loc[('improvement', 'abs_rel'), 'mean']
    assert any(v.startswith('mine against theirs: better') for v in both['verdict'])
    write_results(both, tmp_path)
    stored = json.loads((tmp_path/'table.json').read_text())
    assert stored['protocol'] == both['protocol'] and stored['differences'][0]['model'] == 'mine'
    assert stored['table'][0]['mean'] == pytest.approx(both['table'].iloc[0]['mean'], rel=1e-12)
    rows = pd.read_csv(tmp_path/'rows.csv')
    assert list(rows.columns[:5]) == ['model', 'protocol', 'scene', 'view', 'rgb']
    assert len(rows) == 5*len(data)
    with pytest.raises(ValueError, match='found 3 models'):
        evaluate_models(dict.fromkeys('abc', ConstantDepth(2.)), data)


def test_a_dataset_is_read_once_for_all_models(data):
    read = []

    class Counted(type(data)):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)
    models = {'a': ConstantDepth(2.), 'b': healthy(data, .1), 'c': ConstantDepth(3.)}
    scores = score_models(models, Counted(**vars(data)), geometry=True)
    assert sorted(read) == list(range(len(data)))
    for name, model in models.items():
        pd.testing.assert_frame_equal(scores[name], score_pictures(model, data, geometry=True))


def test_too_few_scenes_show_no_difference_and_intervals_stay_possible(data):
    few = data.subset(range(8))  # four scenes: no test of signs can reach p < 0.05
    result = evaluate_models({'theirs': healthy(few, .3), 'mine': healthy(few, .1)}, few,
                             geometry=True)
    assert any(v.startswith('mine against theirs: not shown to differ (d1, abs_rel')
               for v in result['verdict'])
    assert not any('better' in v or 'worse' in v for v in result['verdict'])
    assert (result['differences'].p >= .125).all()
    levels = result['table'].drop('improvement', level='model')
    assert (levels.low >= 0).all() and (levels.xs('d1', level='metric').high <= 1).all()


def test_corruptions_come_in_as_a_function_and_are_written(data, tmp_path):
    asked = []

    def measure(model, data, protocol, baseline, size, show_anyway, names):
        asked.append((model, protocol.name, baseline, size, show_anyway, names))
        table = pd.DataFrame(dict(ce=[98.5]), index=pd.Index(['fog'], name='corruption'))
        return dict(table=table, text=table.map('{:.1f}'.format), rows=table.reset_index(),
                    figure=plt.figure())

    models = {'theirs': healthy(data, .3), 'mine': healthy(data, .1)}
    result = evaluate_models(models, data, corruptions=measure)
    names = dict(baseline='theirs', model='mine')
    assert asked == [(models['mine'], 'metric', models['theirs'], None, False, names)]
    assert '| fog | 98.5 |' in report(result)
    write_results(result, tmp_path)
    assert without_parquet(tmp_path) == FILES | {'corruptions.csv', 'corruptions_rows.csv',
                                                 'corruptions.png'}


def test_models_by_name_folder_weights_and_run(data, run, tmp_path):
    tiny = create_model('tiny')
    tiny.save(tmp_path/'saved')
    result = evaluate_model(tmp_path/'saved', data.root, baseline='tiny=none', show_anyway=True,
                            size=(48, 64))
    assert list(result['text'].index[:2]) == ['tiny', 'saved']
    twice = evaluate_model('tiny', data, baseline='tiny', show_anyway=True, size=(48, 64))
    assert list(twice['text'].index[:2]) == ['tiny (baseline)', 'tiny']
    assert not (twice['table'].loc['improvement']['mean']).any()
    against_tiny = evaluate_model(run, data, baseline='tiny', show_anyway=True)
    assert list(against_tiny['text'].index[:2]) == ['tiny', 'run']
    alone = evaluate_model(run, show_anyway=True)
    assert list(alone['text'].index[:2]) == ['original', 'fine-tuned']
    with pytest.raises(FileNotFoundError, match='not a run folder'): evaluate_model('tiny')
    own = evaluate_model(run, baseline='tiny', show_anyway=True)
    assert list(own['text'].index[:2]) == ['tiny', 'run'] and own['n'] == alone['n']
    with pytest.raises(ValueError, match='tinier'): evaluate_model('tinier', data)


def test_a_table_shows_no_difference_without_its_interval(data):
    scene = data.subset(data.scenes[data.captures[0].scene])
    result = evaluate_models({'theirs': healthy(scene, .3), 'mine': healthy(scene, .1)}, scene)
    assert set(result['text'].loc['improvement']) == {'not shown [one scene]'}
    assert all('[' in cell for cell in result['text'].to_numpy().ravel())


def test_prediction_that_is_no_depth_is_named_and_scored_as_wrong(data):
    def holes(value): return Oracle(data, lambda d: torch.where(d > 2, value, d))
    for value, said in ((torch.nan, 'nan or infinite'), (torch.inf, 'nan or infinite'),
                        (-1., '0 or negative'), (0., '0 or negative')):
        rows = score_pictures(holes(value), data)
        assert rows.abs_rel.notna().all() and (rows.d1 < 1).any()
        assert said in ' '.join(find_faults(rows, 'metric')), value
        with pytest.raises(SentinelError, match=said): evaluate_models({'a': holes(value)}, data)
        assert evaluate_models({'a': holes(value)}, data, show_anyway=True)['faults']
    whole = score_pictures(Oracle(data), data)
    assert not whole.not_finite.any() and not whole.not_positive.any()


def test_grid_survives_a_picture_without_truth(data):
    class Blank(type(data)):
        def __getitem__(self, i):
            s = super().__getitem__(i)
            s.depth[:] = 0
            return s
        def subset(self, indices): return Blank(**vars(super().subset(indices)))
    blank = Blank(**vars(data))
    assert prediction_grid(blank, {'constant': ConstantDepth(2.)}, [0])
    rows = score_pictures(ConstantDepth(2.), blank)
    assert rows.abs_rel.isna().all()
    assert 'no picture has a valid pixel' in find_faults(rows, 'metric')[0]


def counted(data):
    "The dataset, and the list of the captures that were read."
    read = []

    class Counted(type(data)):
        def __getitem__(self, i):
            read.append(self.captures[i].rgb.name)
            return super().__getitem__(i)
    return Counted(**vars(data)), read


def test_an_evaluation_reads_its_test_set_once_and_predicts_each_picture_once(data):
    train, test = data.subset(range(8)), data.subset(range(8, 16))
    (train, trained_on), (test, tested_on) = counted(train), counted(test)
    calls = []

    class Watched(nn.Module):
        def forward(self, rgb):
            calls.append(len(rgb))
            return oracle(rgb)
    oracle = healthy(data, .1)
    result = evaluate_models({'mine': Watched()}, test, train=train)
    assert sorted(tested_on) == sorted(c.rgb.name for c in test.captures)
    assert sorted(trained_on) == sorted(c.rgb.name for c in train.captures)
    assert sum(calls) == len(test) and result['grid'].height == 4*(HEAD + 168 + GAP) + BAR_HEIGHT


def test_copies_of_training_pictures_are_found_in_the_same_pass(data):
    other = replace(data, captures=tuple(replace(c, scene=f'again {c.scene}')
                                         for c in data.captures))
    with pytest.raises(SentinelError, match='near-duplicates of training pictures'):
        evaluate_models({'mine': healthy(data, .1)}, other, train=data)


def test_one_way_to_predict():
    rgb = torch.rand(2, 3, 8, 12, requires_grad=True)
    layer = nn.Conv2d(3, 1, 1).train()
    depth = predict(nn.Sequential(layer, nn.Flatten(1, 2)), rgb)
    assert depth.shape == (2, 8, 12) and not depth.requires_grad and not layer.training
    assert predict(lambda x: x[:, 0].detach().double().numpy(), rgb).dtype == torch.float32
    message = r'predicted shape \(2, 1, 8, 12\), expected \(2, 8, 12\)'
    with pytest.raises(PredictionError, match=message): predict(layer, rgb)
    assert issubclass(PredictionError, ValueError)


def capture(title='a', shape=(24, 32)):
    depth = np.linspace(1, 5, shape[0]*shape[1], dtype=np.float32).reshape(shape)
    valid = depth < 4.5
    shown = {'near': depth - .5, 'far': depth + .5}
    rgb = np.full((*shape, 3), 200, np.uint8)
    return PredictedCapture(title, rgb, depth, valid, shown, dict.fromkeys(shown, valid))


def test_a_page_has_a_row_for_each_capture_or_for_each_model():
    step, height = 64 + GAP, HEAD + 48 + GAP
    options = dict(width=64, limits=(1., 4.5), reach=1.)
    of_captures = panel_page([capture('a'), capture('b'), capture('c')], **options)
    assert of_captures.size == (6*step - GAP, 3*height + BAR_HEIGHT)
    of_models = panel_page([capture()], rows='models', **options)
    assert of_models.size == (4*step - GAP, 2*height + BAR_HEIGHT)
    a, b = np.asarray(of_captures), np.asarray(of_models)
    for row, (prediction, error) in enumerate(((2, 4), (3, 5))):  # near, far
        y, top = row*height + HEAD, slice(HEAD, HEAD + 48)
        for column, there in ((2, prediction), (3, error)):
            ours = a[top, there*step:there*step + 64]
            assert (ours == b[y:y + 48, column*step:column*step + 64]).all()
    red, blue = (a[HEAD, c*step].astype(int) for c in (4, 5))
    assert red[0] > red[2] and blue[2] > blue[0]


def test_a_page_without_models_or_with_one_that_failed():
    assert panel_page([capture()], names=[], width=64).width == 2*(64 + GAP) - GAP
    assert panel_page([capture()], ['near', 'gone'], width=64).width == 6*(64 + GAP) - GAP
    with pytest.raises(ValueError, match='no captures to draw'): panel_page([])


class Emptied(DepthData):
    "Without depth in every third picture."
    def __getitem__(self, i):
        s = super().__getitem__(i)
        if self.captures[i].view == 0: s.depth[:] = 0
        return s


def test_a_table_counts_the_pictures_that_have_a_score(data):
    some = Emptied(**vars(data))
    result = evaluate_models({'theirs': healthy(data, .3), 'mine': healthy(data, .1)}, some,
                             show_anyway=True)  # so few views of these floors end alike
    assert result['n'] == '8 of 16 pictures, of 8 scenes (8 without a pixel that counts)'
    assert result['n'] in report(result) and (result['differences'].scenes == 8).all()
    whole = evaluate_models({'theirs': healthy(data, .3), 'mine': healthy(data, .1)}, data)
    assert whole['n'] == '16 pictures of 8 scenes'
    kept = [i for i, c in enumerate(data.captures) if c.view]
    alone = score_pictures(healthy(data, .1), data.subset(kept))
    mean = result['table'].loc[('mine', 'abs_rel'), 'mean']
    assert mean == pytest.approx(alone.abs_rel.mean(), abs=0)


def test_with_nothing_to_score_there_is_no_table_even_on_request(data):
    far = replace(get_protocol('metric'), name='far', min_depth=90., max_depth=99.)
    for train in (None, data.subset(range(4))):
        for anyway in (False, True):
            with pytest.raises(NothingToScore, match='--max-depth') as e:
                evaluate_models({'a': ConstantDepth(2.)}, data.subset(range(8, 16)), far,
                                train=train, show_anyway=anyway)
            assert e.value.exit_code == 3 and '100%' in str(e.value)

    class Blank(DepthData):
        def __getitem__(self, i):
            s = super().__getitem__(i)
            s.depth[:] = 0
            return s
    with pytest.raises(NothingToScore, match='no depth above 0'):
        evaluate_models({'a': ConstantDepth(2.)}, Blank(**vars(data)))


def test_a_run_is_scored_in_the_range_it_was_trained_in(tmp_path):
    "Depth of 6 to 70 m: constants of 24 and 79 m are not the same."
    street = write_synthdepth(tmp_path/'street', scenes=10, views=1)
    for path in (street/'depth').iterdir():
        codes = np.array(Image.open(path)).astype(float)*5
        Image.fromarray(codes.clip(0, 65535).astype(np.uint16)).save(path)
    torch.manual_seed(0)
    recipe = make_recipe('corrected', epochs=1, height=64, width=64, max_depth=80.)
    finetune(create_model('tiny', 'none'), street, recipe, tmp_path/'run', progress=False)
    result = evaluate_run(tmp_path/'run', show_anyway=True)
    assert '0.001 < depth < 80 m' in result['protocol'] and 'constant 80 m' in result['scores']
    scores = score_models({'24': ConstantDepth(24.), '79': ConstantDepth(79.)}, open_data(street),
                          with_range('metric', max_depth=80.))
    assert scores['24'].abs_rel.mean() < .7*scores['79'].abs_rel.mean()
    asked = evaluate_run(tmp_path/'run', protocol='metric', show_anyway=True)
    assert '0.001 < depth < 10 m' in asked['protocol']
    assert any('is not scored; max_depth (--max-depth)' in note for note in asked['notes'])
    alone = evaluate_model('tiny', street, max_depth=80., show_anyway=True)
    assert '0.001 < depth < 80 m' in alone['protocol']


def test_a_run_whose_data_moved_or_are_gone(data, tmp_path):
    home = shutil.copytree(data.root, tmp_path/'home')
    torch.manual_seed(0)
    recipe = make_recipe('corrected', epochs=1, height=48, width=64)
    finetune(create_model('tiny', 'none'), home, recipe, tmp_path/'run', progress=False)
    there = evaluate_run(tmp_path/'run', show_anyway=True)
    assert there['notes'] == []
    home = home.rename(tmp_path/'moved')
    with pytest.raises(ValueError, match='--train-data DIR.*evaluate RUN DATA'):
        evaluate_run(tmp_path/'run')
    again = evaluate_run(tmp_path/'run', train_data=home, show_anyway=True)
    pd.testing.assert_frame_equal(again['table'], there['table'])
    other = open_data(write_synthdepth(tmp_path/'other', scenes=3, views=2, preset='other'))
    result = evaluate_run(tmp_path/'run', other, show_anyway=True)
    assert any('copies of training pictures could not be looked for' in n for n in result['notes'])
    assert "test set's median" in result['scores'] and 'note: ' in report(result)
    with pytest.raises(SentinelError, match='fine-tuned: .* test scenes were trained on'):
        evaluate_run(tmp_path/'run', home)
    with pytest.raises(SentinelError, match='run: .* test scenes were trained on'):
        evaluate_model(tmp_path/'run', home, baseline='tiny')
    with pytest.raises(SentinelError, match='run: .* test scenes were trained on'):
        evaluate_model('tiny', home, baseline=tmp_path/'run')
    with pytest.raises(ValueError, match='holds other scenes'):
        evaluate_run(tmp_path/'run', train_data=other)
    about = json.loads((tmp_path/'run'/'run.json').read_text())  # as an old run was
    del about['asked']['scenes']
    (tmp_path/'run'/'run.json').write_text(json.dumps(about))
    old = evaluate_run(tmp_path/'run', other, show_anyway=True)
    assert any('could not be compared either' in note for note in old['notes'])


def test_captures_of_several_sizes_score_as_each_alone(tmp_path):
    a = write_synthdepth(tmp_path/'a', scenes=4, views=2, size=(48, 64))
    b = write_synthdepth(tmp_path/'b', scenes=4, views=2, size=(40, 72), preset='b')
    both = [c for pair in zip(open_data(a).captures, open_data(b).captures) for c in pair]
    mixed = replace(open_data(a), captures=tuple(both))
    model = create_model('tiny')
    rows = score_pictures(model, mixed, geometry=True)
    for root, part in ((a, rows[::2]), (b, rows[1::2])):
        alone = score_pictures(model, open_data(root), geometry=True, batch_size=1)
        assert np.allclose(alone.abs_rel, part.abs_rel, rtol=1e-4)
        assert np.allclose(alone.boundary_f1, part.boundary_f1, equal_nan=True, atol=.02)
    result = evaluate_models({'a': ConstantDepth(2.), 'tiny': model}, mixed, show_anyway=True)
    assert result['n'] == '16 pictures of 8 scenes' and result['grid'].width > 0
    few = measure_robustness(model, mixed, corruptions=['fog', 'zoom'], severities=[1],
                             show_anyway=True)
    assert len(few) == 3*16 and few.dee.notna().all()


def test_names_with_signs_and_equal_names(tmp_path):
    for name in ('lr=1e-3', 'a b', 'ü#%', 'run{1}'):
        create_model('tiny', 'none').save(tmp_path/name)
        found, model = named_model(tmp_path/name)
        assert found == name and model.name == 'tiny'
    with pytest.raises(ValueError, match='NAME=WEIGHTS'): named_model('lr=1e-3')
    with pytest.raises(ValueError, match='weights of a registered model are given as NAME='):
        named_model(tmp_path/'lr=1e-3'/'model.safetensors')
    file = tmp_path/'lr=1e-3'/'model.safetensors'
    assert named_model(f'tiny={file}')[0] == 'tiny'


def test_nothing_computed_is_lost(data, tmp_path, capsys, monkeypatch):
    (tmp_path/'file').write_text('')
    asked = []

    class Watched(ConstantDepth):
        def forward(self, rgb):
            asked.append(len(rgb))
            return super().forward(rgb)
    monkeypatch.setattr('synthdepth.evaluation.evaluate.named_model',
                        lambda *a: ('w', Watched(2.)))
    with pytest.raises(WriteError, match='--out'):
        evaluate_model('w', data, out=tmp_path/'file'/'out', show_anyway=True)
    assert not asked  # tried before
    (tmp_path/'out'/'table.csv').mkdir(parents=True)
    with pytest.raises(WriteError): evaluate_model('w', data, out=tmp_path/'out', show_anyway=True)
    assert asked and 'Protocol metric' in capsys.readouterr().out  # printed after all
    order = []
    evaluate_model('w', data, out=tmp_path/'new', show_anyway=True,
                   show=lambda r: order.append((tmp_path/'new').exists()))
    assert order == [False] and (tmp_path/'new'/'table.md').exists()


def test_a_console_that_knows_no_arrow(data):
    code = '''if True:
        import pandas as pd
        from PIL import Image
        from synthdepth.evaluation import print_report
        text = pd.DataFrame({'d1 ↑': ['0.9 [0.8, 1.0]']}, index=['客厅'])
        print_report(dict(title='Küche', n='2 pictures', protocol='m', verdict=[], faults=[],
                          text=text))
    '''
    for encoding in ('ascii', 'cp1252', 'utf-8'):
        p = subprocess.run([sys.executable, '-c', code], capture_output=True,
                           env=os.environ | dict(PYTHONIOENCODING=encoding))
        assert p.returncode == 0, p.stderr.decode()
        assert '0.9 [0.8, 1.0]' in p.stdout.decode(encoding)


def test_panels_of_scenes_with_any_name():
    page = panel_page([capture('客厅 ü#%')], width=64)
    assert page.size == panel_page([capture('a')], width=64).size


def test_counts_are_in_the_singular_where_there_is_one(data):
    scene = data.subset(data.scenes[data.captures[0].scene])
    assert evaluate_models({'mine': healthy(scene, .1)}, scene)['n'] == '2 pictures of 1 scene'
