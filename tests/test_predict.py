"Depth maps of any pictures: what evaluate predicts, in files that can be gone on with."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from toy import write_flat, write_synthdepth
from torch import nn

from synthdepth.data import loader, open_data, read_stored
from synthdepth.evaluation import ConstantDepth, PictureError, StoredError, StoredPredictions
from synthdepth.evaluation import evaluate_model, list_pictures, predict, predict_pictures
from synthdepth.evaluation import score_models
from synthdepth.models import create_model, inputs_of

COMMAND = [sys.executable, '-m', 'synthdepth']


def synthdepth(*args):
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True)


@pytest.fixture(scope='module')
def tiny(): return create_model('tiny')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=5, views=2)


def photo(path, size=(48, 64), mode='RGB', seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


class Counting(nn.Module):
    "Depth from brightness, that remembers what it was shown."
    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(1)), []

    def forward(self, rgb):
        self.seen.append(tuple(rgb.shape))
        return 1 + self.weight*rgb.mean(1)


def test_maps_are_what_evaluation_predicts_to_the_last_bit(root, tiny, tmp_path):
    "10 pictures, so that the last batch is not full; at native size and at another one."
    data = open_data(root)
    for size in (None, (40, 56)):
        out = tmp_path/f'{size}'
        predict_pictures(tiny, [root], out, 'tiny', ['npy', 'tiff', 'png'], size)
        batches = loader(data, size=size, batch_size=8)
        theirs = torch.cat([predict(tiny, b['rgb'], **inputs_of(tiny, b)) for b in batches])
        theirs = theirs.numpy()
        for c, depth in zip(data.captures, theirs):
            ours = [read_stored(out/'rgb'/f'{c.rgb.stem}{e}') for e in ('.npy', '.tiff', '.png')]
            assert np.array_equal(ours[0], depth) and np.array_equal(ours[1], depth)
            assert ours[2].dtype == np.uint16 and abs(ours[2]*.001 - depth).max() < 5.1e-4
    scores = score_models(dict(net=tiny, maps=StoredPredictions(tmp_path/'None')), data)
    assert scores['net'].equals(scores['maps'])
    small = score_models(dict(net=tiny, maps=StoredPredictions(tmp_path/'(40, 56)')), data,
                         size=(40, 56))
    assert small['net'].equals(small['maps'])


def test_evaluate_needs_no_options_for_such_a_folder(root, tmp_path):
    predict_pictures(create_model('tiny'), [root], tmp_path/'maps', 'tiny')
    said = json.loads((tmp_path/'maps'/'predictions.json').read_text())
    assert (said['model'], said['predicts'], said['scale']) == ('tiny', 'metric', {'.png': .001})
    result = evaluate_model(tmp_path/'maps', root, show_anyway=True)
    assert list(result['text'].index)[0] == 'maps' and not result['notes']


def test_a_second_call_skips_what_is_there_and_fits(tmp_path):
    model, folder = Counting(), tmp_path/'in'
    for i in range(5): photo(folder/f'{i}.png', seed=i)
    found = predict_pictures(model, [folder], tmp_path/'out', batch_size=2)
    assert (found.there, len(model.seen)) == (0, 3)
    again = predict_pictures(model, [folder], tmp_path/'out', batch_size=2)
    assert (again.there, len(model.seen)) == (5, 3)
    (tmp_path/'out'/'3.png').unlink()
    photo(folder/'0.png', seed=9)
    os.utime(folder/'0.png', ns=(1, 1))
    before = (tmp_path/'out'/'0.png').read_bytes()
    photo(folder/'7.png')
    some = predict_pictures(model, [folder], tmp_path/'out', batch_size=2)
    assert (some.pictures, some.there) == (6, 3) and (tmp_path/'out'/'7.png').is_file()
    assert (tmp_path/'out'/'3.png').is_file() and before != (tmp_path/'out'/'0.png').read_bytes()
    more = predict_pictures(model, [folder], tmp_path/'out', kinds=['npy'], batch_size=2)
    assert more.there == 0 and len(list((tmp_path/'out').glob('*.npy'))) == 6
    both = predict_pictures(model, [folder], tmp_path/'out', kinds=['npy', 'png'], batch_size=2)
    assert both.there == 6


