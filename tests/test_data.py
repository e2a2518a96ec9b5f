"Datasets on disk: every layout read exactly, every fault named with its file."
import json
import math
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from toy import published_code, toy_capture, write_flat, write_synthdepth, write_tasks

from synthdepth.camera import Intrinsics
from synthdepth.data import Capture, DataError, DepthData, DepthFormat, Member, check_data
from synthdepth.data import check_split, list_captures, open_data, read_depth, read_rgb, show_pairs
from synthdepth.data import split_by_scene, split_over_images
from synthdepth.colour import NO_DEPTH, colour_depth
from synthdepth.camera import depth_to_distance, distance_to_depth


@pytest.fixture
def ours(tmp_path):
    return write_synthdepth(tmp_path/'ours')


def save(array, path, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, kind)
    return path


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    return exif


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# geometry

def test_ratio_of_distance_to_depth_by_hand():
    camera = Intrinsics.from_fov(60, 640, 480)
    ratio = depth_to_distance(np.ones((480, 640), np.float32), camera)
    x, y = 319.5/camera.fx, 239.5/camera.fy
    assert ratio[0, 0] == pytest.approx(math.sqrt(1 + x*x + y*y), rel=1e-6)
    assert ratio[0, 0] == pytest.approx(ratio[-1, -1]) and ratio.min() == pytest.approx(1, abs=1e-5)
    corner = math.sqrt(1 + math.tan(math.radians(30))**2*(1 + (4/3)**2))
    assert ratio.max() == pytest.approx(corner, abs=.003)
    assert corner == pytest.approx(1.39, abs=.003)


def test_distance_and_back():
    camera = Intrinsics(50, 60, 20, 30)
    depth = np.random.default_rng(0).uniform(.1, 9, (48, 64)).astype(np.float32)
    assert np.allclose(distance_to_depth(depth_to_distance(depth, camera), camera), depth,
                       rtol=1e-6)


def test_scaled_camera_sees_the_same_rays():
    camera = Intrinsics.from_fov(50, 64, 48)
    half = camera.scaled(.5, .5)
    assert half == Intrinsics.from_fov(50, 32, 24)


# layouts

def test_synthdepth_layout(ours):
    data = open_data(ours)
    assert (len(data), data.layout, len(data.scenes)) == (12, 'synthdepth', 4)
    rgb, depth, camera = toy_capture(1, 2)
    sample = data[5]
    assert sample.capture.scene == 'toy-0-00001' and sample.capture.view == 2
    assert sample.capture.intrinsics == camera
    assert (sample.rgb == rgb).all() and sample.rgb.dtype == np.uint8
    assert np.abs(sample.depth - depth).max() <= .00051 and sample.depth.dtype == np.float32
    assert (sample.valid == (depth > 0)).all() and 0 < sample.valid.mean() < 1
    assert len(list(data)) == 12 and '12 captures of 4 scenes' in repr(data)


@pytest.mark.parametrize('write, layout', [(write_flat, 'flat'), (write_tasks, 'tasks')])
def test_published_layouts(tmp_path, write, layout):
    data = open_data(write(tmp_path/'set'), max_depth=10, fov=60, views=3)
    assert (len(data), data.layout, data.format.kind,
            len(data.scenes)) == (12, layout, 'distance', 4)
    assert all(len(views) == 3 for views in data.scenes.values())
    _, depth, camera = toy_capture(1, 2)
    sample = data[5]
    assert sample.capture.view == 2
    seen = sample.valid
    assert (seen
            == ((published_code(depth, camera) < 255) & (published_code(depth, camera) > 0))).all()
    distance = depth_to_distance(sample.depth, camera)
    assert np.abs(distance
                  - depth_to_distance(depth, camera))[seen].max() <= 10/255/2 + 1e-5  # half a code


def test_maximum_depth_and_field_of_view_are_used(tmp_path):
    write_flat(tmp_path)
    near, far = open_data(tmp_path, max_depth=10)[0], open_data(tmp_path, max_depth=20)[0]
    assert np.allclose(far.depth, 2*near.depth)
    wide = open_data(tmp_path, fov=90)[0]
    assert wide.depth[0, 0] < near.depth[0, 0] or wide.depth[-1, -1] < near.depth[-1, -1]


