"Caches on disk: right or absent, never stale, never half; room is checked beforehand."
import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_layouts import WRITERS
from toy import write_flat, write_synthdepth

import synthdepth.data.cache as cache
from synthdepth.data import CacheError, DataError, Pairs, cache_folder, cached_arrays, clear_caches
from synthdepth.data import files_state, list_caches, loader, open_data, preprocess

SPEC = dict(x=((5, 3), 'float32'))
ABOUT = dict(what='fives', n=5)


def fives(arrays): arrays['x'][:] = 5


def never(arrays): raise AssertionError('filled again')


def equal(a, b):
    def same(k):
        unknown = k == 'intrinsics' and a[k].isnan().all() and b[k].isnan().all()
        return unknown or torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k]))
    return a.keys() == b.keys() and all(same(k) for k in a)


def test_made_once(tmp_path):
    assert (cached_arrays(tmp_path, ABOUT, SPEC, fives)['x'] == 5).all()
    x = cached_arrays(tmp_path, ABOUT, SPEC, never)['x']
    assert isinstance(x, np.memmap) and (x == 5).all()
    assert list_caches(tmp_path).what.tolist() == ['fives']
    assert clear_caches(tmp_path) > 60 and list_caches(tmp_path).empty


@pytest.mark.parametrize('damage', [
    lambda entry: (entry/'x.npy').write_bytes((entry/'x.npy').read_bytes()[:-1]),
    lambda entry: (entry/'x.npy').unlink(),
    lambda entry: (entry/'about.json').write_text('{'), lambda entry: (entry/'about.json').unlink(),
    lambda entry: np.save(entry/'x.npy', np.zeros((5, 4), np.float32)),
    lambda entry: np.save(entry/'x.npy', np.array([{}]*5, object), allow_pickle=True)])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    cached_arrays(tmp_path, ABOUT, SPEC, fives)
    damage(next(tmp_path.iterdir()))
    assert (cached_arrays(tmp_path, ABOUT, SPEC, fives)['x'] == 5).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_left_of_a_failure(tmp_path):
    def fail(arrays): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): cached_arrays(tmp_path, ABOUT, SPEC, fail)
    assert not list(tmp_path.iterdir())


def die(folder):
    def fill(arrays):
        arrays['x'][:2] = 1
        os.kill(os.getpid(), 9)
    cached_arrays(folder, ABOUT, SPEC, fill)


