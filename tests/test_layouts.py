"Benchmarks as their authors distribute them: small files of each, real samples, what is missing."
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from toy import toy_capture, write_synthdepth

from synthdepth.data import LAYOUTS, DataError, associate, check_data, open_data, pack_dataset

SIZE = (48, 64)


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def toys(n=2): return [toy_capture(i, 0, SIZE)[:2] for i in range(n)]


def millimetres(depth): return (depth*1000).round().astype(np.uint16)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rotated(mm): return (mm << 3 | mm >> 13).astype(np.uint16)


def nyuv2_mat(root):
    h5py, io = pytest.importorskip('h5py'), pytest.importorskip('scipy.io')
    root.mkdir(parents=True)
    made = toys(3)
    with h5py.File(root/'nyu_depth_v2_labeled.mat', 'w') as f:
        f['images'] = np.stack([rgb.transpose(2, 1, 0) for rgb, _ in made])
        f['depths'] = np.stack([depth.T for _, depth in made])
        names = ['kitchen_0004', 'kitchen_0004', 'office_0001']
        for i, name in enumerate(names):
            f[f'refs/{i}'] = np.array([[ord(c)] for c in name], np.uint16)
        f['scenes'] = np.array([[f[f'refs/{i}'].ref for i in range(3)]], h5py.ref_dtype)
    io.savemat(root/'splits.mat', dict(testNdxs=np.array([[1], [3]]), trainNdxs=np.array([[2]])))
    return [made[0], made[2]]


def nyuv2_sync(root):
    for i, (rgb, depth) in enumerate(toys()):
        save(rgb, root/f'kitchen_000{i}/rgb_00045.png')
        save(millimetres(depth), root/f'kitchen_000{i}/sync_depth_00045.png')


def seven(root):
    for i, (rgb, depth) in enumerate(toys()):
        save(rgb, root/f'seq-01/frame-{i:06d}.color.png')
        mm = millimetres(depth)
        save(np.where(mm > 0, mm, 65535).astype(np.uint16), root/f'seq-01/frame-{i:06d}.depth.png')


def tum(root):
    for i, (rgb, depth) in enumerate(toys()):
        save(rgb, root/f'rgb/{1 + i/30:.6f}.png')
        save((depth*5000).round().astype(np.uint16), root/f'depth/{1.01 + i/30:.6f}.png')
    lines = [f'{1 + i/30:.6f} rgb/{1 + i/30:.6f}.png\n' for i in range(2)]
    write_text(root/'rgb.txt', '# colour\n' + ''.join(lines) + '7.0 rgb/none.png\n')
    write_text(root/'depth.txt', '# depth\n'
               + ''.join(f'{1.01 + i/30:.6f} depth/{1.01 + i/30:.6f}.png\n' for i in range(2)))


def scannet(root):
    for i, (rgb, depth) in enumerate(toys()):
        save(rgb, root/f'scene0707_00/color/{i}.png')
        save(millimetres(depth), root/f'scene0707_00/depth/{i}.png')
    write_text(root/'scene0707_00/intrinsic/intrinsic_depth.txt',
               '577.87 0 319.5 0\n0 577.87 239.5 0\n0 0 1 0\n0 0 0 1\n')


def kitti_png(depth, path): save((depth*256).round().astype(np.uint16), path)


def kitti_selection(root):
    drive = '2011_09_26_drive_0002_sync'
    for i, (rgb, depth) in enumerate(toys()):
        save(rgb, root/f'image/{drive}_image_000000000{i}_image_02.png')
        kitti_png(depth,
                  root/f'groundtruth_depth/{drive}_groundtruth_depth_000000000{i}_image_02.png')
        write_text(root/f'intrinsics/{drive}_image_000000000{i}_image_02.txt',
                   '721.5 0 596.5 0 721.5 149.8 0 0 1')


def kitti(root):
    for i, (rgb, depth) in enumerate(toys()):
        save(rgb, root/f'raw/2011_09_26/2011_09_26_drive_0002_sync/image_02/data/000000000{i}.png')
        annotated = root/'val/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02'
        kitti_png(depth, annotated/f'000000000{i}.png')
    write_text(root/'raw/2011_09_26/calib_cam_to_cam.txt',
               'P_rect_02: 721.5 0 609.5 44.8 0 721.5 172.8 .2 0 0 1 .002\n')