def test_flat_takes_15_views_for_a_scene_and_follows_the_numbers(tmp_path):
    write_flat(tmp_path, scenes=2, views=15)
    data = open_data(tmp_path)
    assert [len(v) for v in data.scenes.values()] == [15, 15]
    for name in ('rgb/rgb_0003.png', 'depth/depth_0003.png'):
        (tmp_path/name).unlink()
    assert [len(v) for v in open_data(tmp_path).scenes.values()] == [14, 15]


def test_gray_written_as_rgb_is_read_but_colours_are_not(tmp_path):
    write_flat(tmp_path)
    code = np.array(Image.open(tmp_path/'depth/depth_0000.png'))
    expected = open_data(tmp_path)[0].depth
    save(np.dstack([code]*3), tmp_path/'depth/depth_0000.png')
    assert (open_data(tmp_path)[0].depth == expected).all()
    save(colour_depth(expected), tmp_path/'depth/depth_0000.png')
    with pytest.raises(DataError,
                       match=r'depth_0000\.png: found 8-bit RGB, expected depth in one gray'):
        open_data(tmp_path)[0]


def test_distance_can_be_taken_for_depth_as_the_study_did(tmp_path):
    data = open_data(write_flat(tmp_path))
    wrong = replace(data, format=replace(data.format, kind='z'))
    camera = data.captures[0].intrinsics
    assert np.allclose(wrong[0].depth, depth_to_distance(data[0].depth, camera), atol=1e-5)


def test_layout_can_be_named_and_unknown_ones_are_refused(ours, tmp_path):
    assert open_data(ours, 'synthdepth').layout == 'synthdepth'
    empty = tmp_path/'empty'
    empty.mkdir()
    with pytest.raises(DataError, match="unknown layout 'bonn'"):
        open_data(ours, 'bonn')
    with pytest.raises(DataError, match='no layout recognised; found nothing'):
        open_data(empty)
    with pytest.raises(DataError, match='found nothing, expected a dataset folder'):
        open_data(tmp_path/'missing')
    with pytest.raises(DataError, match='found a file'):
        open_data(ours/'dataset.json')


def test_real_nyu(real):
    data = open_data(real/'nyuv2')
    assert (len(data), data.layout) == (327, 'nyuv2')
    assert 20 < len(data.scenes) < 100
    sample = data[0]
    code = np.array(Image.open(data.captures[0].depth))
    assert np.allclose(sample.depth, (code + .5)*9.99547/255, atol=1e-5)
    assert sample.rgb.shape == (480, 640, 3)
    assert sample.capture.meta['room'] == 'kitchen'
    split_by_scene(data)


def test_real_7scenes(real):
    data = open_data(real/'7scenes_redkitchen')
    assert (len(data), data.layout, len(data.scenes)) == (25, '7scenes', 1)
    sample = data[3]
    raw = np.array(Image.open(sample.capture.depth))
    assert (sample.valid == ((raw > 0) & (raw < 65535))).all()
    assert sample.depth.max() < 10 and np.shape(sample.capture.meta['pose']) == (4, 4)


def test_nyu_scene_column_takes_precedence(tmp_path):
    for i in range(4):
        save(np.zeros((8, 8, 3), np.uint8), tmp_path/f'rgb/{i:05d}.png')
        save(np.full((8, 8), 9, np.uint8), tmp_path/f'depth/{i:05d}.png')
    rows = [f'{i:05d},{room}\n' for i,
            room in enumerate(('kitchen', 'kitchen', 'office', 'kitchen'))]
    (tmp_path/'index.csv').write_text('id,room\n' + ''.join(rows))
    assert [len(v) for v in open_data(tmp_path).scenes.values()] == [2, 1, 1]
    (tmp_path/'index.csv').write_text('id,room,scene\n'
                                      + ''.join(f'{i:05d},kitchen,s{i//3}\n' for i in range(4)))
    assert open_data(tmp_path).scenes == {'s0': [0, 1, 2], 's1': [3]}


# faults, one by one: opening or reading stops and names the file; the check lists them

