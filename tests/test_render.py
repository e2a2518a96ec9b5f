import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from synthdepth.data import open_data
from synthdepth.render import RenderError, _sensor, build, choose_variant, millimetres
from synthdepth.render import render_dataset, render_scene, tone_map, z_depth
from synthdepth.scenes import Object, Scene, View, factors, intrinsics, sample_scene

SMALL = dict(preset='abstract', scenes=4, views=2, size=(48, 64), spp=2, seed=5, objects=[4, 8])


def digest(folder):
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    return render_dataset(tmp_path_factory.mktemp('small')/'set', workers=1, progress=False, **SMALL)


@pytest.mark.parametrize('variant', ['llvm_ad_rgb', 'scalar_rgb'])
@pytest.mark.parametrize('glass', [False, True])
def test_depth_equals_geometry(variant, glass):
    import mitsuba as mi
    try: choose_variant((variant,))
    except RenderError as e: pytest.skip(str(e))
    mi.set_variant(variant)
    size, fov, view = (240, 320), 60., View((0, 0, 0))
    bsdf = dict(type='dielectric') if glass else dict(type='diffuse')
    oblique = mi.ScalarTransform4f().translate([0, 0, -4]).rotate([0, 1, 0], 30).scale(9)
    scene = mi.load_dict(dict(type='scene', ball=dict(type='sphere', center=[.2, .1, -2], radius=.5, bsdf=bsdf),
                              wall=dict(type='rectangle', to_world=oblique)))
    z = z_depth(scene, _sensor(view, fov, size), view, variant, size, fov)
    choose_variant.cache_clear()
    choose_variant()
    k = intrinsics(fov, size[1], size[0])
    v, u = np.mgrid[.5:size[0], .5:size[1]]
    ray = np.stack([(u-k['cx'])/k['fx'], -(v-k['cy'])/k['fy'], -np.ones_like(u)], -1)
    n = np.array([np.sin(np.radians(30)), 0, np.cos(np.radians(30))])
    wall = (n @ [0, 0, -4])/(ray@n)
    c = np.array([.2, .1, -2])
    a, b = (ray**2).sum(-1), ray@c
    root = b**2 - a*(c@c-.25)
    truth = np.where(root > 0, (b-np.sqrt(root.clip(0)))/a, wall)
    assert np.abs(z-truth).max() < 1e-4


def test_background_has_no_depth_and_stored_depth_is_millimetres(small):
    data = open_data(small)
    sample = data[0]
    assert 0 < sample.valid.mean() < 1
    assert sample.depth[sample.valid].min() > .5
    assert millimetres(np.array([0, 1.2344, 65.535, 65.6, np.nan])).tolist() == [0, 1234, 65535, 0, 0]


def test_stored_depth_is_the_rendered_depth(small):
    scene = sample_scene(factors('abstract', views=2, objects=[4, 8]), 5, 0, 'abstract')
    first = next(render_scene(scene, (48, 64), 2))
    sample = open_data(small)[0]
    assert np.abs(sample.depth - first.depth).max() <= .0005 + 1e-6
    assert (sample.rgb == first.rgb).all()


def test_metadata_describes_the_folder(small):
    info = json.loads((small/'dataset.json').read_text())
    lines = [json.loads(x) for x in (small/'metadata.jsonl').read_text().splitlines()]
    assert info['captures'] == len(lines) == 8 and info['scenes'] == 4 and info['depth']['kind'] == 'z'
    assert not (small/'.render').exists() and not list(small.rglob('*.part'))
    assert {x['scene'] for x in lines} == {f'abstract-5-{i:05d}' for i in range(4)}
    assert np.linalg.det(np.array(lines[0]['pose'])[:3, :3]) == pytest.approx(1)
    assert {'fx', 'fy', 'cx', 'cy', 'width', 'height'} <= set(lines[0]['intrinsics'])


def test_bytes_do_not_depend_on_the_number_of_workers(small, tmp_path):
    two = render_dataset(tmp_path/'two', workers=2, progress=False, **SMALL)
    assert digest(two) == digest(small)


