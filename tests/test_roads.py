"Every road by which a program reads depth, over every kind of file; and what layouts do not say."
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_layouts import WRITERS
from toy import toy_capture, write_flat, write_synthdepth, write_tasks

from synthdepth.data import DataError, Pairs, check_data, keep_captures, loader, open_data
from synthdepth.data import pack_dataset, read_stored, save_stated, split_by_scene
from synthdepth.scenes.dataset_folder import RenderError, begin

SIZE = (24, 32)
CODES = np.arange(24*32).reshape(SIZE)*7 + 500  # whole numbers, all different, below 6,000


def write_exr(path, z, names=('Z',)):
    import mitsuba as mi
    if mi.variant() is None: mi.set_variant('scalar_rgb')
    pixels = np.stack([z + 100*i for i in range(len(names))], -1).astype(np.float32)
    mi.Bitmap(pixels, mi.Bitmap.PixelFormat.MultiChannel, list(names)).write(str(path))


def write_pfm(path, z, order):
    scale = {'<': -1., '>': 1.}[order]
    body = z[::-1].astype(f'{order}f4').tobytes()  # the last row first
    path.write_bytes(f'Pf\n{z.shape[1]} {z.shape[0]}\n{scale}\n'.encode() + body)


def write_tiff(path, z, dtype, order='<'):
    "An uncompressed TIFF of one strip, of any number type and byte order."
    bits, kind = 8*np.dtype(dtype).itemsize, {'u': 1, 'i': 2, 'f': 3}[np.dtype(dtype).kind]
    data = z.astype(np.dtype(dtype).newbyteorder(order)).tobytes()
    short = lambda tag, value: (tag, 3, 1, value)  # noqa: E731
    tags = [short(256, z.shape[1]), short(257, z.shape[0]), short(258, bits), short(259, 1),
            short(262, 1), (273, 4, 1, 8), short(277, 1), short(278, z.shape[0]),
            (279, 4, 1, len(data)), short(339, kind)]
    def number(x, n): return int(x).to_bytes(n, 'little' if order == '<' else 'big')
    head = (b'II' if order == '<' else b'MM') + number(42, 2) + number(8 + len(data), 4)
    entries = b''.join(number(tag, 2) + number(type_, 2) + number(n, 4)
                       + (number(value, 2) + b'\0\0' if type_ == 3 else number(value, 4))
                       for tag, type_, n, value in tags)
    path.write_bytes(head + data + number(len(tags), 2) + entries + number(0, 4))


def pillow(dtype): return lambda path, z: Image.fromarray(z.astype(dtype)).save(path)
def tiff(dtype, order): return lambda path, z: write_tiff(path, z, dtype, order)
def npy(dtype): return lambda path, z: np.save(path, z.astype(dtype))


# name -> ending, bit depth, factor on CODES, write
FILES = {
    'png 8': ('png', 8, 1/40, pillow(np.uint8)), 'PNG 16': ('PNG', 16, 1, pillow(np.uint16)),
    'tiff 8': ('tif', 8, 1/40, tiff('u1', '<')), 'npy 8': ('npy', 8, 1/40, npy(np.uint8)),
    'tiff u16 little': ('tif', 16, 1, tiff('u2', '<')),
    'tiff u16 big': ('TIFF', 16, 1, tiff('u2', '>')),
    'tiff i16 little': ('tif', 16, 1, tiff('i2', '<')),
    'tiff i16 big': ('tif', 16, 1, tiff('i2', '>')),
    'tiff i32 little': ('tif', 16, 300, tiff('i4', '<')),
    'tiff i32 big': ('tif', 16, 300, tiff('i4', '>')),
    'tiff u32 little': ('tif', 16, 7e5, tiff('u4', '<')),
    'tiff f32 little': ('tif', 32, .001, tiff('f4', '<')),
    'tiff f32 big': ('tif', 32, .001, tiff('f4', '>')),
    'npy u16': ('npy', 16, 1, npy(np.uint16)), 'npy i64': ('npy', 16, 2**20, npy(np.int64)),
    'npy u16 big': ('npy', 16, 1, npy('>u2')), 'npy f16': ('npy', 32, .001, npy(np.float16)),
    'npy f32 big': ('npy', 32, .001, npy('>f4')), 'npy f64': ('NPY', 32, .001, npy(np.float64)),
    'npy with an axis': ('npy', 32, .001, lambda path, z: np.save(path, z[..., None])),
    'npz': ('npz', 32, .001, lambda path, z: np.savez(path, depth=z, other=z + 1)),
    'npz packed': ('npz', 16, 1, lambda path, z: np.savez_compressed(path, z.astype(np.uint16))),
    'pfm little': ('pfm', 32, .001, lambda path, z: write_pfm(path, z, '<')),
    'pfm big': ('pfm', 32, .001, lambda path, z: write_pfm(path, z, '>')),
    'exr': ('exr', 32, .001, write_exr),
    'exr of layers': ('exr', 32, .001, lambda path, z: write_exr(path, z, ('view.Z', 'a.A'))),
}


