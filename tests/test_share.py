import hashlib
import json
import os
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import yaml
from PIL import Image

import synthdepth.data.hub as hub_module
import synthdepth.data.shards as shards_module
from synthdepth.data import IGNORED, DataError, check_data, check_split, files_of, index_shards
from synthdepth.data import loader, open_data, open_packed, pack_dataset, publish, read_manifest
from synthdepth.data import render_command, split_by_scene, unpack_dataset, write_card
from toy import write_flat, write_synthdepth

KINDS = ('webdataset', 'parquet')


@pytest.fixture
def folder(tmp_path): return write_synthdepth(tmp_path/'set')


def contents(folder): return {name: (folder/name).read_bytes() for name in files_of(folder)}


def needs(kind):
    if kind == 'parquet': pytest.importorskip('pyarrow')


@pytest.fixture
def hub(monkeypatch, tmp_path):
    "The datasets library, offline and with a cache of its own."
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    datasets = pytest.importorskip('datasets')
    datasets.disable_progress_bars()
    return lambda *args, **kw: datasets.load_dataset(*args, cache_dir=str(tmp_path/'cache'),
                                                     split='train', **kw)


# Image folder

@pytest.mark.parametrize('card', [False, True], ids=['bare', 'with card'])
@pytest.mark.parametrize('name', ['set', 'rooms-test'])
def test_the_folder_loads_as_an_image_folder(hub, tmp_path, card, name):
    folder = write_synthdepth(tmp_path/name)
    if card: write_card(folder)
    rows = hub('imagefolder', data_dir=str(folder))
    lines = [json.loads(x) for x in (folder/'metadata.jsonl').read_text().splitlines()]
    assert len(rows) == 12
    expected = {'rgb', 'depth', *lines[0]} - {'rgb_file_name', 'depth_file_name'}
    assert set(rows.column_names) == expected
    for row, line, sample in zip(rows, lines, open_data(folder)):
        assert row['rgb'].mode == 'RGB' and row['depth'].mode == 'I;16'
        assert (np.array(row['rgb']) == sample.rgb).all()
        units = np.array(row['depth'])
        assert units.dtype == np.uint16 and units.max() > 255
        assert np.allclose(units*.001, sample.depth, atol=1e-6)
        assert {k: row[k] for k in ('scene', 'view', 'intrinsics', 'pose')} == {
            k: line[k] for k in ('scene', 'view', 'intrinsics', 'pose')}


def test_the_hub_chooses_the_right_loader_by_itself(hub, folder):
    write_card(folder)
    rows = hub(str(folder))
    assert len(rows) == 12 and rows[0]['depth'].mode == 'I;16'


@pytest.mark.parametrize('kind', KINDS)
def test_the_hub_reads_shards_by_itself(hub, folder, tmp_path, kind):
    needs(kind)
    write_card(folder)
    rows = hub(str(pack_dataset(folder, tmp_path/'packed', .02, kind)))
    rgb, depth = ('rgb.png', 'depth.png') if kind == 'webdataset' else ('rgb', 'depth')
    assert len(rows) == 12 and rows[5][depth].mode == 'I;16'
    assert (np.array(rows[5][rgb]) == open_data(folder)[5].rgb).all()
    assert np.allclose(np.array(rows[5][depth])*.001, open_data(folder)[5].depth, atol=1e-6)


# Card

def test_card_front_matter_and_text(folder):
    info = json.loads((folder/'dataset.json').read_text())
    info['generator'] = dict(preset='rooms', seed=5, scenes=4, spp=8, size=[48, 64],
                             factors=dict(views=3, shapes=['box', 'a|b'], objects=[1, 4]))
    (folder/'dataset.json').write_text(json.dumps(info))
    text = write_card(folder, license='cc-by-4.0', title='Rooms: "one"').read_text()
    _, front, body = text.split('---\n', 2)
    front = yaml.safe_load(front)
    assert front['license'] == 'cc-by-4.0' and front['pretty_name'] == 'Rooms: "one"'
    assert front['task_categories'] == ['depth-estimation'] and front['size_categories'] == ['n<1K']
    assert '`objects` | [1, 4]' in body and 'a\\|b' in body and 'seed 5' in body
    assert 'number * 0.001' in body
    assert '--preset rooms' in body and '--seed 5' in body and "--set 'views=3'" in body
    assert 'CC BY 4.0' in body
    assert '{' not in body.replace("{'", '')
    with Image.open(folder/'card.png') as picture:
        assert picture.mode == 'RGB' and picture.width > 4*200
    assert len(open_data(folder)) == 12