def diode(root):
    for i, (rgb, depth) in enumerate(toys()):
        name = root/f'indoors/scene_0001{i}/scan_00183/0001{i}_00183_indoors_150_000'
        save(rgb, name.with_suffix('.png'))
        np.save(f'{name}_depth.npy', np.where(depth > 0, depth, 7.)[..., None].astype(np.float32))
        np.save(f'{name}_depth_mask.npy', (depth > 0).astype(np.float32))


def sunrgbd(root):
    for i, (rgb, depth) in enumerate(toys()):
        folder = root/f'kv1/NYUdata/NYU000{i}'
        save(rgb, folder/'image/NYU.png')
        save(rotated(millimetres(depth)), folder/'depth/NYU.png')
        write_text(folder/'intrinsics.txt', '518.8 0 325.5\n0 519.4 253.7\n0 0 1\n')


def ibims(root):
    io = pytest.importorskip('scipy.io')
    root.mkdir(parents=True)
    for i, (rgb, depth) in enumerate(toys()):
        masked = depth > 0
        data = dict(rgb=rgb, depth=np.where(masked, depth, 7.).astype(np.float32),
                    mask_invalid=masked.astype(np.uint8),
                    mask_transp=np.ones(SIZE, np.uint8),
                    calib=np.array([[550., 0, 320], [0, 551, 240], [0, 0, 1]]))
        io.savemat(root/f'corridor_0{i}.mat', dict(data=data))


WRITERS = dict(nyuv2_mat=nyuv2_mat, nyuv2_sync=nyuv2_sync, tum=tum, scannet=scannet,
               kitti_selection=kitti_selection,
               kitti=kitti, diode=diode, sunrgbd=sunrgbd, ibims=ibims) | {'7scenes': seven}
STEP = dict(tum=1/5000, kitti=1/256, kitti_selection=1/256, nyuv2_mat=0, diode=0, ibims=0)
FOCAL = dict(tum=525, scannet=577.87, kitti=721.5, kitti_selection=721.5, diode=886.81,
             sunrgbd=518.8, ibims=550,
             nyuv2_mat=518.858, nyuv2_sync=518.858)


@pytest.mark.parametrize('name', WRITERS)
def test_native_form_is_read_exactly(tmp_path, name):
    expected = WRITERS[name](tmp_path/name) or toys()
    data = open_data(tmp_path/name)
    assert data.layout == name and len(data) == len(expected)
    for sample, (rgb, depth) in zip(data, expected):
        assert (sample.rgb == rgb).all() and (sample.valid == (depth > 0)).all()
        assert np.abs(sample.depth - depth).max() <= STEP.get(name, .001)/2 + 1e-6
        assert sample.depth.dtype == np.float32 and sample.rgb.dtype == np.uint8
        assert name not in FOCAL or sample.capture.intrinsics.fx == FOCAL[name]
    found = check_data(tmp_path/name, progress=False).problems
    assert not [p for p in found if 'different depth values' not in p]  # toys have few


def test_every_layout_has_a_test(tmp_path):
    with pytest.raises(DataError): open_data(tmp_path)  # which registers them all
    others = {'synthdepth', 'packed', 'tasks', 'flat', 'nyuv2', 'pairs', 'several'}
    assert set(WRITERS) | others == set(LAYOUTS)


def test_the_order_in_which_a_folder_is_asked():
    "The particular before the general: a folder may hold NYU's archive and its folders."
    names = list(LAYOUTS)
    assert names[:4] == ['packed', 'synthdepth', 'tasks', 'flat']
    assert names.index('nyuv2') < names.index('nyuv2_mat') < names.index('nyuv2_sync')


