"Predictions made elsewhere are a model: matched by name, in every format, with every sentinel."
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toy import write_synthdepth

from synthdepth.data import Capture, open_data
from synthdepth.evaluation import MatchError, SentinelError, StoredError, StoredPredictions
from synthdepth.evaluation import evaluate_model, evaluate_models, find_maps, match_maps
from synthdepth.evaluation import measure_robustness, named_model, predict_captures, report
from synthdepth.evaluation import score_models, score_pictures
from synthdepth.models import create_model, load_model


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=6, views=2))


@pytest.fixture(scope='module')
def depths(data):
    "What somebody predicted: the truth, a little wrong, 5 m where there is none."
    rng = np.random.default_rng(0)
    return [np.where(s.depth > 0, s.depth, 5).astype(np.float32)
            * np.exp(rng.normal(0, .1, s.depth.shape)).astype(np.float32) for s in data]


def save_png(path, x): Image.fromarray((x*1000).round().astype(np.uint16)).save(path)


def save_pfm(path, x):
    with open(path, 'wb') as file:
        file.write(f'Pf\n{x.shape[1]} {x.shape[0]}\n-1.0\n'.encode())
        file.write(np.flipud(x).astype('<f4').tobytes())


def save_exr(path, x):
    mi = pytest.importorskip('mitsuba')
    mi.Bitmap(np.ascontiguousarray(x[..., None])).write(str(path))


FORMATS = {'.npy': np.save, '.npz': lambda p, x: np.savez(p, depth=x),
           '.tiff': lambda p, x: Image.fromarray(x).save(p), '.pfm': save_pfm, '.exr': save_exr}


def write_maps(folder, data, depths, ending='.npy', save=None, name='{stem}', **said):
    for c, x in zip(data.captures, depths):
        stem = name.format(stem=c.rgb.stem, number=c.rgb.stem[-5:], scene=c.scene, view=c.view)
        path = Path(folder)/f'{stem}{ending}'
        path.parent.mkdir(parents=True, exist_ok=True)
        (save or FORMATS[ending])(path, x)
    if said: (folder/'predictions.json').write_text(json.dumps(said))
    return folder


def oracle(data, depths):
    "The same predictions as a network would give them."
    return {c.rgb.name: x for c, x in zip(data.captures, depths)}


@pytest.mark.parametrize('ending', FORMATS)
def test_every_float_format_scores_like_the_arrays(data, depths, ending, tmp_path):
    maps = StoredPredictions(write_maps(tmp_path/'maps', data, depths, ending), 'metric')
    asked = maps.for_captures(data.captures[:3])
    assert torch.equal(asked, torch.from_numpy(np.stack(depths[:3])))
    rows = score_pictures(maps, data)
    first = data[0].valid & (data[0].depth < 10)
    true, pred = data[0].depth[first], depths[0][first]
    assert rows.abs_rel[0] == pytest.approx((abs(pred.clip(0, 10) - true)/true).mean(), rel=1e-5)


def test_png_in_millimetres_differs_by_half_a_millimetre(data, depths, tmp_path):
    folder = write_maps(tmp_path/'maps', data, depths, '.png', save_png, predicts='metric',
                        scale=.001)
    maps = StoredPredictions(folder)
    assert abs(maps.for_captures(data.captures).numpy() - np.stack(depths)).max() < 5.1e-4
    (folder/'predictions.json').unlink()
    with pytest.raises(StoredError, match='what do its maps hold.*--kind'):
        StoredPredictions(folder)
    with pytest.raises(StoredError, match='stores whole numbers.*--scale 0.001'):
        score_pictures(StoredPredictions(folder, 'metric'), data)
    told = score_pictures(StoredPredictions(folder, 'metric', .001), data)
    pd.testing.assert_frame_equal(told, score_pictures(maps, data))
    wrong = score_pictures(StoredPredictions(folder, 'metric', 1), data)
    assert (wrong.ratio > 900).all()


def test_statement_is_understood_or_refused(data, depths, tmp_path):
    folder = write_maps(tmp_path/'maps', data, depths, predict='metric')
    with pytest.raises(StoredError, match="found 'predict'"): StoredPredictions(folder)
    for said, message in (({'predicts': 'inverse'}, "'inverse' is stated"),
                          ({'predicts': 'metric', 'scale': -1}, 'above 0'), ([1], 'expected'),
                          ('{', 'not readable JSON')):
        text = said if isinstance(said, str) else json.dumps(said)
        (folder/'predictions.json').write_text(text)
        with pytest.raises(StoredError, match=message): StoredPredictions(folder)
    (folder/'predictions.json').write_text(json.dumps(dict(predicts='metric',
                                                           scale={'.png': .001})))
    assert torch.equal(StoredPredictions(folder).for_captures(data.captures[:1])[0],
                       torch.from_numpy(depths[0]))