def test_card_agrees_with_the_hub_library(folder):
    card = pytest.importorskip('huggingface_hub').DatasetCard(write_card(folder).read_text())
    assert card.data.license == 'cc0-1.0' and card.data.task_categories == ['depth-estimation']


def test_card_is_the_same_twice_and_keeps_the_words_of_others(folder):
    before = write_card(folder).read_bytes(), (folder/'card.png').read_bytes()
    assert (write_card(folder).read_bytes(), (folder/'card.png').read_bytes()) == before
    (folder/'README.md').write_text('mine')
    with pytest.raises(DataError, match='nothing was changed'): write_card(folder)
    assert (folder/'README.md').read_text() == 'mine'
    assert write_card(folder, overwrite=True).read_bytes() == before[0]
    assert not list(folder.rglob('*.part'))


def test_card_refuses_unknown_licence_and_incomplete_folder(folder):
    with pytest.raises(DataError, match='expected one of cc0-1.0'):
        write_card(folder, license='free')
    (folder/'dataset.json').unlink()
    with pytest.raises(DataError, match='incomplete'): write_card(folder)
    assert not (folder/'README.md').exists() and not (folder/'card.png').exists()


def test_render_command_of_a_set_that_was_not_rendered():
    assert render_command({}) is None and render_command(dict(preset='mine', size=[1, 1])) is None


# Shards

@pytest.mark.parametrize('kind', KINDS)
def test_unpacked_is_what_was_packed(folder, tmp_path, kind):
    needs(kind)
    write_card(folder)
    (folder/'.DS_Store').write_text('noise')
    packed = pack_dataset(folder, tmp_path/'packed', .02, kind)
    back = unpack_dataset(packed, tmp_path/'back')
    assert contents(back) == contents(folder) and '.DS_Store' not in files_of(packed)
    manifest = json.loads((packed/'manifest.json').read_text())
    assert len(manifest['shards']) > 1 and sum(s['captures'] for s in manifest['shards']) == 12
    assert {p.name for p in packed.iterdir()} == {'README.md', 'card.png', 'data', 'dataset.json',
                                                  'manifest.json'}
    for e in manifest['shards'] + manifest['files']:
        assert hashlib.sha256((packed/e['name']).read_bytes()).hexdigest() == e['sha256']
    assert (packed/'dataset.json').read_bytes() == (folder/'dataset.json').read_bytes()
    assert not list(tmp_path.glob('*.part'))