def test_a_killed_process_leaves_no_result_and_is_swept_up(tmp_path):
    child = multiprocessing.get_context('spawn').Process(target=die, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == -9 and [p.suffix for p in tmp_path.iterdir()] == ['.part']
    assert (cached_arrays(tmp_path, ABOUT, SPEC, fives)['x'] == 5).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_two_at_once(tmp_path):
    def slow(arrays):
        cached_arrays(tmp_path/'other', ABOUT, SPEC, fives)
        entry = tmp_path/'kept'/cache.cache_key(ABOUT)
        shutil.copytree(next((tmp_path/'other').iterdir()), entry)  # the other was faster
        inodes.append(entry.stat().st_ino)
        fives(arrays)
    inodes = []
    assert (cached_arrays(tmp_path/'kept', ABOUT, SPEC, slow)['x'] == 5).all()
    left = list((tmp_path/'kept').iterdir())
    assert len(left) == 1 and left[0].stat().st_ino == inodes[0]  # it may be mapped into memory


def test_no_room(tmp_path, monkeypatch):
    free = shutil._ntuple_diskusage(10**12, 10**12, 70*10**6)
    monkeypatch.setattr(cache.shutil, 'disk_usage', lambda path: free)
    message = r'cache of fives needs 12\.0 MB, but .* has 70\.0 MB free.*SYNTHDEPTH_CACHE'
    with pytest.raises(CacheError, match=message):
        cached_arrays(tmp_path, ABOUT, dict(x=((10**6, 3), 'float32')), never)
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(CacheError, match='cannot make the cache folder'):
        cached_arrays(tmp_path/'file'/'sub', ABOUT, SPEC, never)


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHDEPTH_CACHE', str(tmp_path/'here'))
    cached_arrays(None, ABOUT, SPEC, fives)
    assert cache_folder() == tmp_path/'here' and len(list_caches()) == 1
    monkeypatch.delenv('SYNTHDEPTH_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cache_folder() == tmp_path/'synthdepth'


def test_state_of_files(tmp_path):
    file = tmp_path/'a'
    file.write_text('1')
    os.utime(file, ns=(0, 10**9))
    states = [files_state([file])]
    os.utime(file, ns=(0, 10**9 + 1))
    states.append(files_state([file]))
    file.write_text('12')
    os.utime(file, ns=(0, 10**9))
    states += [files_state([file]), files_state([file, file]), files_state([])]
    assert len(set(states)) == 5
    with pytest.raises(CacheError, match='nothing'): files_state([tmp_path/'nothing'])


# --- captures


@pytest.fixture
def data(tmp_path):
    return open_data(write_synthdepth(tmp_path/'toy'))


@pytest.mark.parametrize('write', [write_synthdepth, write_flat])
@pytest.mark.parametrize('size, centre', [((24, 40), 1.), ((37, 101), 1.), (None, 1.),
                                          ((30, 30), .7), (None, .5)])
def test_quick_and_cached_are_bit_equal_to_the_long_way(tmp_path, write, size, centre):
    data = open_data(write(tmp_path/'set', scenes=2, views=2))
    kinds = [Pairs(data, size, centre=centre, cache=c) for c in (False, True, tmp_path/'kept')]
    for i in range(4):
        want = dict(preprocess(data[i], size, centre=centre), index=i)
        assert all(equal(p[i], want) for p in kinds)
    for p in kinds[1:]:
        batch = next(iter(loader(p, batch_size=4)))
        assert all(equal({k: v[i] for k, v in batch.items()}, kinds[0][i]) for i in range(4))
        assert batch['rgb'].is_contiguous()


@pytest.mark.parametrize('name', WRITERS)
@pytest.mark.parametrize('size, centre', [((24, 40), 1.), (None, .5)])
def test_every_layout_is_bit_equal_to_the_long_way(tmp_path, name, size, centre):
    "Also where bits are rotated (SUN RGB-D) or colour is larger than depth (ScanNet)."
    WRITERS[name](tmp_path/name)
    data = open_data(tmp_path/name)
    quick, cached = Pairs(data, size, centre=centre), Pairs(data, size, centre=centre, cache=True)
    for i in range(len(data)):
        want = dict(preprocess(data[i], size, centre=centre), index=i)
        assert equal(quick[i], want) and equal(cached[i], want)


def test_real_pictures_are_bit_equal(real, tmp_path):
    data = open_data(real/'nyuv2')
    data = data.subset(range(2))
    cached = Pairs(data, (48, 64), cache=tmp_path)
    for i in range(2): assert equal(cached[i], dict(preprocess(data[i], (48, 64)), index=i))


def test_unusual_pictures_take_the_long_way(data):
    c = data.captures[0]
    picture = Image.open(c.rgb)
    picture.putalpha(Image.fromarray(np.linspace(0, 255, 48*64).reshape(48, 64).astype(np.uint8)))
    picture.save(c.rgb)
    assert equal(Pairs(data, 16)[0], dict(preprocess(data[0], 16), index=0))
    blind = replace(data, captures=tuple(replace(c, intrinsics=None) for c in data.captures))
    unknown = torch.full((4,), torch.nan)
    want = dict(preprocess(data[1], 16), index=1, intrinsics=unknown)
    assert equal(Pairs(blind, 16)[1], want)
    blind.format = replace(data.format, kind='distance')
    with pytest.raises(DataError, match='needs intrinsics'): Pairs(blind, 16)[1]
    Image.open(data.captures[2].rgb).resize((10, 10)).save(data.captures[2].rgb)
    with pytest.raises(DataError, match='expected equal height'): Pairs(data, 16)[2]


def test_floats_are_kept_as_floats(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'toy', scenes=1))
    for c in data.captures:
        np.save(c.depth.with_suffix('.npy'), np.array(Image.open(c.depth))/np.float32(999))
    data = replace(data, format=replace(data.format, bit_depth=32, metres_per_unit=1.),
                   captures=tuple(replace(c, depth=c.depth.with_suffix('.npy'))
                                  for c in data.captures))
    cached = Pairs(data, 20, cache=tmp_path/'kept')
    assert equal(cached[1], dict(preprocess(data[1], 20), index=1))
    assert cached[1]['depth'].unique().numel() > 50


def entries(folder): return len(list(folder.iterdir()))


def test_an_entry_belongs_to_files_size_and_crop(data, tmp_path):
    kept = tmp_path/'kept'
    first = Pairs(data, 16, cache=kept)[0]
    for _ in range(2): Pairs(data, 16, cache=kept)
    Pairs(data, 16, .5, 7., cache=kept)  # the valid range is not part of what is kept
    assert entries(kept) == 1
    Pairs(data, (16, 17), cache=kept)
    Pairs(data, 16, cache=kept, centre=.9)
    Pairs(data.subset([1, 0]), 16, cache=kept)
    assert entries(kept) == 4
    picture = np.array(Image.open(data.captures[0].rgb))
    Image.fromarray(255 - picture).save(data.captures[0].rgb)
    assert not torch.equal(Pairs(data, 16, cache=kept)[0]['rgb'], first['rgb'])
    assert entries(kept) == 5
    data.format = replace(data.format, metres_per_unit=.002)
    again = Pairs(data, 16, cache=kept)[0]
    assert torch.allclose(again['depth'], 2*first['depth']) and entries(kept) == 6


def test_the_cache_is_read_and_not_the_files(data, tmp_path, monkeypatch):
    Pairs(data, 16, cache=tmp_path/'kept')
    cached = Pairs(data, 16, cache=tmp_path/'kept')
    want = cached[3]
    for c in data.captures: c.rgb.unlink()
    assert equal(cached[3], want)
    cached[3]['rgb'].zero_(), cached[3]['depth'].zero_(), cached[3]['intrinsics'].zero_()
    assert equal(cached[3], want)


def test_several_sizes(data, tmp_path):
    other = open_data(write_synthdepth(tmp_path/'other', scenes=1, views=1, size=(24, 32)))
    data = replace(data, captures=data.captures[:1] + other.captures)
    for c in (True, tmp_path/'kept'):
        message = r'48x64 \(capture 0\) and 24x32 \(capture 1\).*pass size'
        with pytest.raises(DataError, match=message): Pairs(data, None, cache=c)
    assert not entries(tmp_path/'kept')


def test_workers_open_the_cache_for_themselves(data, tmp_path):
    cached = Pairs(data, 16, cache=tmp_path/'kept')
    import pickle
    assert len(pickle.dumps(cached)) < 20_000 + len(pickle.dumps(data))
    assert equal(pickle.loads(pickle.dumps(cached))[2], cached[2])
    batches = torch.utils.data.DataLoader(cached, 4, num_workers=1, multiprocessing_context='spawn',
                                          collate_fn=loader(data).collate_fn)
    for a, b in zip(batches, loader(cached, batch_size=4)): assert equal(a, b)


def test_packed_data(data, tmp_path):
    from synthdepth.data import open_packed, pack_dataset
    pack_dataset(data.root, tmp_path/'packed')
    packed = open_packed(tmp_path/'packed')
    assert equal(Pairs(packed, 16, cache=tmp_path/'kept')[5], Pairs(data, 16)[5])
    assert equal(Pairs(packed, 16, cache=tmp_path/'kept')[4], Pairs(data, 16)[4])
    assert entries(tmp_path/'kept') == 1


def test_card_is_json(data, tmp_path):
    Pairs(data, 16, cache=tmp_path/'kept')
    card = next(Path(tmp_path/'kept').glob('*/about.json'))
    assert json.loads(card.read_text())['what'] == '12 captures of toy'