@pytest.mark.parametrize('name', [
    '{stem}', 'depth_{number}', '{number}', '{number}_pred', 'rgb_{number}_depth', 'rgb/{stem}',
    'depth/depth_{number}', 'pred-{number}', 'out/mine/{stem}', '{scene}/{view}',
    '{scene}/view_{view:03d}', '{scene}_{view}', '{scene}_view{view}_depth', 'DEPTH_{number}',
    'set/rgb/{stem}', 'rgb_{number}.png'])
def test_names_that_a_person_would_match(data, depths, name, tmp_path):
    maps = StoredPredictions(write_maps(tmp_path/'maps', data, depths, name=name), 'metric')
    maps.match(data.captures)
    assert torch.equal(maps.for_captures(data.captures), torch.from_numpy(np.stack(depths)))


def capture(path, scene='s', view=0): return Capture(Path(path), Path('d.png'), scene, view)


def touch(folder, *names):
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).touch()
    return folder


@pytest.mark.parametrize('pictures, maps', [
    (['scene1/color/0.jpg', 'scene2/color/0.jpg'], ['scene1/0.npy', 'scene2/0.npy']),
    (['seq-01/frame-000000.color.png', 'seq-02/frame-000000.color.png'],
     ['p/seq-01/frame-000000.depth.png', 'p/seq-02/frame-000000.depth.png']),
    (['desk/rgb/1305031102.17.png', 'desk/rgb/1305031102.21.png'],
     ['1305031102.17.npy', '1305031102.21.npy']),
    (['a/x.png', 'a/x.jpg'], ['x.png.npy', 'x.jpg.npy']),
    (['hall/rgb.png', 'attic/rgb.png'], ['hall/depth.npy', 'attic/depth.npy']),
    (['K/image_02/data/1.png', 'K/image_03/data/1.png'],
     ['K/image_02/data/1.npy', 'K/image_03/data/1.npy']),
    (['ü #%/b c.JPG', 'ü #%/客厅.JPG'], ['b c.npy', '客厅.npy'])])
def test_names_in_folders(pictures, maps, tmp_path):
    folder = touch(tmp_path/'maps', *maps)
    captures = [capture(f'/data/{p}', view=i) for i, p in enumerate(pictures)]
    chosen, extra = match_maps(captures, folder, find_maps(folder))
    assert [p.relative_to(folder).as_posix() for p in chosen] == maps and not extra


def test_what_is_not_clear_is_an_error(tmp_path):
    captures = [capture('/d/s1/rgb/0.png', 's1'), capture('/d/s2/rgb/0.png', 's2')]
    flat = touch(tmp_path/'flat', '0.npy')
    with pytest.raises(MatchError, match='fits .*several pictures|fit several pictures'):
        match_maps(captures, flat, find_maps(flat))
    both = touch(tmp_path/'both', 's1/0_depth.npy', 's1/0_pred.npy', 's2/0.npy')
    with pytest.raises(MatchError, match='2 maps fit .*0_depth.npy, s1/0_pred.npy'):
        match_maps(captures, both, find_maps(both))
    one = touch(tmp_path/'one', 's1/0.npy', 's3/0.npy')
    with pytest.raises(MatchError, match='1 of 2 captures have no map.*s2/rgb/0.png.*found 2: '):
        match_maps(captures, one, find_maps(one))
    empty = touch(tmp_path/'empty', 'notes.txt', '._0.npy', '.DS_Store')
    with pytest.raises(MatchError, match='found no map'):
        match_maps(captures, empty, find_maps(empty))


def test_the_most_exact_format_is_read_and_colours_never(tmp_path):
    folder = touch(tmp_path/'maps', 'a.png', 'a.npy', 'a.colour.png', 'b.PNG')
    assert [p.name for p in find_maps(folder).values()] == ['a.npy', 'b.PNG']


def test_links_to_folders_are_followed(data, depths, tmp_path):
    write_maps(tmp_path/'real', data, depths)
    (tmp_path/'maps').mkdir()
    try: (tmp_path/'maps'/'linked').symlink_to(tmp_path/'real', target_is_directory=True)
    except OSError: pytest.skip('no links here')
    (tmp_path/'real'/'again').symlink_to(tmp_path/'real', target_is_directory=True)
    assert len(find_maps(tmp_path/'maps')) == len(data)