@pytest.mark.parametrize('kind', KINDS)
def test_more_files_of_a_capture_and_scenes_that_alternate(folder, tmp_path, kind):
    "A focal stack and a .npy per capture; scenes that take turns; a last line without an end."
    needs(kind)
    rows = [json.loads(x) for x in (folder/'metadata.jsonl').read_text().splitlines()]
    (folder/'focal').mkdir()
    for n, row in enumerate(rows):
        row['focal_file_names'] = [f'focal/focal_{n:05d}_{k}.png' for k in range(2)]
        for k, name in enumerate(row['focal_file_names']):
            Image.new('RGB', (8, 8), (n, k, 0)).save(folder/name)
        row['normal_file_name'] = f'focal/normal_{n:05d}.npy'
        np.save(folder/row['normal_file_name'], np.full((2, 2), n, np.float16))
    rows = rows[::3] + rows[1::3] + rows[2::3]
    (folder/'metadata.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    packed = pack_dataset(folder, tmp_path/'packed', .03, kind)
    assert contents(unpack_dataset(packed, tmp_path/'back')) == contents(folder)
    names = [c.depth.name for c in open_data(folder).captures]
    assert [c.depth.name for c in open_packed(packed).captures] == names
    assert no_scene_is_split(packed)


def no_scene_is_split(packed):
    manifest, where = read_manifest(packed), {}
    for _, line, members in index_shards(packed, manifest):
        archives = {member.archive for member in members.values()}
        where.setdefault(json.loads(line)['scene'], set()).update(archives)
    return len(manifest['shards']) > 1 and all(len(shards) == 1 for shards in where.values())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('shard_mb, shards', [(1e-6, 4), (.03, None), (512, 1)])
def test_scenes_are_not_split_whatever_the_size(folder, tmp_path, kind, shard_mb, shards):
    needs(kind)
    packed = pack_dataset(folder, tmp_path/'packed', shard_mb, kind)
    files = sorted((packed/'data').iterdir())
    assert len(files) == (shards or len(files))
    assert shards == 1 or no_scene_is_split(packed)
    assert [p.name[:20] for p in files] == [f'train-{n:05d}-of-{len(files):05d}'
                                            for n in range(len(files))]


@pytest.mark.parametrize('kind', KINDS)
def test_same_folder_same_bytes(folder, tmp_path, kind):
    needs(kind)
    first = contents(pack_dataset(folder, tmp_path/'a', .02, kind))
    for p in folder.rglob('*'): os.utime(p, (1, 1))
    assert contents(pack_dataset(folder, tmp_path/'b', .02, kind)) == first


def test_tar_members(folder, tmp_path):
    with tarfile.open(next((pack_dataset(folder, tmp_path/'packed')/'data').iterdir())) as tar:
        members = tar.getmembers()
    assert [m.name for m in members[:4]] == [
        '00000000.rgb.png', '00000000.depth.png', '00000000.json', '00000001.rgb.png']
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, '', 0o644)}


def test_the_webdataset_library_reads_the_shards(folder, tmp_path):
    wds = pytest.importorskip('webdataset')
    packed = pack_dataset(folder, tmp_path/'packed', .02)
    shards = [str(p) for p in sorted((packed/'data').iterdir())]
    rows = list(wds.WebDataset(shards, shardshuffle=False))
    assert len(rows) == 12
    for n, row in enumerate(rows):
        assert row['depth.png'] == (folder/f'depth/depth_{n:05d}.png').read_bytes()
        assert json.loads(row['json'])['view'] == n % 3


@pytest.mark.parametrize('kind', KINDS)
def test_packed_data_is_used_like_a_folder(folder, tmp_path, kind):
    needs(kind)
    data = open_data(folder)
    packed = open_packed(pack_dataset(folder, tmp_path/'packed', .02, kind))
    assert len(packed) == len(data) and packed.format == data.format and packed.info == data.info
    for a, b in zip(data, packed):
        assert (a.rgb == b.rgb).all() and (a.depth == b.depth).all() and (a.valid == b.valid).all()
        assert (a.capture.scene, a.capture.view, a.capture.intrinsics, a.capture.meta) == (
            b.capture.scene, b.capture.view, b.capture.intrinsics, b.capture.meta)
    splits, usual = split_by_scene(packed, (.5, .25, .25)), split_by_scene(data, (.5, .25, .25))
    check_split(splits)
    for name, part in splits.items():
        assert list(part.scenes) == list(usual[name].scenes)
        assert (part[-1].depth == usual[name][-1].depth).all()
    assert (pickle.loads(pickle.dumps(packed))[7].depth == data[7].depth).all()
    assert repr(packed).startswith('packed: 12 captures of 4 scenes (packed, 16-bit z)')


@pytest.mark.parametrize('kind', KINDS)
def test_loader_with_workers_reads_shards(folder, tmp_path, kind):
    needs(kind)
    packed = open_packed(pack_dataset(folder, tmp_path/'packed', .02, kind))
    packed[0]
    for a, b in zip(loader(packed, 32, 5, shuffle=True, workers=2),
                    loader(open_data(folder), 32, 5, shuffle=True)):
        assert all((a[k] == b[k]).all() for k in ('rgb', 'depth', 'valid', 'index'))


