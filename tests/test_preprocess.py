"Preprocessing equals the published transforms; batches are exact, seeded, of one size."
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toy import write_flat, write_synthdepth
from torchvision.transforms import Compose, InterpolationMode, Resize, ToTensor

import synthdepth.data.decoding as decoding
from synthdepth.data import DataError, FreshPairs, Pairs, collate, loader, open_data, preprocess
from synthdepth.data import resize_depth, resize_rgb


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('set')/'toy'))


SIZES = [(256, 256), (32, 32), (37, 53), (48, 64), (96, 30), (1, 1)]


@pytest.mark.parametrize('size', SIZES)
def test_rgb_equals_torchvision_on_pillow(data, size):
    "But for what lies between two steps of 255, in a few values in a thousand."
    rgb = data[0].rgb
    published = Compose([Resize(size), ToTensor()])(Image.fromarray(rgb))
    steps = ((preprocess(data[0], size)['rgb'] - published)*255).round().abs()
    assert steps.max() <= 1 and (steps > 0).float().mean() < .01


@pytest.mark.parametrize('size', SIZES)
def test_depth_equals_torchvision_on_pillow(data, size):
    depth = data[0].depth
    published = Resize(size, InterpolationMode.NEAREST)(Image.fromarray(depth))
    assert np.array_equal(resize_depth(depth, size), np.array(published))


def test_published_depth_pipeline(tmp_path):
    "8-bit picture -> 256x256 nearest -> [0,1] -> x 10 m -> mask: distance taken for depth."
    data = open_data(write_flat(tmp_path), views=3)
    data.format = type(data.format)('z', 10/255, invalid=(255,), bit_depth=8)
    picture = Image.open(data.captures[3].depth)
    published = Compose([Resize((256, 256), InterpolationMode.NEAREST), ToTensor()])(picture)[0]*10
    item = preprocess(data[3])
    assert torch.equal(item['valid'], (published > .001) & (published < 10))
    assert torch.allclose(item['depth'][item['valid']], published[item['valid']], rtol=1e-6)


def test_native_size_copies_nothing_away(data):
    item = preprocess(data[0], None)
    assert np.array_equal(item['depth'].numpy(), data[0].depth)
    assert np.array_equal((item['rgb']*255).round().byte().permute(1, 2, 0).numpy(), data[0].rgb)
    assert resize_rgb(data[0].rgb, None).shape == (48, 64, 3)


def test_valid_range_is_open(data):
    sample = data[0]
    depths = sample.depth[sample.valid]
    low, high = float(depths.min()), float(depths.max())
    valid = preprocess(sample, None, low, high)['valid'].numpy()
    within = (sample.depth > np.float32(low)) & (sample.depth < np.float32(high))
    assert np.array_equal(valid, within)
    assert not valid[sample.depth == 0].any() and valid.sum() < sample.valid.sum()


def test_intrinsics_follow_the_size(data):
    camera = data.captures[0].intrinsics
    fx, fy, cx, cy = preprocess(data[0], (24, 128))['intrinsics'].tolist()
    assert (fx, fy, cx, cy) == pytest.approx((2*camera.fx, camera.fy/2, 64, 12))


@pytest.mark.parametrize('size', [0, -3, (3,), (2.5, 2), (0, 5), (1, 2, 3)])
def test_bad_sizes(data, size):
    with pytest.raises(ValueError, match='expected a number'):
        Pairs(data, size)


def test_bad_range(data):
    with pytest.raises(ValueError, match='valid range'):
        Pairs(data, 32, min_depth=5, max_depth=5)


def test_pairs_and_cache_are_the_same(data):
    plain, cached = Pairs(data, (24, 40)), Pairs(data, (24, 40), cache=True)
    assert len(plain) == len(cached) == 12
    for i in range(12):
        a, b = plain[i], cached[i]
        assert a.pop('index') == b.pop('index') == i
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_cache_does_not_read_again_and_is_not_changed_by_its_users(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'toy', scenes=1))
    cached = Pairs(data, 16, cache=True)
    before = cached[0]['depth'].clone()
    cached[0]['depth'].zero_()
    cached[0]['rgb'].zero_()
    for c in data.captures:
        c.rgb.unlink()
    assert torch.equal(cached[0]['depth'], before) and cached[0]['rgb'].max() > 0


def test_a_broken_file_is_named(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'toy', scenes=1))
    data.captures[1].rgb.write_bytes(b'')
    for read in (lambda: Pairs(data, 16)[1], lambda: Pairs(data, 16, cache=True),
                 lambda: list(loader(data, 16))):
        with pytest.raises(DataError, match=r'rgb_00001\.png'):
            read()