def test_nyu_labelled_lists_the_test_pictures_and_their_scenes(tmp_path):
    nyuv2_mat(tmp_path/'nyu')
    data = open_data(tmp_path/'nyu')
    assert list(data.scenes) == ['nyuv2/kitchen_0004', 'nyuv2/office_0001']
    assert [c.view for c in data.captures] == [0, 2]
    assert len(open_data(tmp_path/'nyu/nyu_depth_v2_labeled.mat')) == 2
    (tmp_path/'nyu/splits.mat').unlink()
    assert len(open_data(tmp_path/'nyu')) == 3


# what is missing or damaged: (layout, what is done to its folder, what the message says)

def drop(pattern): return lambda root: next(root.rglob(pattern)).unlink()


def cut(pattern):
    def halve(root):
        path = next(root.rglob(pattern))
        path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
    return halve


def without_colour(root):
    shutil.rmtree(root/'scene0707_00/color')
    save(toys()[0][0], root/'color/0.png')
    (root/'depth').mkdir()


FAULTS = [
    ('nyuv2_mat', cut('nyu_*.mat'), 'not a whole HDF5 file.*is the download complete'),
    ('nyuv2_mat', cut('splits.mat'), 'splits.mat: not a whole .mat file'),
    ('nyuv2_sync', drop('rgb_*'), 'sync_depth_00045.png: found no RGB picture'),
    ('7scenes', drop('*.depth.png'), 'found no depth picture of that number'),
    ('tum', drop('depth/*.png'), 'no such file, named in depth.txt'),
    ('tum', lambda root: write_text(root/'rgb.txt', 'a b\n'),
     'rgb.txt: .* expected lines of a time'),
    ('scannet', drop('intrinsic_depth.txt'), 'intrinsic_depth.txt: no such file'),
    ('scannet', without_colour, 'found no folder color'),
    ('kitti_selection', drop('image/*.png'), 'groundtruth_depth.*found no RGB picture'),
    ('kitti', lambda root: shutil.rmtree(root/'raw'), 'are the raw drives below'),
    ('diode', drop('*_depth_mask.npy'), '_depth_mask.npy: no such file, expected beside'),
    ('sunrgbd', drop('depth/*.png'), 'depth: found 0 files, expected one picture'),
    ('sunrgbd', lambda root: write_text(next(root.rglob('intrinsics.txt')), 'x'),
     'expected a 3x3 or 4x4 matrix'),
    ('ibims', cut('*.mat'), 'not a whole .mat file'),
]


@pytest.mark.parametrize('name, spoil, message', FAULTS)
def test_half_an_archive_is_refused(tmp_path, name, spoil, message):
    WRITERS[name](tmp_path/name)
    spoil(tmp_path/name)
    with pytest.raises(DataError, match=message): open_data(tmp_path/name, name)


def test_mat_with_other_contents(tmp_path):
    io, h5py = pytest.importorskip('scipy.io'), pytest.importorskip('h5py')
    io.savemat(tmp_path/'x.mat', dict(a=1))
    with pytest.raises(DataError, match='x.mat: found a, expected a struct data'):
        open_data(tmp_path)
    (tmp_path/'nyu').mkdir()
    with h5py.File(tmp_path/'nyu/nyu_depth_v2_labeled.mat', 'w') as f: f['images'] = 1
    with pytest.raises(DataError, match='found images, expected also depths, scenes'):
        open_data(tmp_path/'nyu')


def test_h5py_is_optional(tmp_path, monkeypatch):
    (tmp_path/'nyu_depth_v2_labeled.mat').touch()
    monkeypatch.setitem(__import__('sys').modules, 'h5py', None)
    with pytest.raises(DataError, match='pip install h5py'): open_data(tmp_path)


def test_archives_that_wait_are_named(tmp_path):
    (tmp_path/'seq-01.zip').touch()
    with pytest.raises(DataError, match='does seq-01.zip wait to be unpacked'): open_data(tmp_path)


def test_mask_of_another_size(tmp_path):
    diode(tmp_path)
    path = next(tmp_path.rglob('*_mask.npy'))
    np.save(path, np.ones((2, 2)))
    with pytest.raises(DataError, match=r'mask of shape \(2, 2\)'): list(open_data(tmp_path))


def test_scannet_colour_of_another_size_is_fitted(tmp_path):
    scannet(tmp_path)
    for path in tmp_path.rglob('color/*.png'):
        save(np.array(Image.open(path).resize((130, 97))), path)
    assert open_data(tmp_path)[0].rgb.shape == (*SIZE, 3)