@pytest.mark.parametrize('kind', KINDS)
def test_a_packed_folder_is_checked_like_any_other(folder, tmp_path, kind):
    needs(kind)
    packed = pack_dataset(folder, tmp_path/'packed', .02, kind)
    report, usual = check_data(packed, progress=False), check_data(folder, progress=False)
    assert report.layout == 'packed' and report.problems == usual.problems
    assert report.table.equals(usual.table) and report.captures == 12


def test_pack_refuses(folder, tmp_path):
    with pytest.raises(DataError, match='expected one of webdataset, parquet'):
        pack_dataset(folder, tmp_path/'x', kind='zip')
    for size in (0, -1, float('nan')):
        with pytest.raises(DataError, match='above 0'): pack_dataset(folder, tmp_path/'x', size)
    with pytest.raises(DataError, match='lies inside'): pack_dataset(folder, folder/'packed')
    with pytest.raises(DataError, match='not an empty folder'): pack_dataset(folder, tmp_path/'set')
    with pytest.raises(DataError, match='no dataset.json'):
        pack_dataset(write_flat(tmp_path/'flat'), tmp_path/'x')
    (folder/'manifest.json').write_text('{}')
    with pytest.raises(DataError, match='a name the packed folder needs'):
        pack_dataset(folder, tmp_path/'x')
    (folder/'manifest.json').unlink()
    (folder/'depth'/'depth_00003.png').unlink()
    with pytest.raises(DataError, match='depth_00003.png'): pack_dataset(folder, tmp_path/'x')
    assert not (tmp_path/'x').exists() and not list(tmp_path.glob('*.part'))


def test_pack_keeps_to_the_folder(folder, tmp_path):
    (tmp_path/'secret.png').write_bytes(b'x')
    lines = (folder/'metadata.jsonl').read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {'mask_file_name': '../secret.png'})
    (folder/'metadata.jsonl').write_text('\n'.join(lines))
    with pytest.raises(DataError, match='points outside'): pack_dataset(folder, tmp_path/'x')