def write_set(folder, ending, bit_depth, factor, write):
    "Two captures whose stored numbers are CODES times the factor; and their depth in metres."
    unit, expected = .001/factor if bit_depth != 8 else .04, []
    lines = []
    for i in range(2):
        z = (CODES + i)*factor
        z = np.round(z) if bit_depth != 32 else z
        z[0, :5] = 0
        for kind in ('rgb', 'depth'): (folder/kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(toy_capture(i, 0, SIZE)[0]).save(folder/f'rgb/{i}.png')
        path = folder/f'depth/{i}.{ending}'
        with open(path, 'wb') if ending.lower() in ('npy', 'npz') else open('/dev/null', 'w') as f:
            write(f if ending.lower() in ('npy', 'npz') else path, z)
        expected.append(z*unit)
        lines.append(dict(rgb_file_name=f'rgb/{i}.png', depth_file_name=f'depth/{path.name}',
                          scene=f's{i}', view=0, intrinsics=dict(fx=30, fy=30, cx=16, cy=12)))
    (folder/'metadata.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
    about = dict(kind='z', metres_per_unit=unit, invalid=0, bit_depth=bit_depth)
    (folder/'dataset.json').write_text(json.dumps(dict(format_version=1, depth=about)))
    return np.stack(expected)


def roads(folder, tmp_path):
    "Name -> (2,H,W) metres, by each way in which a program reads depth."
    data = open_data(folder)
    def batch(data, **options):
        batches = loader(data, None, batch_size=2, max_depth=100., **options)
        return next(iter(batches))['depth'].numpy()
    yield 'data[i]', np.stack([sample.depth for sample in data])
    yield 'loader', batch(data)
    yield 'in memory', batch(data, cache=True)
    yield 'on disk', batch(data, cache=str(tmp_path/'cache'))
    yield 'from disk', batch(data, cache=str(tmp_path/'cache'))
    packed = open_data(pack_dataset(folder, tmp_path/'packed'))
    yield 'packed', np.stack([sample.depth for sample in packed])
    yield 'packed loader', batch(packed)


@pytest.mark.parametrize('name', FILES)
def test_all_roads_read_the_same_depth(tmp_path, name):
    expected = write_set(tmp_path/'set', *FILES[name])
    tolerance = .004 if 'f16' in name else 1e-5
    for road, depth in roads(tmp_path/'set', tmp_path):
        assert depth.dtype == np.float32 and np.abs(depth - expected).max() < tolerance, road
    table = check_data(tmp_path/'set', progress=False).table
    assert np.allclose(table['max'], expected.max((1, 2)), atol=tolerance)


@pytest.mark.parametrize('kind', [
    ('tif', 16, 7e5, tiff('u4', '>')), ('tif', 32, .001, tiff('f8', '<'))])
def test_a_tiff_that_pillow_does_not_know_is_refused_on_all_roads(tmp_path, kind):
    write_set(tmp_path, *kind)
    data = open_data(tmp_path)
    for read in (lambda: data[0], lambda: list(loader(data, None))):
        with pytest.raises(DataError, match='0.tif: not a whole picture .* that Pillow knows'):
            read()


@pytest.mark.parametrize('dtype', ['i2', 'i4'])
@pytest.mark.parametrize('order', '<>')
def test_a_sign_is_kept(tmp_path, dtype, order):
    folder = tmp_path/'set'
    def write(path, z):
        z[0, 5:9] = -1
        write_tiff(path, z, dtype, order)
    write_set(folder, 'tif', 16, 1, write)
    with pytest.raises(DataError, match='4 of 768 values are NaN, infinite or negative'):
        open_data(folder)[0]
    with pytest.raises(DataError, match='4 of 768 values'): list(loader(open_data(folder), None))
    for road, depth in roads_with(folder, invalid=[-1, 0]):
        assert (depth[:, 0, 5:9] == 0).all() and depth.max() < 7, road


def roads_with(folder, **stated):
    data = open_data(folder, **stated)
    yield 'data[i]', np.stack([s.depth for s in data])
    for cache in (False, True):
        yield cache, next(iter(loader(data, None, cache=cache)))['depth'].numpy()


def test_a_png_that_is_none_is_refused(tmp_path):
    write_set(tmp_path, 'png', 16, 1, lambda path, z: Image.fromarray(
        (z*300).astype(np.int32)).save(path, 'TIFF'))
    assert open_data(tmp_path)[0].depth.max() > 1000
    with pytest.raises(DataError, match='found int32, expected the 8 or 16 bits that a PNG holds'):
        next(iter(loader(open_data(tmp_path), None)))


@pytest.mark.parametrize('mode', ['L', 'LA', 'P', 'RGBA', 'CMYK', 'I;16', 'F', '1'])
def test_colour_of_any_kind_is_read_by_one_rule(tmp_path, mode):
    from synthdepth.colour import picture_to_rgb
    folder = write_synthdepth(tmp_path, scenes=1, views=2, size=SIZE)
    gray = np.array(Image.open(folder/'rgb/rgb_00000.png').convert('L'))
    kinds = {'I;16': lambda: Image.fromarray(gray.astype(np.uint16)*257),
             'F': lambda: Image.fromarray(gray.astype(np.float32)/255)}
    make = kinds.get(mode, lambda: Image.fromarray(gray).convert(mode))
    make().save(folder/'rgb/rgb_00000.png', 'TIFF')
    expected = picture_to_rgb(make())
    if mode not in ('1', 'P'): assert np.abs(expected.astype(int) - gray[..., None]).max() <= 1
    assert (open_data(folder)[0].rgb == expected).all()
    batch = next(iter(loader(open_data(folder), None)))
    pixels = (batch['rgb'][0].permute(1, 2, 0)*255).round().byte()
    assert torch.equal(pixels, torch.tensor(expected))


CLUTTER = ('.DS_Store', '._1.png', '._rgb_0001.png', 'Thumbs.db', 'desktop.ini', '~$a.png')


def clutter(root):
    for place in [root, *(p for p in root.rglob('*') if p.is_dir())]:
        for name in CLUTTER: (place/name).write_bytes(b'\0\0\0\1Bud1')
        (place/'.ipynb_checkpoints').mkdir(exist_ok=True)
        (place/'.ipynb_checkpoints'/'rgb_0001-checkpoint.png').touch()


def linked(root):
    "The folder with every folder in it moved away and linked to."
    for i, place in enumerate(p for p in sorted(root.iterdir()) if p.is_dir()):
        target = root.parent/f'elsewhere_{root.name}_{i}'
        shutil.move(place, target)
        place.symlink_to(target, target_is_directory=True)


def capitals(root):
    for path in [p for p in root.rglob('*') if p.suffix in ('.png', '.jpg', '.mat', '.npy')]:
        if path.name in ('splits.mat', 'nyu_depth_v2_labeled.mat'): continue
        path.rename(path.with_suffix(path.suffix.upper()))


def test_rendering_begins_where_a_file_manager_has_looked(tmp_path):
    clutter(tmp_path)
    begin(tmp_path, dict(extras=()))
    assert (tmp_path/'rgb').is_dir()
    (tmp_path/'notes.txt').touch()
    with pytest.raises(RenderError, match='holds files that are not a dataset .*notes.txt'):
        begin(tmp_path, dict(extras=()))


ALL = WRITERS | dict(flat=write_flat, tasks=write_tasks, synthdepth=write_synthdepth)
NAMED = ('tum', 'synthdepth')  # whose pictures are named in a text file


@pytest.mark.parametrize('change', [clutter, linked, capitals])
@pytest.mark.parametrize('name', ALL)
def test_what_a_file_manager_does_changes_nothing(tmp_path, name, change):
    root = tmp_path/name
    ALL[name](root)
    expected = [(s.rgb, s.depth, s.capture.scene) for s in open_data(root)]
    problems = check_data(root, progress=False).problems
    if not (change is capitals and name in NAMED): change(root)
    found = [(s.rgb, s.depth, s.capture.scene) for s in open_data(root)]
    assert len(found) == len(expected)
    for (rgb, depth, scene), (rgb_before, depth_before, scene_before) in zip(found, expected):
        assert (rgb == rgb_before).all() and (depth == depth_before).all() and scene == scene_before
    assert check_data(root, progress=False).problems == problems


@pytest.mark.parametrize('edit', [
    lambda lines: lines + b'\n', lambda lines: lines.replace(b'\n', b'\n\n', 2),
    lambda lines: lines.replace(b'\n', b'\r\n'), lambda lines: b'\xef\xbb\xbf' + lines,
    lambda lines: lines.rstrip(b'\n')])
def test_what_editors_leave_in_a_description(tmp_path, edit):
    folder = write_synthdepth(tmp_path/'set', scenes=2, views=2)
    path, expected = folder/'metadata.jsonl', [s.depth for s in open_data(folder)]
    path.write_bytes(edit(path.read_bytes()))
    report = check_data(folder, progress=False)
    assert report.captures == 4 and not report.found('layout')
    packed = open_data(pack_dataset(folder, tmp_path/'packed'))
    for data in (open_data(folder), packed):
        assert all((s.depth == z).all() for s, z in zip(data, expected, strict=True))
        assert all(c.meta['view'] == c.view for c in data.captures)


def test_a_backslash_is_named(tmp_path):
    folder = write_synthdepth(tmp_path/'set', scenes=1, views=2)
    path = folder/'metadata.jsonl'
    path.write_text(path.read_text().replace('rgb/', r'rgb\\'))
    with pytest.raises(DataError, match=r"rgb\\rgb_00000.png has a backslash, expected '/'"):
        open_data(folder)


def test_a_scale_that_a_layout_assumes_can_be_stated(tmp_path):
    WRITERS['tum'](tmp_path/'tum')
    expected = open_data(tmp_path/'tum')[0].depth
    for path in (tmp_path/'tum/depth').iterdir():
        mm = (np.array(Image.open(path))/5).round().astype(np.uint16)
        Image.fromarray(mm).save(path)
    fifth = open_data(tmp_path/'tum')[0].depth
    assert abs(np.median(fifth[fifth > 0])/np.median(expected[expected > 0]) - .2) < .01
    assert any('in the tum layout: is metres_per_unit right' in note
               for note in check_data(tmp_path/'tum', progress=False).notes)
    (tmp_path/'mm.json').write_text('{"folder": "tum", "metres_per_unit": 0.001}')
    told = [open_data(tmp_path/'tum', metres_per_unit=.001), open_data(tmp_path/'mm.json')]
    save_stated(tmp_path/'tum', metres_per_unit=.001)
    told.append(open_data(tmp_path/'tum'))
    for data in told: assert np.abs(data[0].depth - expected).max() < .001
    assert told[1].source == tmp_path/'mm.json' and told[1].root == tmp_path/'tum'


@pytest.mark.parametrize('name', ALL)
def test_everything_stated_is_honoured_in_every_layout(tmp_path, name):
    ALL[name](tmp_path/name)
    usual = open_data(tmp_path/name)
    camera = open_data(tmp_path/name, intrinsics=[9., 8., 7., 6.]).captures[0].intrinsics
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (9, 8, 7, 6)
    wide = open_data(tmp_path/name, fov=90.).captures[0].intrinsics
    assert wide.fy == pytest.approx(usual[0].rgb.shape[0]/2)
    unit = usual.format.metres_per_unit
    twice = open_data(tmp_path/name, metres_per_unit=2*unit, offset=2*usual.format.offset)
    assert np.allclose(twice[0].depth, 2*usual[0].depth, atol=1e-5)
    if name == 'flat': assert len(open_data(tmp_path/name, views=2).scenes) == 6
    else:
        with pytest.raises(DataError, match='knows its scenes'): open_data(tmp_path/name, views=2)
    with pytest.raises(DataError, match="found 'scale', expected some of layout"):
        open_data(tmp_path/name, scale=2)


def test_the_published_range_can_be_stated(tmp_path):
    write_flat(tmp_path/'flat')
    save_stated(tmp_path/'flat', max_depth=20, views=2)
    near, far = open_data(tmp_path/'flat', max_depth=10.), open_data(tmp_path/'flat')
    assert np.allclose(2*near[0].depth, far[0].depth, atol=1e-5) and len(far.scenes) == 6
    assert far.format.max_depth == 20


@pytest.mark.parametrize('text, message', [
    ('{', 'not readable as JSON'), ('[1]', 'found list'), ('{"views": 0}', 'views is 0'),
    ('{"metres_per_unit": "1"}', "metres_per_unit is '1', expected a number above 0"),
    ('{"kind": "disparity"}', "expected 'z' or 'distance'"), ('{"fov": 200}', 'fov is 200'),
    ('{"intrinsics": [1, 2, 3]}', 'the four numbers'), ('{"bitdepth": 8}', "found 'bitdepth'")])
def test_a_statement_that_cannot_be_understood(tmp_path, text, message):
    write_flat(tmp_path/'flat')
    (tmp_path/'flat'/'synthdepth.json').write_text(text)
    with pytest.raises(DataError, match=message): open_data(tmp_path/'flat')
    assert any(message in p for p in check_data(tmp_path/'flat', progress=False).problems)


def test_a_folder_of_pairs_with_other_names(tmp_path):
    for i in range(4):
        rgb, depth, _ = toy_capture(i, 0)
        for kind in ('image', 'depth'): (tmp_path/kind).mkdir(exist_ok=True)
        Image.fromarray(rgb).save(tmp_path/f'image/IMG_{i}.jpg', quality=95)
        Image.fromarray((depth*1000).astype(np.uint16)).save(tmp_path/f'depth/IMG_{i}_depth.png')
    with pytest.raises(DataError, match='"layout": "pairs" and "metres_per_unit"'):
        open_data(tmp_path)
    with pytest.raises(DataError, match='nothing says what a stored number is in metres'):
        open_data(tmp_path, 'pairs')
    data = open_data(tmp_path, 'pairs', metres_per_unit=.001, views=2, fov=60.)
    assert len(data) == 4 and len(data.scenes) == 2 and data[0].capture.intrinsics.cx == 32
    assert np.abs(data[3].depth - toy_capture(3, 0)[1]).max() <= .001
    one = open_data(tmp_path, 'pairs', metres_per_unit=.001)
    with pytest.raises(DataError, match='found 1 scene.*views'): split_by_scene(one)


def test_names_of_another_folder_of_rgb_and_depth(tmp_path):
    for kind in ('rgb', 'depth'): (tmp_path/kind).mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path/'rgb/a.png')
    Image.new('I;16', (8, 8)).save(tmp_path/'depth/a.png')
    with pytest.raises(DataError, match='(?s)rgb/rgb_0000.png.*"layout": "pairs".*dataset.json'):
        open_data(tmp_path)


def test_depth_of_another_size_is_read_where_that_is_stated(tmp_path):
    folder = write_synthdepth(tmp_path/'set', scenes=2, views=1)
    for path in (folder/'depth').iterdir():
        Image.fromarray(np.array(Image.open(path))[::2, ::2]).save(path)
    with pytest.raises(DataError, match='48x64 pixels, but .* has 24x32.*"fit_rgb": true'):
        open_data(folder)[0]
    told = open_data(folder, fit_rgb=True)
    info = json.loads((folder/'dataset.json').read_text())
    info['depth']['fit_rgb'] = True
    (folder/'dataset.json').write_text(json.dumps(info))
    for data in (told, open_data(folder)):
        assert data[0].rgb.shape == (24, 32, 3) and data[0].depth.shape == (24, 32)
        batch = next(iter(loader(data, None)))
        assert batch['rgb'].shape == (2, 3, 24, 32)
        camera = data.captures[0].intrinsics  # of the picture, which is twice as large
        assert data[0].capture.intrinsics == camera.scaled(.5, .5)
        assert batch['intrinsics'][0, 0] == pytest.approx(camera.fx/2)
    assert not any('intrinsics' in p for p in check_data(folder, progress=False).problems)


@pytest.mark.parametrize('change, message', [
    (lambda rgb: rgb//64, 'nearly black'), (lambda rgb: 255 - rgb//64, 'nearly white')])
def test_pictures_that_show_nothing(tmp_path, change, message):
    folder = write_synthdepth(tmp_path, scenes=2, views=1)
    for path in (folder/'rgb').iterdir():
        Image.fromarray(change(np.array(Image.open(path)))).save(path)
    assert sum(message in p for p in check_data(folder, progress=False).problems) == 2


def test_captures_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    data = open_data(write_synthdepth(tmp_path/'set', scenes=4, views=4))
    monkeypatch.setenv('SYNTHDEPTH_MEMORY_GB', '0.0001')
    with pytest.raises(DataError, match=r'16 captures at 48x64 take 246.*cache="FOLDER"'):
        Pairs(data, (48, 64), cache=True)
    assert len(Pairs(data, (48, 64), cache=str(tmp_path/'cache'))) == 16
    monkeypatch.setenv('SYNTHDEPTH_MEMORY_GB', 'much')
    with pytest.raises(DataError, match="SYNTHDEPTH_MEMORY_GB is 'much'"):
        keep_captures(data, (48, 64), 1., True)


@pytest.mark.parametrize('shuffle', [False, True])
def test_batches_of_captures_of_several_sizes(tmp_path, shuffle):
    sizes = [(24, 32), (24, 32), (24, 32), (30, 40), (24, 32)]
    parts = [open_data(write_synthdepth(tmp_path/str(i), scenes=1, views=1, size=size))
             for i, size in enumerate(sizes)]
    data = replace(parts[0], captures=tuple(c for part in parts for c in part.captures))
    batches = loader(data, None, batch_size=2, shuffle=shuffle)
    found = [b['index'].tolist() for b in batches]
    assert len(batches) == len(found) and sorted(sum(found, [])) == [0, 1, 2, 3, 4]
    if not shuffle: assert found == [[0, 1], [2], [3], [4]]
    for batch in batches:
        for i, depth in zip(batch['index'].tolist(), batch['depth']):
            assert torch.equal(depth, torch.tensor(data[i].depth))


def test_a_file_whose_name_lies(tmp_path):
    np.save(tmp_path/'a.npy', np.array([1], object), allow_pickle=True)
    for name in ('a.npz', 'a.exr', 'a.pfm', 'a.tif'): (tmp_path/name).write_bytes(b'no such thing')
    for path in sorted(Path(tmp_path).iterdir()):
        with pytest.raises(DataError, match=f'{path.name}: not a '): read_stored(path)