def test_incomplete_folder(ours):
    (ours/'dataset.json').unlink()
    with pytest.raises(DataError, match=r'no dataset\.json.*incomplete'):
        open_data(ours)
    assert 'incomplete' in check_data(ours, progress=False).problems[0]
    shutil.rmtree(ours/'rgb')
    (ours/'metadata.jsonl').unlink()
    (ours/'.render').mkdir()
    with pytest.raises(DataError, match='incomplete'):
        open_data(ours)


def described(version=1, **depth):
    usual = dict(kind='z', metres_per_unit=1, invalid=0, bit_depth=16)
    return json.dumps(dict(format_version=version, depth=usual | depth))


@pytest.mark.parametrize('text, message', [
    ('{', 'JSONDecodeError'), ('[]', 'TypeError'), ('{"format_version": 1}', "KeyError.*'depth'"),
    (described(version=7), 'version 7'), (described(kind='ray'), "'ray'"),
    (described(metres_per_unit=0), 'above'), (described(bit_depth=12), '12')])
def test_broken_description(ours, text, message):
    (ours/'dataset.json').write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(ours)
    assert len(check_data(ours, progress=False).problems) == 1


def change_line(ours, n, edit):
    lines = (ours/'metadata.jsonl').read_text().splitlines()
    lines[n] = edit(lines[n])
    (ours/'metadata.jsonl').write_text('\n'.join(lines) + '\n')


@pytest.mark.parametrize('edit, message', [
    (lambda line: line[:50], 'line 3 is broken'),
    (lambda line: '3', 'line 3 is broken'),
    (lambda line: line.replace('"scene"', '"place"'), "line 3 is broken.*'scene'"),
    (lambda line: line.replace('"fx"', '"f"'), "line 3 is broken.*'fx'"),
    (lambda line: line.replace('rgb_00002', 'rgb_00001'), 'rgb_00001.*listed again in line 3'),
    (lambda line: line.replace('depth_00002', 'depth_00099'),
     'depth_00099.*no such file, named in line 3'),
    (lambda line: line.replace('rgb/rgb_00002', '../ours/rgb/rgb_00002'),
     'points outside the folder')])
def test_broken_metadata(ours, edit, message):
    change_line(ours, 2, edit)
    with pytest.raises(DataError, match=message):
        list(open_data(ours))  # a missing file is found when it is read, all else at opening
    report = check_data(ours, progress=False)
    assert any(message.split('.*')[-1].split(' in line')[0] in p for p in report.problems)
    assert report.captures == 11


def test_a_missing_file_is_found_when_it_is_read_and_by_check(ours):
    (ours/'rgb/rgb_00003.png').unlink()
    (ours/'depth/depth_00007.png').unlink()
    data = open_data(ours)
    assert len(data) == 12 and data[2].valid.any()
    for i, name in ((3, 'rgb_00003.png'), (7, 'depth_00007.png')):
        message = f'{name}: no such file, named in line {i + 1} of metadata.jsonl'
        with pytest.raises(DataError, match=message): data[i]
        assert any(message in p for p in check_data(ours, progress=False).problems)
        with pytest.raises(DataError, match=message): data.subset([i])[0]
    _, listing = list_captures(ours, files=True)
    assert [c.line for c in listing.captures] == [1, 2, 3, 5, 6, 7, 9, 10, 11, 12]


def test_opening_asks_for_no_picture(ours, monkeypatch):
    "Neither for the files nor for the names in their folders."
    import os
    asked, scandir, stat = [], os.scandir, os.stat
    def note(real):
        def call(path, *args, **kw):
            asked.append(str(path))
            return real(path, *args, **kw)
        return call
    with monkeypatch.context() as m:
        m.setattr(os, 'scandir', note(scandir))
        m.setattr(os, 'stat', note(stat))
        data = open_data(ours)
    assert asked and not [p for p in asked if p.endswith('.png') or p.endswith(('/rgb', '/depth'))]
    assert len(data) == 12