@pytest.mark.parametrize('ones, others, expected', [
    ([0, 1, 2], [.01, 1.03, 2.02], [(0, 0), (2, 2)]), ([0, .015], [.01], [(1, 0)]), ([], [1], []),
    ([1.02], [1., 1.012, 1.03], [(0, 1)]), ([0, .01], [.012, .02], [(0, 1), (1, 0)])])
def test_associate_takes_the_nearest_once(ones, others, expected):
    assert associate(ones, others) == expected


@pytest.mark.parametrize('kind', ['webdataset', 'parquet'])
def test_a_packed_folder_opens(tmp_path, kind):
    if kind == 'parquet': pytest.importorskip('pyarrow')
    folder = write_synthdepth(tmp_path/'set', scenes=2, views=2)
    packed, data = open_data(pack_dataset(folder, tmp_path/'packed', kind=kind)), open_data(folder)
    assert packed.layout == 'packed' and len(packed) == 4
    assert all((a.rgb == b.rgb).all() and (a.depth == b.depth).all() for a, b in zip(packed, data))
    with pytest.raises(DataError, match='manifest.json'): open_data(folder, 'packed')


# real samples

def test_real_sun_and_tum_samples(real, tmp_path):
    for i in ('189', '3'):
        folder = tmp_path/f'sun/xtion/{i}'
        for kind, source in (('image', f'img-{int(i):06d}.jpg'), ('depth', f'{i}.png')):
            (folder/kind).mkdir(parents=True)
            shutil.copy(real/'sunrgbd_2'/source, folder/kind)
        write_text(folder/'intrinsics.txt', '570.3 0 310 0 570.3 225 0 0 1')
    for s in open_data(tmp_path/'sun'):
        assert .4 < s.depth[s.valid].min() and s.depth.max() < 12 and s.valid.mean() > .4
        assert 1 < np.median(s.depth[s.valid]) < 6
    (tmp_path/'tum').mkdir()
    for kind in ('rgb', 'depth'):
        source = f'other_formats_TUM_{"color" if kind == "rgb" else "depth"}.png'
        shutil.copy(real/'samples'/source, tmp_path/'tum'/source)
        write_text(tmp_path/f'tum/{kind}.txt', f'1.0 {source}\n')
    s = open_data(tmp_path/'tum')[0]
    assert 1 < np.median(s.depth[s.valid]) < 5 and s.rgb.shape == (480, 640, 3)


def test_real_diode_and_kitti_samples(real, tmp_path):
    s = open_data(real/'diode_sample')[0]
    assert s.rgb.shape == (768, 1024, 3) and .3 < s.depth[s.valid].min() and s.depth.max() < 50
    assert .5 < s.valid.mean() <= 1
    for kind, folder in (('rgb', 'image'), ('depth', 'groundtruth_depth')):
        (tmp_path/folder).mkdir()
        for p in (real/f'metric3d_demo/kitti_demo/{kind}').iterdir():
            shutil.copy(p, tmp_path/folder/f'2011_drive_sync_{folder}_{p.stem}_image_02.png')
    data = open_data(tmp_path)
    assert len(data) == 3
    for s in data:
        assert .1 < s.valid.mean() < .4 and 1 < s.depth[s.valid].min() and s.depth.max() < 90


def test_real_nyu_folder(real, tmp_path):
    folder = tmp_path/'dining_room_0012'
    folder.mkdir()
    for kind in ('rgb', 'depth'):
        for p in (real/f'metric3d_demo/nyu_demo/{kind}').iterdir(): shutil.copy(p, folder)
    data = open_data(tmp_path)
    assert data.layout == 'nyuv2_sync' and len(data) == 3
    for s in data: assert 1 < np.median(s.depth[s.valid]) < 6


def test_real_sevenscenes(real):
    data = open_data(real/'7scenes_redkitchen')
    assert len(data) == 25 and not any((s.depth > 20).any() for s in data.subset(range(0, 25, 8)))
    assert json.dumps(data[0].capture.meta['pose'])