def test_killed_and_started_again(small, tmp_path):
    "SIGKILL at several moments, each time going on: the finished folder has the same bytes."
    code = (f'from synthdepth.render import render_dataset\nif __name__ == "__main__": '
            f'render_dataset({str(tmp_path/"set")!r}, workers=2, progress=False, **{SMALL!r})')
    (tmp_path/'go.py').write_text(code)
    out, kills = tmp_path/'set', 0
    while not (out/'dataset.json').exists() and kills < 12:
        before = len(list(out.glob('.render/scene_*')))
        p = subprocess.Popen([sys.executable, tmp_path/'go.py'], start_new_session=True)
        while p.poll() is None and len(list(out.glob('.render/scene_*'))) <= before:
            time.sleep(.02)
        if p.poll() is None:
            if kills % 2: os.killpg(p.pid, signal.SIGKILL)
            else: p.kill()  # the workers must notice that their parent is gone
            kills += 1
        p.wait()
        if not (out/'dataset.json').exists():
            with pytest.raises(ValueError, match='incomplete'): open_data(out)
    if not (out/'dataset.json').exists(): subprocess.run([sys.executable, tmp_path/'go.py'], check=True)
    time.sleep(1.5)  # an orphan ends within a second
    assert kills >= 2
    assert digest(out) == digest(small)


def test_second_process_is_refused(tmp_path):
    fcntl = pytest.importorskip('fcntl')
    out = tmp_path/'set'
    (out/'.render').mkdir(parents=True)
    with open(out/'.render'/'lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(RenderError, match='another process'):
            render_dataset(out, progress=False, workers=1, **SMALL)


def test_other_arguments_are_refused_and_nothing_is_lost(small):
    before = digest(small)
    with pytest.raises(RenderError, match='seed: 5 there, 6 asked for'):
        render_dataset(small, progress=False, **SMALL | dict(seed=6))
    assert render_dataset(small, progress=False, **SMALL) == small
    assert digest(small) == before


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path/'thesis.txt').write_text('precious')
    with pytest.raises(RenderError, match=r'not a dataset \(thesis.txt\)'):
        render_dataset(tmp_path, progress=False, **SMALL)
    assert (tmp_path/'thesis.txt').read_text() == 'precious'


@pytest.mark.parametrize('wrong, message', [
    (dict(preset='attic'), 'unknown preset'), (dict(scenes=0), 'scenes is 0'), (dict(size=(4, 4)), '16 pixels'),
    (dict(spp=0), 'spp is 0'),
    (dict(colour=3), 'unknown factor')])
def test_wrong_arguments(tmp_path, wrong, message):
    with pytest.raises((RenderError, ValueError), match=message):
        render_dataset(tmp_path/'set', progress=False, **SMALL | wrong)
    assert not (tmp_path/'set').exists()


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_full_disk(tmp_path, monkeypatch):
    from PIL import Image
    def full(self, *args, **kw): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(RenderError, match='No space left on device.*goes on from there'):
        render_dataset(tmp_path/'set', workers=1, progress=False, **SMALL)
    monkeypatch.undo()
    assert not (tmp_path/'set'/'dataset.json').exists()
    assert render_dataset(tmp_path/'set', workers=1, progress=False, **SMALL)


def test_unknown_names_in_a_scene_are_refused():
    "A scene may have been edited by hand."
    view = (View((0., 0., 0.)),)
    teapot = Object('sphere', 'porcelain', (0., 0., -2.), (1., 1., 1.))
    with pytest.raises(ValueError, match="scene x has unknown materials.*'porcelain'"):
        build(Scene('x', 0, 60., 'gray', 3., (teapot,), view), choose_variant())
    with pytest.raises(ValueError, match="unknown background 'attic'"):
        build(Scene('x', 0, 60., 'attic', 3., (), view), choose_variant())


def test_exposure_never_burns_out_most_of_the_picture():
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1, 1e3):
        assert (tone_map(scale*rng.exponential(size=(64, 64, 3))) == 255).mean() < .15


def test_sun_lights_the_side_that_faces_it():
    ball = Object('sphere', 'plastic_white', (0, 0, -2.), (1., 1., 1.))
    def brightness(yaw):
        s = Scene('x', 0, 60., 'black', 3., (ball,), (View((0., 0., 0.), sun_elevation=0., sun_yaw=yaw),))
        rgb = next(render_scene(s, (64, 64), 8)).rgb.astype(float)
        return rgb[24:40, 20:30].mean(), rgb[24:40, 34:44].mean()
    left, right = brightness(90)   # shines towards -x: the right side is lit
    assert right > left + 20
    left, right = brightness(-90)
    assert left > right + 20
