"""A user's own meshes and skies, through the whole renderer.

In processes of their own: what is registered stays."""
import json
import subprocess
import sys
from pathlib import Path

import mitsuba as mi
import numpy as np
import pytest
import trimesh

from synthdepth.errors import SynthdepthError
from synthdepth.scenes import custom
from synthdepth.scenes import OwnError, add_environments, add_meshes, read_environment, read_mesh

COMMAND = [sys.executable, '-m', 'synthdepth']
SMALL = ['--scenes', 2, '--height', 48, '--width', 64, '--spp', 2, '--set', 'views=2',
         '--set', 'objects=[6,9]', '--workers', 2]


def synthdepth(*args):
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True)


@pytest.fixture
def meshes(tmp_path):
    (tmp_path/'meshes').mkdir()
    trimesh.creation.torus(2, .5).export(tmp_path/'meshes'/'ring.ply')
    trimesh.creation.box((1, 2, 1)).export(tmp_path/'meshes'/'slab.obj')
    trimesh.Scene([trimesh.creation.icosphere(2)]).export(tmp_path/'meshes'/'ball.glb')
    return tmp_path/'meshes'


@pytest.fixture
def skies(tmp_path):
    (tmp_path/'skies').mkdir()
    for name in ('dawn.exr', 'dusk.hdr'):
        radiance = np.linspace(.1, 3, 32*64*3, dtype=np.float32).reshape(32, 64, 3)
        mi.Bitmap(radiance).write(str(tmp_path/'skies'/name))
    return tmp_path/'skies'


def test_own_files_in_a_dataset(tmp_path, meshes, skies):
    own = ['--meshes', meshes, '--environments', skies]
    names = ['--set', 'shapes=["own/ring","own/slab","own/ball"]',
             '--set', 'backgrounds=["own/dawn","own/dusk"]']
    p = synthdepth('render', tmp_path/'set', *SMALL, *own, *names)
    assert p.returncode == 0, p.stderr
    info = json.loads((tmp_path/'set'/'dataset.json').read_text())
    assert set(info['generator']['own']['meshes']) == {'own/ring', 'own/slab', 'own/ball'}
    rows = [json.loads(x) for x in (tmp_path/'set'/'metadata.jsonl').read_text().splitlines()]
    assert {r['background'] for r in rows} <= {'own/dawn', 'own/dusk'}
    before = (tmp_path/'set'/rows[0]['rgb_file_name']).read_bytes()
    p = synthdepth('rerender', tmp_path/'set', rows[0]['scene'], *own)
    assert p.returncode == 0, p.stderr
    assert (tmp_path/'set'/rows[0]['rgb_file_name']).read_bytes() == before
    p = synthdepth('rerender', tmp_path/'set', rows[0]['scene'])
    refused = 'was rendered with the files' in p.stderr + p.stdout
    assert p.returncode == 1 and refused or 'unknown entries' in p.stderr
    trimesh.creation.box((1, 1, 3)).export(meshes/'slab.obj')
    p = synthdepth('render', tmp_path/'set', *SMALL, *own, *names)
    assert p.returncode == 1 and 'begun with other arguments (own:' in p.stderr


def test_own_files_join_the_preset(tmp_path, meshes):
    p = synthdepth('render', tmp_path/'set', *SMALL, '--meshes', meshes)
    assert p.returncode == 0, p.stderr
    info = json.loads((tmp_path/'set'/'dataset.json').read_text())
    shapes = info['generator']['factors']['shapes']
    assert 'own/ring' in shapes and 'sphere' in shapes


@pytest.mark.parametrize('name, text, message', [
    ('broken.obj', 'v 1 2 nonsense', 'cannot read the mesh|holds no triangles'),
    ('points.obj', 'v 0 0 0\nv 1 0 0\n', 'no triangles|cannot read'),
    ('flat.obj', 'v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n', 'lie in one point'),
    ('empty.glb', '', 'cannot read the mesh'),
    ('nan.obj', 'v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n', 'not finite')])
def test_unusable_meshes(tmp_path, name, text, message):
    (tmp_path/name).write_text(text)
    with pytest.raises(OwnError, match=message) as e: add_meshes(tmp_path)
    assert name in str(e.value)


def test_unusable_skies(tmp_path):
    with pytest.raises(OwnError, match='no .exr, .hdr file lies in'): add_environments(tmp_path)
    def picture(name, x):
        mi.Bitmap(np.asarray(x, np.float32)).write(str(tmp_path/name))
        return tmp_path/name
    for name, x, message in (('dark.exr', np.zeros((8, 16, 3)), 'black everywhere'),
                             ('square.exr', np.ones((8, 8, 3)), '8 x 8 pixels'),
                             ('minus.exr', -np.ones((8, 16, 3)), '128 pixels that are negative')):
        with pytest.raises(OwnError, match=message): read_environment(picture(name, x))
    (tmp_path/'text.hdr').write_text('not a picture')
    with pytest.raises(OwnError, match='cannot read the environment'):
        read_environment(tmp_path/'text.hdr')
    (tmp_path/'twice.exr').touch()
    (tmp_path/'twice.hdr').touch()
    with pytest.raises(OwnError, match='several files for own/twice'): add_environments(tmp_path)


def test_a_file_behind_a_name_stays_the_same(meshes, monkeypatch):
    monkeypatch.setattr(custom, 'SHAPES', {})
    monkeypatch.setattr(custom, '_HASHES', {})
    hashes = add_meshes(meshes)
    assert add_meshes(meshes) == hashes
    trimesh.creation.box((2, 1, 1)).export(meshes/'slab.obj')
    with pytest.raises(OwnError, match='own/slab was registered from another file'):
        add_meshes(meshes)


def test_the_error_is_the_projects_and_a_value_error(tmp_path):
    assert issubclass(OwnError, ValueError) and issubclass(OwnError, SynthdepthError)
    with pytest.raises(SynthdepthError, match='is not a folder'): add_meshes(tmp_path/'nowhere')


def test_a_large_panorama_is_averaged(tmp_path):
    x = np.random.default_rng(0).uniform(0, 2, (512, 1024, 3)).astype(np.float32)
    mi.Bitmap(x).write(str(tmp_path/'large.hdr'))
    found = read_environment(tmp_path/'large.hdr')
    assert found.shape == (256, 512, 3)
    assert np.abs(found - x.reshape(256, 2, 512, 2, 3).mean((1, 3))).max() < .02


def test_a_mesh_that_lies_stands_up(tmp_path):
    trimesh.creation.cylinder(.1, 3).export(tmp_path/'mast.stl')
    assert np.ptp(read_mesh(Path(tmp_path)/'mast.stl').vertices, 0).argmax() == 1