def test_captures_share_scenes_and_cameras_and_read_the_rest_when_asked(ours):
    data = open_data(ours)
    a, b, c = data.captures[0], data.captures[1], data.captures[3]
    assert a.scene is b.scene and a.intrinsics is b.intrinsics is c.intrinsics
    line = json.loads((ours/'metadata.jsonl').read_text().splitlines()[1])
    assert b.meta == line and b.meta['intrinsics']['fx'] == b.intrinsics.fx
    assert pickle.loads(pickle.dumps(data)).captures == data.captures
    assert {a, a} == {replace(a, meta={})} and a != b
    assert replace(a, rgb=b.rgb).rgb == ours/'rgb/rgb_00001.png'
    assert replace(a, view=9).meta == a.meta


def test_numbers_mean_what_json_says(ours):
    "Opening reads numbers as text: the camera and the view are those of the full line."
    change_line(ours, 0, lambda line: json.dumps(json.loads(line) | dict(
        view=2.0, scene=7, intrinsics=dict(fx=1e2, fy=1.25e-1, cx=32, cy=.1 + .2))))
    edit_json(ours/'dataset.json', scenes=5)
    c = open_data(ours).captures[0]
    assert (c.view, c.scene, c.intrinsics) == (2, '7', Intrinsics(100., .125, 32., .1 + .2))


def test_counts_must_agree(ours):
    edit_json(ours/'dataset.json', captures=13, scenes=5)
    problems = check_data(ours, progress=False).problems
    assert any('found 12 captures, dataset.json says 13' in p for p in problems)
    assert any('found 4 scenes, dataset.json says 5' in p for p in problems)


def test_size_must_agree(ours):
    edit_json(ours/'dataset.json', size=[480, 640])
    assert any('states height, width [480, 640]' in p
               for p in check_data(ours, progress=False).problems)


def test_missing_partners(tmp_path):
    write_flat(tmp_path)
    (tmp_path/'depth/depth_0003.png').unlink()
    (tmp_path/'rgb/rgb_0007.png').unlink()
    with pytest.raises(DataError,
                       match='found 2 problems.*\n.*rgb_0003.*no depth picture.*\n'
                             '.*depth_0007.*no RGB'):
        open_data(tmp_path)
    report = check_data(tmp_path, progress=False)
    assert len(report.problems) == 2 and report.captures == 10 and not report.ok


def test_two_files_with_one_number(tmp_path):
    write_flat(tmp_path)
    shutil.copy(tmp_path/'rgb/rgb_0001.png', tmp_path/'rgb/rgb_001.png')
    with pytest.raises(DataError, match='same number'):
        open_data(tmp_path)


def test_files_that_metadata_does_not_know(ours):
    shutil.copy(ours/'rgb/rgb_00000.png', ours/'rgb/rgb_00077.png')
    first = check_data(ours, progress=False).problems[0]
    assert 'rgb_00077.png: no line of metadata.jsonl names it' in first


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


FAULTS = [
    ('rgb', cut, 'not a whole picture'),
    ('depth', cut, 'not a whole picture'),
    ('rgb', lambda p: p.write_bytes(b''), 'not a whole picture'),
    ('rgb', lambda p: p.write_text('hello'), 'not a whole picture'),
    ('rgb', lambda p: save(np.full((48, 64), -7, np.int32), p, 'TIFF'), 'found gray from -7 to -7'),
    ('rgb', lambda p: Image.open(p).save(p, exif=turned()), 'EXIF orientation is 6'),
    ('depth', lambda p: Image.open(p).save(p, exif=turned()), 'EXIF orientation is 6'),
    ('rgb', lambda p: save(np.full((40, 64, 3), 9, np.uint8) + np.arange(3, dtype=np.uint8), p),
     '40x64 pixels, but'),
    ('depth', lambda p: save(np.full((48, 64, 3), 7, np.uint8), p),
     'found 8-bit gray, expected depth in 16-bit gray'),
    ('depth', lambda p: save(np.full((48, 64, 3), (7, 8, 9), np.uint8), p),
     'found 8-bit RGB, expected depth in one gray channel'),
    ('depth', lambda p: save(np.full((48, 64), .7, np.float32), p, 'TIFF'),
     'found 32-bit floats, expected depth in 16-bit gray'),
    ('depth', lambda p: save(np.full((48, 64), 7, np.uint8), p),
     'found 8-bit gray, expected depth in 16-bit gray'),
    ('depth', lambda p: Image.new('P', (64, 48)).save(p), 'found palette'),
    ('depth', lambda p: Image.new('1', (64, 48)).save(p), 'found 1-bit'),
    ('depth', lambda p: Image.new('LA', (64, 48)).save(p), 'with alpha'),
    ('depth', lambda p: save(np.full((24, 32), 700, np.uint16) + np.arange(32, dtype=np.uint16), p),
     'but'),
]