def test_columns_that_would_be_two_things(folder, tmp_path):
    needs('parquet')
    lines = [json.loads(x) for x in (folder/'metadata.jsonl').read_text().splitlines()]
    lines[0]['scene_file_name'] = 'plan.png'
    (folder/'plan.png').write_bytes((folder/'rgb'/'rgb_00000.png').read_bytes())
    (folder/'metadata.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="several columns 'scene'"):
        pack_dataset(folder, tmp_path/'x', kind='parquet')
    packed = pack_dataset(folder, tmp_path/'x')
    assert contents(unpack_dataset(packed, tmp_path/'back')) == contents(folder)


def test_nothing_is_left_when_the_disk_is_full(folder, tmp_path, monkeypatch):
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(shards_module.shutil, 'copyfile', full)
    with pytest.raises(DataError, match='No space left on device'):
        pack_dataset(folder, tmp_path/'x')
    assert [p.name for p in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_has_its_name_while_it_is_written(folder, tmp_path, monkeypatch, kind):
    "Seen from another process at the worst moment, and after Ctrl-C at that moment."
    needs(kind)
    def stop(root, name, **_):
        assert not (tmp_path/'x').exists() and not (root/'manifest.json').exists()
        raise KeyboardInterrupt
    monkeypatch.setattr(shards_module, '_entry', stop)
    with pytest.raises(KeyboardInterrupt): pack_dataset(folder, tmp_path/'x', .02, kind)
    assert [p.name for p in tmp_path.iterdir()] == ['set']


def test_an_empty_folder_may_be_filled(folder, tmp_path):
    (tmp_path/'x').mkdir()
    assert len(open_packed(pack_dataset(folder, tmp_path/'x'))) == 12


@pytest.mark.parametrize('kind', KINDS)
def test_damaged_shards_are_noticed(folder, tmp_path, kind):
    needs(kind)
    packed = pack_dataset(folder, tmp_path/'packed', .02, kind)
    shard = sorted((packed/'data').iterdir())[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    with pytest.raises(DataError, match='damaged or changed'): unpack_dataset(packed, tmp_path/'x')
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(DataError, match='not a whole|found .* captures'): open_packed(packed)
    shard.write_bytes(whole[:-10])
    with pytest.raises(DataError, match='is the copy complete'): open_packed(packed)
    shard.unlink()
    with pytest.raises(DataError, match='no such file'): open_packed(packed)
    assert not (tmp_path/'x').exists()


@pytest.mark.parametrize('text, message', [
    ('{', 'expected what `pack` wrote'), ('{}', 'KeyError'), ('[]', 'TypeError'),
    ('{"format_version": 2, "kind": "parquet", "shards": [], "files": []}', 'version 2'),
    ('{"format_version": 1, "kind": "zip", "shards": [], "files": []}', "kind 'zip'"),
    ('{"format_version": 1, "kind": "parquet", "files": [], '
     '"shards": [{"name": "../a", "bytes": 1, "sha256": ""}]}',
     'outside')])
def test_broken_manifest(tmp_path, text, message):
    (tmp_path/'manifest.json').write_text(text)
    with pytest.raises(DataError, match=message): open_packed(tmp_path)


def test_a_folder_without_manifest(folder):
    with pytest.raises(DataError, match='expected a folder that `pack` wrote'): open_packed(folder)


# Publishing

class FakeApi:
    calls = []

    def __init__(self, token=None): self.calls.append(('token', token))

    def create_repo(self, repo_id, **kw): self.calls.append(('create_repo', repo_id, kw))

    def upload_folder(self, **kw): self.calls.append(('upload_folder', kw))


@pytest.fixture
def api(monkeypatch):
    hub = pytest.importorskip('huggingface_hub')
    monkeypatch.setattr(FakeApi, 'calls', [])
    monkeypatch.setattr(hub, 'HfApi', FakeApi)
    monkeypatch.setattr(hub, 'get_token', lambda: None)
    return FakeApi


def test_rehearsal_lists_what_goes_and_sends_nothing(folder, api):
    write_card(folder)
    (folder/'.cache').mkdir()
    (folder/'.cache'/'x').write_text('no')
    (folder/'card.png.1.part').write_text('no')
    upload = publish(folder, 'jane/set')
    assert not api.calls and upload.url is None
    assert set(upload.files) == {'README.md', 'card.png', 'dataset.json', 'metadata.jsonl', *(
        f'{k}/{k}_{n:05d}.png' for k in ('rgb', 'depth') for n in range(12))}
    assert upload.total == sum((folder/name).stat().st_size for name in upload.files)
    text = str(upload)
    assert 'nothing was sent' in text and all(name in text for name in upload.files)
    assert f'{upload.total:,}' in text


@pytest.mark.parametrize('packed', [False, True])
def test_upload_sends_what_was_listed(folder, tmp_path, api, packed):
    write_card(folder)
    (folder/'.hidden').write_text('no')
    if packed: folder = pack_dataset(folder, tmp_path/'packed')
    planned = publish(folder, 'jane/set', private=True)
    done = publish(folder, 'jane/set', dry_run=False, private=True, token='hf_x')
    (_, token), (_, repo, made), (_, sent) = api.calls
    assert token == 'hf_x' and repo == 'jane/set'
    assert made == dict(repo_type='dataset', private=True, exist_ok=True)
    assert sent['repo_id'] == 'jane/set' and sent['repo_type'] == 'dataset'
    assert sent['folder_path'] == str(folder)
    from huggingface_hub.utils import filter_repo_objects
    everything = [p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()]
    assert sent['ignore_patterns'] == list(IGNORED)
    kept = filter_repo_objects(everything, ignore_patterns=sent['ignore_patterns'])
    assert sorted(kept) == sorted(planned.files)
    assert done.files == planned.files and done.url == 'https://huggingface.co/datasets/jane/set'
    assert done.url in str(done)


def test_publish_needs_a_token(folder, api):
    write_card(folder)
    with pytest.raises(DataError, match='HF_TOKEN'): publish(folder, 'jane/set', dry_run=False)
    assert not api.calls


@pytest.mark.parametrize('repo_id', ['set', 'jane/my set', 'a/b/c', '', 'jane/', 'jane/x..y',
                                     'https://hub/jane/set'])
def test_publish_refuses_names_of_repositories(folder, api, repo_id):
    write_card(folder)
    with pytest.raises(DataError, match='expected OWNER/NAME'):
        publish(folder, repo_id, dry_run=False, token='x')
    assert not api.calls


def test_publish_refuses_what_is_not_complete(folder, tmp_path, api, monkeypatch):
    with pytest.raises(DataError, match='README.md'): publish(folder, 'jane/set')
    write_card(folder)
    monkeypatch.setattr(hub_module, 'MOST_FILES', 11)
    with pytest.raises(DataError, match='holds 12 files, the hub takes 11'):
        publish(folder, 'jane/set')
    monkeypatch.undo()
    packed = pack_dataset(folder, tmp_path/'packed')
    shard = next((packed/'data').iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b'x')
    with pytest.raises(DataError, match='damaged'): publish(packed, 'jane/set')
    (folder/'rgb'/'rgb_00002.png').unlink()
    with pytest.raises(DataError, match='rgb_00002.png'): publish(folder, 'jane/set')
    (folder/'dataset.json').unlink()
    with pytest.raises(DataError, match='incomplete'): publish(folder, 'jane/set')
    with pytest.raises(DataError, match='expected a dataset folder'):
        publish(tmp_path/'nothing', 'jane/set')


@pytest.mark.parametrize('error',
                         [OSError('401 Client Error: who are you?\nlong story'), OSError('')])
def test_a_refusal_of_the_hub_is_one_line(folder, api, monkeypatch, error):
    def refuse(self, **kw): raise error
    monkeypatch.setattr(api, 'upload_folder', refuse)
    write_card(folder)
    with pytest.raises(DataError, match='cannot upload to jane/set: ') as e:
        publish(folder, 'jane/set', dry_run=False, token='x')
    assert '\n' not in str(e.value)


def test_a_hub_out_of_reach_is_one_line(folder):
    "The real library, at an address where nobody listens."
    pytest.importorskip('huggingface_hub')
    write_card(folder)
    code = ('import sys, synthdepth.data as data\n'
            'try: data.publish(sys.argv[1], "jane/set", dry_run=False, token="hf_x")\n'
            'except data.DataError as e: print(e)')
    p = subprocess.run([sys.executable, '-c', code, folder], capture_output=True, text=True,
                       timeout=60,
                       env={**os.environ, 'HF_ENDPOINT': 'http://127.0.0.1:9',
                            'HF_HUB_OFFLINE': '0'})
    assert p.returncode == 0 and p.stdout.startswith('cannot upload to jane/set: '), p.stderr[-500:]
    assert len(p.stdout.splitlines()) == 1


def test_a_model_goes_where_models_are(tmp_path, api):
    from synthdepth.data.hub import MODEL
    from synthdepth.models import create_model
    from synthdepth.models.contract import CARD
    assert MODEL == CARD
    folder = create_model('tiny').save(tmp_path/'net')
    with pytest.raises(DataError, match='found no README.md$'): publish(folder, 'jane/net')
    (folder/'README.md').write_text('# net')
    done = publish(folder, 'jane/net', dry_run=False, token='hf_x')
    assert set(done.files) == {'README.md', 'model.json', 'model.safetensors'}
    assert api.calls[1][2]['repo_type'] == api.calls[2][1]['repo_type'] == 'model'
    assert done.url == 'https://huggingface.co/jane/net'
    (folder/'model.safetensors').unlink()
    with pytest.raises(DataError, match='tiny has no weights'): publish(folder, 'jane/net')
    (folder/'model.json').write_text('[]')
    with pytest.raises(DataError, match='found no name of a model'): publish(folder, 'jane/net')