def test_it_is_evaluated_with_all_that_a_network_is(data, depths, tmp_path):
    folder = write_maps(tmp_path/'theirs', data, depths, predicts='metric')
    worse = write_maps(tmp_path/'worse', data, [d*1.2 for d in depths], predicts='metric')
    result = evaluate_model(folder, data, baseline=worse, geometry=True, out=tmp_path/'out')
    names = list(result['text'].index)
    assert names == ['worse', 'theirs', 'constant 10 m', "test set's median",
                     "test set's mean depth map", 'improvement']
    assert result['table'].loc[('improvement', 'abs_rel'), 'low'] > 0
    assert 'boundary_f1 ↑' in result['text'].columns and result['grid'].height > 100
    assert (tmp_path/'out'/'rows.csv').exists()
    against = evaluate_model('tiny', data, baseline=folder, show_anyway=True)
    assert list(against['text'].index[:2]) == ['theirs', 'tiny']
    with pytest.raises(FileNotFoundError, match='needs DATA'): evaluate_model(folder)


@pytest.mark.parametrize('change, said', [
    (lambda x: x*1000, 'a unit is wrong|on the clamp'), (lambda x: 0*x + 3, 'constant at 3.000 m'),
    (lambda x: 6/x, 'run opposite'), (lambda x: np.where(x > 2, np.nan, x), 'nan or infinite'),
    (lambda x: np.where(x > 2, np.inf, x), 'nan or infinite'),
    (lambda x: np.where(x > 2, 0, x), '0 or negative'), (lambda x: -x, '0 or negative')])
def test_sentinels_object_to_stored_predictions(data, depths, change, said, tmp_path):
    changed = [change(x).astype(np.float32) for x in depths]
    folder = write_maps(tmp_path/'maps', data, changed, predicts='metric')
    with pytest.raises(SentinelError, match=said): evaluate_model(folder, data)
    assert '**sentinel:**' in report(evaluate_model(folder, data, show_anyway=True))


def test_disparity_and_relative_depth(data, depths, tmp_path):
    "Up to scale and shift, as a network that says so."
    disparity = write_maps(tmp_path/'disparity', data, [7/x - .1 for x in depths],
                           predicts='disparity')
    relative = write_maps(tmp_path/'relative', data, [3*x + 2 for x in depths], predicts='depth')
    exact = write_maps(tmp_path/'exact', data, depths, predicts='metric')
    models = {p.name: StoredPredictions(p) for p in (relative, exact)}
    scores = score_models(models, data, 'affine_depth')
    assert np.allclose(scores['relative'].abs_rel, scores['exact'].abs_rel, rtol=1e-3)
    rows = score_pictures(StoredPredictions(disparity), data, 'affine_disparity')
    assert rows.abs_rel.max() < .2 and rows['rank'].min() > .5
    with pytest.raises(ValueError, match='--protocol affine_disparity'):
        evaluate_model(disparity, data)
    with pytest.raises(ValueError, match='--protocol affine_depth'): evaluate_model(relative, data)
    result = evaluate_model(disparity, data, 'affine_disparity', baseline=relative)
    assert list(result['text'].index[:2]) == ['relative', 'disparity']


def test_maps_of_another_size_are_resized_and_of_another_shape_refused(data, depths, tmp_path):
    def doubled(x): return np.kron(x, np.ones((2, 2), np.float32))
    folder = write_maps(tmp_path/'large', data, [doubled(x) for x in depths], predicts='metric')
    result = evaluate_model(folder, data, show_anyway=True)
    assert any('12 of 12 maps were resized bilinearly, for example 96x128 to 48x64' in note
               for note in result['notes'])
    large = StoredPredictions(folder).for_captures(data.captures[:1])[0].numpy()
    assert np.median(abs(large - depths[0])) < .2  # white noise becomes smoother
    cropped = write_maps(tmp_path/'cropped', data, [x[:, 8:-8] for x in depths], predicts='metric')
    with pytest.raises(StoredError, match='48x48 pixels, but .* has 48x64'):
        evaluate_model(cropped, data)


def test_holes_do_not_bleed_into_depth_when_a_map_is_resized(data, depths, tmp_path):
    holed = [np.kron(np.where(x > 4, 0, x), np.ones((2, 2), np.float32)) for x in depths]
    maps = StoredPredictions(write_maps(tmp_path/'maps', data, holed), 'metric')
    x = maps.for_captures(data.captures[:1])[0].numpy()
    assert np.isnan(x).any() and np.nanmin(x) > .9*depths[0].min()