@pytest.mark.parametrize('which, spoil, message', FAULTS)
def test_spoilt_file(ours, which, spoil, message):
    path = ours/which/f'{which}_00004.png'
    spoil(path)
    data = open_data(ours)
    with pytest.raises(DataError, match=message) as e:
        data[4]
    assert path.name in str(e.value)
    report = check_data(ours, progress=False)
    assert any(path.name in p and message in p for p in report.problems) and report.captures == 12
    assert data[5].valid.any()


@pytest.mark.parametrize('depth, message', [
    (np.zeros((48, 64), np.uint16), 'no pixel has a surface (all 3072 are invalid)'),
    (np.full((48, 64), 2500, np.uint16), 'every valid pixel is at 2.500 m')])
def test_useless_depth_can_be_read_and_is_reported(ours, depth, message):
    save(depth, ours/'depth/depth_00004.png')
    assert open_data(ours)[4].depth.max() == depth.max()/np.float32(1000)
    problems = check_data(ours, progress=False).problems
    assert len(problems) == 1 and message in problems[0]
    assert problems[0].startswith('depth/depth_00004.png')


def test_one_coloured_picture(ours):
    save(np.zeros((48, 64, 3), np.uint8), ours/'rgb/rgb_00002.png')
    first = check_data(ours, progress=False).problems[0]
    assert 'rgb_00002.png: all pixels have the colour (0, 0, 0)' in first


def test_intrinsics_of_another_size(ours):
    change_line(ours, 3, lambda line: line.replace('"width": 64', '"width": 640'))
    assert 'intrinsics are for 48x640' in check_data(ours, progress=False).problems[0]


def test_check_goes_on_after_every_fault(ours):
    cut(ours/'rgb/rgb_00001.png')
    cut(ours/'depth/depth_00001.png')
    save(np.zeros((48, 64), np.uint16), ours/'depth/depth_00005.png')
    change_line(ours, 7, lambda line: '{')
    report = check_data(ours, progress=False)
    text = str(report)
    for name in ('rgb_00001', 'depth_00001', 'depth_00005', 'line 8 is broken'):
        assert any(name in p for p in report.problems) and name in text
    assert not report.ok and f'{len(report.problems)} problems found' in text


def test_clean_sets_have_no_problems(ours, tmp_path):
    for path in (ours, write_flat(tmp_path/'flat'), write_tasks(tmp_path/'tasks')):
        report = check_data(path, views=3, progress=False)
        assert report.ok, report.problems
        assert 'no problems found' in str(report) and len(report.table) == 12
        assert report.table.height.eq(48).all() and report.table.valid.between(0, 1).all()
    assert any('8-bit labels: steps of 3.9 cm' in note for note in report.notes)


def test_real_sets_have_no_problems(real):
    report = check_data(real/'7scenes_redkitchen', progress=False)
    assert report.ok, report.problems


def rewrite_depths(ours, change):
    for path in sorted((ours/'depth').glob('*.png')):
        save(change(np.array(Image.open(path))).astype(np.uint16), path)