def test_loader_covers_everything_in_order(data):
    batches = list(loader(data, 16, batch_size=5))
    assert [len(b['index']) for b in batches] == [5, 5, 2]
    assert torch.cat([b['index'] for b in batches]).tolist() == list(range(12))
    assert [len(b['index']) for b in loader(data, 16, batch_size=5, drop_last=True)] == [5, 5]
    assert batches[0]['rgb'].shape == (5, 3, 16, 16) and batches[0]['valid'].dtype == torch.bool


def order(batches):
    return torch.cat([b['index'] for b in batches]).tolist()


def test_shuffling_is_seeded(data):
    a, b, c = (loader(data, 16, shuffle=True, seed=seed) for seed in (1, 1, 2))
    torch.manual_seed(5)
    first = [order(a), order(a)]
    torch.manual_seed(6)
    assert first == [order(b), order(b)] and first[0] != first[1] and first[0] != order(c)
    assert sorted(first[0]) == list(range(12))


def test_workers_give_the_same(data):
    here, there = (loader(data, 16, 4, shuffle=True, seed=1, workers=n, cache=c)
                   for n, c in ((0, False), (1, True)))
    for a, b in zip(here, there):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_mixed_native_sizes(data, tmp_path):
    other = open_data(write_synthdepth(tmp_path/'other', scenes=1, views=1, size=(24, 32)))
    data = type(data)(data.root, data.captures[:1] + other.captures, data.format, data.layout)
    for options in (dict(), dict(cache=True), dict(workers=1)):
        batches = list(loader(data, None, batch_size=4, **options))
        assert [b['depth'].shape for b in batches] == [(1, 48, 64), (1, 24, 32)]
        assert torch.equal(batches[1]['depth'][0], torch.tensor(other[0].depth))
    with pytest.raises(DataError, match=r'48x64 \(capture 0\), 24x32 \(capture 1\)'):
        collate([FreshPairs(data, None)[i] for i in range(2)])
    assert [b['depth'].shape[1:] for b in loader(data, None, batch_size=1)] == [(48, 64), (24, 32)]
    assert next(iter(loader(data, 20)))['depth'].shape == (2, 20, 20)


def test_empty_dataset(data):
    with pytest.raises(DataError, match='found no captures to load'):
        loader(data.subset([]), 16)


def test_capture_without_valid_pixels(tmp_path):
    path = write_synthdepth(tmp_path/'toy', scenes=1)
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(path/'depth/depth_00001.png')
    data = open_data(path)
    batch = collate([Pairs(data, 16)[i] for i in range(3)])
    assert batch['valid'].flatten(1).any(1).tolist() == [True, False, True]
    assert list(Pairs(data, 16).without_valid()) == [1]


def test_unknown_camera_is_nan(data):
    sample = replace(data[0], capture=replace(data.captures[0], intrinsics=None))
    assert preprocess(sample)['intrinsics'].isnan().all()


def test_the_next_batch_is_read_while_one_is_used(data, monkeypatch):
    pairs, asked = Pairs(data, 16), []
    read = Pairs.__getitem__
    monkeypatch.setattr(Pairs, '__getitem__', lambda self, i: asked.append(i) or read(self, i))
    batches = iter(loader(pairs, batch_size=2))
    next(batches)
    for _ in range(100):
        if len(asked) == 4: break
        time.sleep(.02)
    assert sorted(asked) == [0, 1, 2, 3]  # and not the third
    shuffled = loader(pairs, batch_size=2, shuffle=True, seed=4)
    order = torch.cat([batch['index'] for batch in shuffled]).tolist()
    assert order != sorted(order) == list(range(len(data)))
    again = pairs.__getitems__([1, 1, 0])
    assert [item['index'] for item in again] == [1, 1, 0] and not pairs._ahead


def test_an_unreadable_picture_ends_the_batch_that_asked_for_it(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'toy'))
    data.captures[3].rgb.write_bytes(b'no picture')
    batches = iter(loader(data, 16, batch_size=2))
    assert next(batches)['index'].tolist() == [0, 1]
    with pytest.raises(DataError, match='rgb_00003'): next(batches)


def test_a_job_reads_with_the_cores_it_was_given(monkeypatch):
    monkeypatch.setattr(decoding.os, 'sched_getaffinity', lambda process: {3, 5, 7}, raising=False)
    monkeypatch.setattr(decoding.os, 'cpu_count', lambda: 128)
    assert decoding.usable_cores() == 3