def test_an_interrupted_call_goes_on_to_the_same_maps(tmp_path, tiny, monkeypatch):
    import synthdepth.evaluation.predicting as predicting
    for i in range(7): photo(tmp_path/'in'/f'{i}.png', seed=i)
    predict_pictures(tiny, [tmp_path/'in'], tmp_path/'whole', kinds=['npy'], batch_size=4)
    write, count = predicting.write_map, []

    def stop(*args):
        count.append(1)
        if len(count) == 4: raise KeyboardInterrupt
        return write(*args)
    monkeypatch.setattr(predicting, 'write_map', stop)
    with pytest.raises(KeyboardInterrupt):
        predict_pictures(tiny, [tmp_path/'in'], tmp_path/'out', kinds=['npy'], batch_size=4)
    monkeypatch.undo()
    rest = predict_pictures(tiny, [tmp_path/'in'], tmp_path/'out', kinds=['npy'], batch_size=4)
    assert rest.there == 3
    for i in range(7):
        a, b = (np.load(tmp_path/which/f'{i}.npy') for which in ('whole', 'out'))
        assert np.array_equal(a, b)
    assert not list((tmp_path/'out').glob('*.part'))


def test_a_folder_of_another_model_is_not_mixed(tmp_path, tiny):
    photo(tmp_path/'a.png')
    predict_pictures(tiny, [tmp_path/'a.png'], tmp_path/'out', 'tiny')
    for model, options in ((create_model('tiny', 'none'), {}), (tiny, dict(size=(24, 32))),
                           (tiny, dict(scale=.01))):
        with pytest.raises(StoredError, match='choose another folder'):
            predict_pictures(model, [tmp_path/'a.png'], tmp_path/'out', 'tiny', **options)
    predict_pictures(tiny, [tmp_path/'a.png'], tmp_path/'out', 'tiny', ['colour'])
    with pytest.raises(StoredError, match='colours'):
        predict_pictures(tiny, [tmp_path/'a.png'], tmp_path/'out', 'tiny', ['colour'],
                         limits=(0, 80))


def test_no_two_pictures_get_one_map(tmp_path):
    names = ['a.png', 'a.jpg', 'A.png', 'x/a.png', 'y/a.png', 'a b.png', 'ü#%客厅.png',
             'a.colour.png', '.hidden.png', 'x/deep/a.png']
    for i, name in enumerate(names): photo(tmp_path/'in'/name, seed=i)
    inside = [tmp_path/'in'/n for n in names if '.hidden' not in n]
    found = predict_pictures(Counting(), [tmp_path/'in'], tmp_path/'out', kinds=['npy', 'colour'])
    assert found.pictures == 9 and not found.failed
    assert len(list((tmp_path/'out').rglob('*.npy'))) == 9
    assert len(list((tmp_path/'out').rglob('*.colour.png'))) == 9
    flat = predict_pictures(Counting(), inside, tmp_path/'flat', kinds=['npy'])
    assert flat.pictures == 9 and len(list((tmp_path/'flat').rglob('*.npy'))) == 9
    twice = predict_pictures(Counting(), [tmp_path/'in', *inside], tmp_path/'twice', kinds=['npy'])
    assert twice.pictures == 9
    for i, name in enumerate(names):
        if name == '.hidden.png' or name.endswith('jpg'): continue
        source = np.asarray(Image.open(tmp_path/'in'/name))
        about = next(a for a in flat.record.values() if a['source'] == str(tmp_path/'in'/name))
        depth = np.load(tmp_path/'flat'/f'{about["name"]}.npy')
        assert np.allclose(depth, 1 + source.mean(-1)/255, atol=1e-5), name