@pytest.mark.parametrize('change, message', [
    (lambda mm: np.where(mm > 0, np.minimum(mm, 3000), 0),
     'exactly the largest value, 3000 (3.000 m)'),
    (lambda mm: np.where(mm > 0, mm, 65535), 'exactly the largest value, 65535'),
    (lambda mm: mm//50*50, 'an 8-bit picture in 16 bits?'),
    (lambda mm: mm/1000, 'is metres_per_unit right?')])
def test_faults_of_the_whole_set(ours, change, message):
    rewrite_depths(ours, change)
    assert any(message in p for p in check_data(ours, progress=False).problems)


def test_empty_folder(tmp_path):
    (tmp_path/'rgb').mkdir()
    (tmp_path/'depth').mkdir()
    with pytest.raises(DataError, match='found no captures'):
        open_data(tmp_path)
    assert 'found no captures' in check_data(tmp_path, progress=False).problems[0]
    assert 'found nothing' in check_data(tmp_path/'absent', progress=False).problems[0]


# float depth

def test_npy_depth_and_nan(tmp_path):
    format, path = DepthFormat(metres_per_unit=1., bit_depth=32), tmp_path/'d.npy'
    depth = np.array([[1.5, 0], [2, 3]], np.float32)
    np.save(path, depth)
    assert (read_depth(path, format) == depth).all()
    depth[0, 0] = np.nan
    np.save(path, depth)
    with pytest.raises(DataError, match=r'd\.npy: 1 of 4 values are NaN'):
        read_depth(path, format)
    assert read_depth(path, replace(format, invalid=(0, float('nan'))))[0, 0] == 0
    np.save(path, -depth)
    with pytest.raises(DataError, match='negative'):
        read_depth(path, format)
    np.save(path, np.ones((2, 2), int))
    with pytest.raises(DataError, match='found 64-bit whole numbers, expected depth in floats'):
        read_depth(path, format)
    path.write_bytes(b'no')
    with pytest.raises(DataError, match='not a readable .npy'):
        read_depth(path, format)


def test_check_reports_nan_in_npy(ours):
    depth = json.loads((ours/'dataset.json').read_text())['depth']
    edit_json(ours/'dataset.json', depth=depth | dict(bit_depth=32, metres_per_unit=1.))
    for path in sorted((ours/'depth').glob('*.png')):
        np.save(path.with_suffix('.npy'), np.array(Image.open(path), np.float32)/1000)
        path.unlink()
    lines = [json.loads(line) for line in (ours/'metadata.jsonl').read_text().splitlines()]
    lines = [line | dict(depth_file_name=line['depth_file_name'].replace('png', 'npy'))
             for line in lines]
    (ours/'metadata.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    assert check_data(ours, progress=False).ok
    bad = np.load(ours/'depth/depth_00003.npy')
    bad[:2] = np.nan
    np.save(ours/'depth/depth_00003.npy', bad)
    assert check_data(ours, progress=False).problems == [
        'depth/depth_00003.npy: 128 of 3072 values are NaN, infinite or negative; '
        'expected metres, with 0 where there is no surface']


def test_distance_needs_a_camera(tmp_path):
    path = save(np.full((4, 4), 9, np.uint8), tmp_path/'d.png')
    with pytest.raises(DataError, match='needs intrinsics'):
        read_depth(path, DepthFormat('distance', .1, bit_depth=8))


def test_missing_file_and_rgba(tmp_path):
    with pytest.raises(DataError, match='no such file'):
        read_rgb(tmp_path/'x.png')
    assert read_rgb(save(np.full((4, 5, 4), 9, np.uint8), tmp_path/'x.png')).shape == (4, 5, 3)


# members of archives

class InMemory(Member):
    blobs = {}

    def read(self): return self.blobs[self.path]


class Numbers(InMemory):
    decoded = True


def test_a_member_is_read_like_a_file(ours):
    data = open_data(ours)
    sample, c = data[4], data.captures[4]
    InMemory.blobs = {'a/rgb.png': c.rgb.read_bytes(), 'a/depth.png': c.depth.read_bytes()}
    member = Capture(InMemory('a.zip', 'a/rgb.png'), InMemory('a.zip', 'a/depth.png'), 's', 0)
    inside = DepthData(ours, (member, c), data.format, 'mine')
    assert (inside[0].rgb == sample.rgb).all() and (inside[0].depth == sample.depth).all()
    assert inside.files() == ['a.zip', str(c.rgb), str(c.depth)]
    assert (member.rgb.name, str(member.rgb)) == ('rgb.png', 'a/rgb.png')
    InMemory.blobs['a/rgb.png'] = b'no'
    with pytest.raises(DataError, match='a/rgb.png: not a whole picture'): inside[0]
    save(np.full((4, 4), 77, np.uint8), ours/'gray.png')
    InMemory.blobs['b.png'] = (ours/'gray.png').read_bytes()
    assert (read_rgb(InMemory('a.zip', 'b.png')) == np.full((4, 4, 3), 77)).all()


def test_a_member_may_hold_numbers():
    InMemory.blobs = {'rgb': np.full((2, 3, 3), 9, np.uint8), 'd': np.full((2, 3), 2, np.float32)}
    format = DepthFormat(metres_per_unit=1., bit_depth=32)
    assert (read_rgb(Numbers('a.mat', 'rgb')) == 9).all()
    assert (read_depth(Numbers('a.mat', 'd'), format) == 2).all()


# splits

def toy_data(tmp_path, scenes):
    "A dataset of this many scenes that is never read."
    data = open_data(write_synthdepth(tmp_path/'small', scenes=1, views=2, size=(16, 16)))
    return replace(data, captures=tuple(replace(c, scene=f's{i:03d}') for i in range(scenes)
                                        for c in data.captures))


@pytest.mark.parametrize('scenes, expected',
                         [(200, (160, 20, 20)), (15, (12, 2, 1)), (10, (8, 1, 1)), (4, (2, 1, 1)),
                                              (3, (1, 1, 1))])
def test_split_counts(tmp_path, scenes, expected):
    splits = split_by_scene(toy_data(tmp_path, scenes))
    assert tuple(len(s.scenes) for s in splits.values()) == expected
    assert sum(len(s) for s in splits.values()) == 2*scenes


def test_split_is_deterministic_and_depends_on_the_seed(tmp_path):
    data = toy_data(tmp_path, 20)
    splits = split_by_scene(data, seed=3)
    assert split_by_scene(data, seed=3) == splits != split_by_scene(data, seed=4)
    test = split_by_scene(data, seed=0)['test']
    assert list(test.scenes) == ['s011', 's018']  # the same for ever
    backwards = data.subset(reversed(range(len(data))))
    assert set(split_by_scene(backwards)['test'].scenes) == set(split_by_scene(data)['test'].scenes)


def test_split_needs_enough_scenes_and_good_fractions(tmp_path):
    data = toy_data(tmp_path, 2)
    with pytest.raises(DataError, match='found 2 scenes, expected at least one for each'):
        split_by_scene(data)
    for bad in ((.5, .5), (.9, .2, -.1), (.5, .1, .1)):
        with pytest.raises(DataError, match='found fractions'):
            split_by_scene(data, bad)
    halves = split_by_scene(data, (.5, 0, .5))
    assert [len(s) for s in halves.values()] == [2, 0, 2]


def test_leakage_is_found(tmp_path):
    data = toy_data(tmp_path, 20)
    check_split(split_by_scene(data))
    leaky = split_over_images(data)
    assert [len(s) for s in leaky.values()] == [32, 4, 4]
    dealt = sorted(id(c) for s in leaky.values() for c in s.captures)
    assert dealt == sorted(map(id, data.captures))
    with pytest.raises(DataError, match='of 20 scenes are in more than one split.*train and'):
        check_split(leaky)


# pictures

def test_colour_depth_is_striped_gray_where_nothing_is_known():
    depth = np.array([[0, 1, 5, 20, np.nan]], np.float32)
    colours = colour_depth(depth, vmax=10)
    assert colours.shape == (1, 5, 3) and colours.dtype == np.uint8
    assert np.isin(colours[0, [0, 4]], NO_DEPTH).all()
    assert (np.ptp(colours[0, [0, 4]], axis=-1) == 0).all()
    assert (colours[0, 3] == colour_depth(np.array([[10.]]))[0, 0]).all()
    masked = colour_depth(depth, np.array([[True, False, True, True, True]]))
    assert np.isin(masked[0, 1], NO_DEPTH).all() and not np.isin(masked[0, 0], NO_DEPTH).all()
    wide = colour_depth(np.zeros((64, 64)), cmap='cividis')
    assert set(np.unique(wide)) == set(NO_DEPTH)


def test_show_pairs_draws_one_picture_and_one_depth_map_each(ours):
    fig = show_pairs(open_data(ours), [0, 4, 8])
    assert len(fig.axes) == 7  # and a colour bar
    with pytest.raises(DataError, match='no indices'):
        show_pairs(open_data(ours), [])