def test_size_and_centre_crop_mean_the_same_part(data, tmp_path):
    "A ramp that says where it is: the crop of a stored map is the crop of the picture."
    v = np.linspace(1, 4, 48, dtype=np.float32)[:, None].repeat(64, 1)
    maps = StoredPredictions(write_maps(tmp_path/'maps', data, [v]*len(data)), 'metric')
    rgb = torch.zeros(1, 3, 24, 32)
    middle = predict_captures(maps, rgb, data.captures[:1], centre=.5)[0].numpy()
    assert np.array_equal(middle, v[12:36, 16:48])
    small = predict_captures(maps, rgb, data.captures[:1])[0]
    assert small.shape == (24, 32) and abs(small.mean() - v.mean()) < 1e-3
    ramp = replace(data)
    rows = score_pictures(maps, ramp, 'nyu_fastdepth')
    assert rows.valid_pixels.max() > 0


def test_extra_maps_are_said_and_missing_ones_an_error(data, depths, tmp_path):
    folder = write_maps(tmp_path/'maps', data, depths, predicts='metric')
    part = evaluate_model(folder, data.subset(range(4, 12)), show_anyway=True)
    assert any('4 of 12 maps belong to no picture' in note for note in part['notes'])
    assert 'note: ' in report(part)
    (folder/f'{data.captures[5].rgb.stem}.npy').unlink()
    with pytest.raises(MatchError, match='1 of 12 captures have no map.*rgb_00005'):
        evaluate_model(folder, data)


def test_what_needs_the_network_is_refused_with_the_reason(data, depths, tmp_path):
    folder = write_maps(tmp_path/'maps', data, depths, predicts='metric')
    maps = StoredPredictions(folder)
    with pytest.raises(StoredError, match='needs the model itself'):
        measure_robustness(maps, data, corruptions=['fog'])
    asked = []
    for models in ({'maps': maps}, {'maps': maps, 'tiny': create_model('tiny')}):
        with pytest.raises(StoredError, match='needs the model itself'):
            evaluate_models(models, data, corruptions=lambda *a, **k: asked.append(1))
    assert not asked
    with pytest.raises(StoredError, match='predicts by itself'):
        evaluate_model('tiny', data, kind='depth')


def test_pipeline_of_transformers_scores_as_the_model_itself(data, tmp_path):
    "A folder written by that library's own pipeline, against the same weights in our registry."
    from transformers import pipeline
    from test_models import make
    saved = make('zoedepth').save(tmp_path/'zoe')
    pipe = pipeline('depth-estimation', model=str(saved))
    for c in data.captures:
        found = pipe(Image.open(c.rgb))
        for name, keep in (('npy', lambda p, x: np.save(p.with_suffix('.npy'), x)),
                           ('png', lambda p, x: save_png(p.with_suffix('.png'), x))):
            path = tmp_path/name/c.rgb.name
            path.parent.mkdir(exist_ok=True)
            keep(path, found['predicted_depth'].squeeze().numpy())
        (tmp_path/'shown').mkdir(exist_ok=True)
        found['depth'].save(tmp_path/'shown'/c.rgb.name)  # 8 bits, each map by itself
    models = dict(model=load_model(saved), npy=StoredPredictions(tmp_path/'npy', 'metric'),
                  png=StoredPredictions(tmp_path/'png', 'metric', .001))
    scores = score_models(models, data)
    metrics = ['d1', 'abs_rel', 'rmse', 'mae', 'silog']
    # the pipeline pads and resizes in another library: 1e-3 in a pixel (test_models)
    assert np.allclose(scores['npy'][metrics], scores['model'][metrics], rtol=2e-3, atol=2e-3)
    # and half a millimetre is lost to 16 bits
    assert np.allclose(scores['png'][metrics], scores['npy'][metrics], rtol=2e-3, atol=2e-3)
    shown = score_pictures(StoredPredictions(tmp_path/'shown', 'depth'), data, 'affine_depth')
    itself = score_pictures(models['model'], data, 'affine_depth')
    assert np.allclose(shown.abs_rel, itself.abs_rel, atol=.01)  # 256 levels


def test_folders_are_told_from_models_and_data(data, depths, tmp_path):
    folder = write_maps(tmp_path/'run=1'/'maps', data, depths, predicts='metric')
    name, model = named_model(folder)
    assert name == 'maps' and isinstance(model, StoredPredictions)
    other = write_maps(tmp_path/'run=2'/'maps', data, depths, predicts='metric')
    result = evaluate_model(other, data, baseline=folder, show_anyway=True)
    assert list(result['text'].index[:2]) == ['run=1/maps', 'run=2/maps']