def test_calls_for_different_folders_share_an_output(tmp_path):
    for room in 'ab': photo(tmp_path/room/'0.png', seed=ord(room))
    first = predict_pictures(Counting(), [tmp_path/'a'/'0.png'], tmp_path/'out', kinds=['npy'])
    model = Counting()
    second = predict_pictures(model, [tmp_path/'b'/'0.png'], tmp_path/'out', kinds=['npy'])
    assert model.seen and not set(first.record) & set(second.record)


def test_pictures_are_not_overwritten_and_maps_are_no_pictures(tmp_path):
    photo(tmp_path/'in'/'a.png')
    with pytest.raises(StoredError, match='is a picture'):
        predict_pictures(Counting(), [tmp_path/'in'], tmp_path/'in')
    predict_pictures(Counting(), [tmp_path/'in'], tmp_path/'in'/'depth')
    again = predict_pictures(Counting(), [tmp_path/'in'], tmp_path/'in'/'depth')
    assert (again.pictures, again.there) == (1, 1)
    for out, folder in (('same', 'same'), ('above', 'above/in')):
        out, folder = tmp_path/out, tmp_path/folder
        photo(folder/'b.jpg')
        for there in (0, 1):
            found = predict_pictures(Counting(), [folder], out, kinds=['png', 'colour'])
            assert (found.pictures, found.there) == (1, there), out
    photo(tmp_path/'other'/'a.png')
    with pytest.raises(StoredError, match='was not written by this command'):
        predict_pictures(Counting(), [tmp_path/'in'], tmp_path/'other')


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGBA', 'P', 'CMYK', 'I;16', '1'])
def test_pictures_of_any_mode(mode, tmp_path, tiny):
    path = tmp_path/('a.tiff' if mode == 'CMYK' else 'a.png')
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)
    if mode == 'I;16': Image.fromarray(pixels.astype(np.uint16)*257).save(path)
    else: Image.fromarray(pixels).convert('RGB').convert(mode).save(path)
    found = predict_pictures(tiny, [path], tmp_path/'out', kinds=['npy'])
    assert not found.failed and np.load(tmp_path/'out'/'a.npy').shape == (48, 64)


def test_a_photograph_is_turned_as_its_camera_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path/'a.jpg', exif=exif)
    found = predict_pictures(Counting(), [tmp_path/'a.jpg'], tmp_path/'out', kinds=['npy'])
    assert not found.failed and np.load(tmp_path/'out'/'a.npy').shape == (64, 48)


def test_pictures_of_several_sizes(tmp_path):
    sizes = [(48, 64), (48, 64), (40, 56), (48, 64)]
    for i, size in enumerate(sizes): photo(tmp_path/'in'/f'{i}.png', size)
    model = Counting()
    predict_pictures(model, [tmp_path/'in'], tmp_path/'out', kinds=['npy'])
    assert [s[0] for s in model.seen] == [2, 1, 1]
    assert [np.load(tmp_path/'out'/f'{i}.npy').shape for i in range(4)] == sizes


def test_a_folder_that_is_a_dataset_gives_its_pictures_and_not_its_depth(root, tmp_path):
    for folder in (root, write_flat(tmp_path/'flat', scenes=2)):
        names = [p.name for p in list_pictures([folder], tmp_path/'out')]
        assert len(names) == len(open_data(folder)) and all('depth' not in n for n in names)
    (tmp_path/'frames').mkdir()
    for i in (10, 9, 1): photo(tmp_path/'frames'/f'frame_{i}.png')
    names = [p.name for p in list_pictures([tmp_path/'frames'], tmp_path/'out')]
    assert names == ['frame_1', 'frame_9', 'frame_10']
    (tmp_path/'empty').mkdir()
    with pytest.raises(PictureError, match='found no picture'):
        list_pictures([tmp_path/'empty'], tmp_path/'out')


def test_points_with_the_cameras_of_a_dataset_or_a_field_of_view(root, tmp_path):
    wall, camera = ConstantDepth(2.), open_data(root).captures[0].intrinsics
    predict_pictures(wall, [root], tmp_path/'out', kinds=['ply', 'glb'])
    points = np.asarray(trimesh.load(tmp_path/'out'/'rgb'/'rgb_00000.ply').vertices)
    assert points.shape == (48*64, 3) and np.allclose(points[:, 2], 2)
    assert points[:, 0].max() == pytest.approx((63.5 - camera.cx)/camera.fx*2)
    glb = trimesh.load(tmp_path/'out'/'rgb'/'rgb_00000.glb', force='scene').geometry
    assert np.allclose(np.asarray(next(iter(glb.values())).vertices), points*[1, -1, -1], atol=1e-5)
    photo(tmp_path/'a.png')
    none = predict_pictures(wall, [tmp_path/'a.png'], tmp_path/'none', kinds=['ply'])
    assert '--fov DEGREES' in next(iter(none.failed.values()))
    told = predict_pictures(wall, [tmp_path/'a.png'], tmp_path/'told', kinds=['ply'], fov=90.)
    points = np.asarray(trimesh.load(tmp_path/'told'/'a.ply').vertices)
    assert not told.failed and points[:, 1].max() == pytest.approx(2*47/48, rel=1e-4)


def test_what_does_not_fit_16_bits_is_counted_and_said(tmp_path):
    photo(tmp_path/'a.png')
    far = predict_pictures(ConstantDepth(80.), [tmp_path/'a.png'], tmp_path/'out')
    assert f'{48*64} pixels of 1 map lie beyond 65.535 m' in str(far)
    assert np.asarray(Image.open(tmp_path/'out'/'a.png')).max() == 65535
    fits = predict_pictures(ConstantDepth(80.), [tmp_path/'a.png'], tmp_path/'cm', scale=.01)
    assert 'beyond' not in str(fits) and np.asarray(Image.open(tmp_path/'cm'/'a.png')).max() == 8000
    empty = predict_pictures(ConstantDepth(float('nan')), [tmp_path/'a.png'], tmp_path/'nan')
    assert 'without a depth above 0' in str(empty)
    assert not np.asarray(Image.open(tmp_path/'nan'/'a.png')).any()


def test_relative_models_say_so(tmp_path):
    class Disparity(Counting):
        predicts = 'disparity'
    photo(tmp_path/'in'/'a.png')
    found = predict_pictures(Disparity(), [tmp_path/'in'], tmp_path/'out', kinds=['png', 'colour'])
    said = json.loads((tmp_path/'out'/'predictions.json').read_text())
    assert said['predicts'] == 'disparity' and said['scale'] is None
    assert 'no metres' in str(found) and 'up to scale and shift' in said['note']
    codes = np.asarray(Image.open(tmp_path/'out'/'a.png'))
    assert (codes.min(), codes.max()) == (1, 65535)
    assert StoredPredictions(tmp_path/'out').predicts == 'disparity'
    with pytest.raises(ValueError, match='points need metres'):
        predict_pictures(Disparity(), [tmp_path/'in'], tmp_path/'new', kinds=['ply'], fov=60.)


def test_one_bad_picture_hinders_no_other(tmp_path):
    folder = tmp_path/'in'
    for i in range(3): photo(folder/f'{i}.png', seed=i)
    (folder/'1.png').write_bytes((folder/'1.png').read_bytes()[:200])
    (folder/'text.jpg').write_text('no picture')
    (folder/'empty.png').touch()
    p = synthdepth('predict', 'tiny', folder, '--out', tmp_path/'out')
    assert p.returncode == 1 and 'Traceback' not in p.stderr
    for name in ('1.png', 'text.jpg', 'empty.png'):
        assert sum(line.startswith('error: ') and name in line
                   for line in p.stderr.replace('\r', '\n').splitlines()) == 1, p.stderr
    assert sorted(x.name for x in (tmp_path/'out').glob('*.png')) == ['0.png', '2.png']
    assert '2 of 5 pictures predicted' in p.stdout
    photo(folder/'1.png')
    for name in ('text.jpg', 'empty.png'): (folder/name).unlink()
    p = synthdepth('predict', 'tiny', folder, '--out', tmp_path/'out')
    assert p.returncode == 0 and '(2 were there already)' in p.stdout


def test_a_model_that_fails_on_one_picture(tmp_path):
    class Picky(Counting):
        def forward(self, rgb):
            if (rgb[:, 0, 0, 0] == 0).any(): raise ValueError('too dark to be padded')
            return super().forward(rgb)
    for i in range(4): photo(tmp_path/'in'/f'{i}.png', seed=i)
    Image.new('RGB', (64, 48)).save(tmp_path/'in'/'2.png')
    found = predict_pictures(Picky(), [tmp_path/'in'], tmp_path/'out', kinds=['npy'])
    assert list(found.failed) == [str(tmp_path/'in'/'2.png')]
    assert len(list((tmp_path/'out').glob('*.npy'))) == 3


@pytest.mark.parametrize('arguments, message', [
    (['tiny', 'no.png', '--out', '{tmp}/o'], 'no such picture'),
    (['tinier', '{tmp}/a.png', '--out', '{tmp}/o'], "no model 'tinier'"),
    (['tiny', '{tmp}/a.png', '--out', '{tmp}/o', '--kinds', 'jpg'], 'expected some of png, npy'),
    (['tiny', '{tmp}/a.png', '--out', '{tmp}/o', '--height', '64'], 'give both'),
    (['tiny', '{tmp}/a.png', '--out', '{tmp}/a.png/o'], 'cannot write'),
    (['tiny', '{tmp}/a.png', '--out', '{tmp}/o', '--kinds', 'ply'], '--fov DEGREES'),
    (['{tmp}/maps', '{tmp}/a.png', '--out', '{tmp}/o'], 'needs the model itself'),
    (['tiny', '{tmp}/walk.mp4', '--out', '{tmp}/o'], 'walk.mp4')])
def test_mistakes_are_one_line(arguments, message, tmp_path):
    photo(tmp_path/'a.png')
    (tmp_path/'walk.mp4').write_bytes(b'0')
    (tmp_path/'maps').mkdir()
    np.save(tmp_path/'maps'/'a.npy', np.ones((4, 4), np.float32))
    (tmp_path/'maps'/'predictions.json').write_text('{"predicts": "metric"}')
    p = synthdepth('predict', *(a.replace('{tmp}', str(tmp_path)) for a in arguments))
    assert p.returncode == 1 and message in p.stderr and 'Traceback' not in p.stderr, p.stderr


def test_frames_of_a_video_in_order(tmp_path):
    av = pytest.importorskip('av')
    with av.open(str(tmp_path/'walk.mp4'), 'w') as file:
        stream = file.add_stream('mpeg4', rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for i in range(12):
            frame = np.full((48, 64, 3), 20*i, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')):
                file.mux(packet)
        for packet in stream.encode(): file.mux(packet)
    found = predict_pictures(Counting(), [tmp_path/'walk.mp4'], tmp_path/'out', kinds=['npy'])
    assert found.pictures == 12 and not found.failed
    depth = [np.load(p).mean() for p in sorted((tmp_path/'out'/'walk').glob('*.npy'))]
    assert np.allclose(depth, 1 + 20*np.arange(12)/255, atol=.03)
    (tmp_path/'out'/'walk'/'frame_000009.npy').unlink()
    model = Counting()
    again = predict_pictures(model, [tmp_path/'walk.mp4'], tmp_path/'out', kinds=['npy'])
    assert again.there == 11 and len(model.seen) == 1


def test_frames_without_a_decoder_say_how_they_are_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    Path(tmp_path/'walk.mov').touch()
    with pytest.raises(PictureError, match='ffmpeg -i walk.mov frames/%06d.png'):
        list_pictures([tmp_path/'walk.mov'], tmp_path/'out')
