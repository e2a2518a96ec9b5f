import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from synthdepth.camera import Intrinsics
from synthdepth.data import open_data
from synthdepth.demo import NEAR
from synthdepth.scenes import EXTRAS, Object, RenderError, Scene, View, choose_variant
from synthdepth.scenes import decode_normal, encode_normal, factors, focal_stack, millimetres
from synthdepth.scenes import pinhole_sensor, render_dataset, render_scene, sample_scene, surface
from synthdepth.scenes import to_mitsuba, tone_map, view_fault, z_depth

SMALL = dict(scenes=4, views=2, size=(48, 64), spp=2, seed=5, objects=[4, 8], **NEAR)


def digest(folder):
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp('small')/'set'
    return render_dataset(out, workers=1, progress=False, **SMALL)


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
    ball = dict(type='sphere', center=[.2, .1, -2], radius=.5, bsdf=bsdf)
    scene = mi.load_dict(dict(type='scene', ball=ball,
                              wall=dict(type='rectangle', to_world=oblique)))
    z = z_depth(scene, pinhole_sensor(view, fov, size), view, variant, size, fov)
    choose_variant.cache_clear()
    choose_variant()
    k = Intrinsics.from_fov(fov, size[1], size[0])
    v, u = np.mgrid[.5:size[0], .5:size[1]]
    ray = np.stack([(u-k.cx)/k.fx, -(v-k.cy)/k.fy, -np.ones_like(u)], -1)
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
    stored = millimetres(np.array([0, 1.2344, 65.535, 65.6, np.nan]))
    assert stored.tolist() == [0, 1234, 65535, 0, 0]


def test_stored_depth_is_the_rendered_depth(small):
    scene = sample_scene(factors(views=2, objects=[4, 8], **NEAR), 5, 0, 'published')
    first = next(render_scene(scene, (48, 64), 2))
    sample = open_data(small)[0]
    assert np.abs(sample.depth - first.depth).max() <= .0005 + 1e-6
    assert (sample.rgb == first.rgb).all()


def test_metadata_describes_the_folder(small):
    info = json.loads((small/'dataset.json').read_text())
    lines = [json.loads(x) for x in (small/'metadata.jsonl').read_text().splitlines()]
    assert info['captures'] == len(lines) == 8
    assert info['scenes'] == 4 and info['depth']['kind'] == 'z'
    assert not (small/'.render').exists() and not list(small.rglob('*.part'))
    assert {x['scene'] for x in lines} == {f'published-5-{i:05d}' for i in range(4)}
    assert np.linalg.det(np.array(lines[0]['pose'])[:3, :3]) == pytest.approx(1)
    assert {'fx', 'fy', 'cx', 'cy', 'width', 'height'} <= set(lines[0]['intrinsics'])


def test_bytes_do_not_depend_on_the_number_of_workers(small, tmp_path):
    two = render_dataset(tmp_path/'two', workers=2, progress=False, **SMALL)
    assert digest(two) == digest(small)


def test_killed_and_started_again(small, tmp_path):
    "SIGKILL at several moments, each time going on: the finished folder has the same bytes."
    code = (f'from synthdepth.scenes import render_dataset\nif __name__ == "__main__": '
            f'render_dataset({str(tmp_path/"set")!r}, workers=2, progress=False, **{SMALL!r})')
    (tmp_path/'go.py').write_text(code)
    out, kills = tmp_path/'set', 0
    while not (out/'dataset.json').exists() and kills < 12:
        before = len(list(out.glob('.render/scene_*')))
        p = subprocess.Popen([sys.executable, tmp_path/'go.py'], start_new_session=True)
        while p.poll() is None and len(list(out.glob('.render/scene_*'))) <= before:
            time.sleep(.02)
        if p.poll() is None:
            if kills % 2 == 0: os.killpg(p.pid, signal.SIGKILL)
            else: p.kill()  # the workers must notice that their parent is gone
            kills += 1
        p.wait()
        if not (out/'dataset.json').exists():
            with pytest.raises(ValueError, match='incomplete'): open_data(out)
    if not (out/'dataset.json').exists():
        subprocess.run([sys.executable, tmp_path/'go.py'], check=True)
    time.sleep(1.5)  # an orphan ends within a second
    assert kills >= 2
    assert digest(out) == digest(small)


def test_a_worker_that_dies_ends_the_run(tmp_path):
    "Even the one that was started last: the pool must not wait for it for ever."
    if not os.path.exists('/proc/self/task'): pytest.skip('children are found in /proc')
    arguments = SMALL | dict(scenes=2, views=40)
    call = f'render_dataset({str(tmp_path/"set")!r}, workers=2, progress=False, **{arguments!r})'
    (tmp_path/'go.py').write_text('from synthdepth.scenes import render_dataset\n'
                                  f'if __name__ == "__main__": {call}')
    p = subprocess.Popen([sys.executable, tmp_path/'go.py'], stderr=subprocess.PIPE, text=True)
    def workers():
        ids = open(f'/proc/{p.pid}/task/{p.pid}/children').read().split()
        def command(i): return open(f'/proc/{i}/cmdline', 'rb').read()
        return [i for i in map(int, ids) if b'spawn_main' in command(i)]
    while len(found := workers()) < 2 and p.poll() is None: time.sleep(.02)
    time.sleep(1)
    os.kill(found[-1], signal.SIGKILL)
    assert 'died (out of memory?)' in p.communicate(timeout=60)[1]


def test_second_process_is_refused(tmp_path):
    fcntl = pytest.importorskip('fcntl')
    out = tmp_path/'set'
    (out/'.render').mkdir(parents=True)
    with open(out/'.render'/'.lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(RenderError, match='another process'):
            render_dataset(out, progress=False, workers=1, **SMALL)


def test_a_file_system_without_locks(small, tmp_path, monkeypatch):
    "Rendering starts all the same, and says once that the folder is not protected."
    fcntl = pytest.importorskip('fcntl')
    def no_locks(*args): raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    monkeypatch.setattr(fcntl, 'flock', no_locks)
    with pytest.warns(UserWarning, match='no lock.*one process at a time') as said:
        out = render_dataset(tmp_path/'set', workers=1, progress=False, **SMALL)
    assert len([w for w in said if 'no lock' in str(w.message)]) == 1
    assert digest(out) == digest(small)


def test_what_a_killed_process_left_half_written_is_removed(small, tmp_path):
    place = tmp_path/'set'/'rgb'
    place.mkdir(parents=True)
    (tmp_path/'set'/'depth').mkdir()
    generator = json.loads((small/'dataset.json').read_text())['generator']
    (tmp_path/'set'/'.render').mkdir()
    (tmp_path/'set'/'.render'/'generator.json').write_text(json.dumps(generator))
    (place/f'rgb_00000.png.{socket.gethostname()}.99999999.part').write_bytes(b'half')
    out = render_dataset(tmp_path/'set', workers=1, progress=False, **SMALL)
    assert digest(out) == digest(small)


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
    (dict(preset='attic'), 'unknown preset'), (dict(scenes=0), 'scenes is 0'),
    (dict(size=(4, 4)), '16 pixels'),
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
        to_mitsuba(Scene('x', 0, 60., 'gray', 3., (teapot,), view), choose_variant())
    with pytest.raises(ValueError, match="unknown background 'attic'"):
        to_mitsuba(Scene('x', 0, 60., 'attic', 3., (), view), choose_variant())


def test_exposure_never_burns_out_most_of_the_picture():
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1, 1e3):
        assert (tone_map(scale*rng.exponential(size=(64, 64, 3))) == 255).mean() < .15


def test_sun_lights_the_side_that_faces_it():
    ball = Object('sphere', 'plastic_white', (0, 0, -2.), (1., 1., 1.))
    def brightness(yaw):
        view = View((0., 0., 0.), sun_elevation=0., sun_yaw=yaw)
        s = Scene('x', 0, 60., 'black', 3., (ball,), (view,))
        rgb = next(render_scene(s, (64, 64), 8)).rgb.astype(float)
        return rgb[24:40, 20:30].mean(), rgb[24:40, 34:44].mean()
    left, right = brightness(90)   # shines towards -x: the right side is lit
    assert right > left + 20
    left, right = brightness(-90)
    assert left > right + 20


def pixel_rays(size, fov=60.):
    "(H,W,3) in the camera's axes, 1 along the viewing direction."
    k = Intrinsics.from_fov(fov, size[1], size[0])
    v, u = np.mgrid[.5:size[0], .5:size[1]]
    return np.stack([(u-k.cx)/k.fx, (v-k.cy)/k.fy, np.ones_like(u)], -1)


TWO = Scene('two', 0, 60., 'gray', 2., (Object('sphere', 'gold', (-.4, 0., -2.), (1., 1., 1.)),
                                        Object('box', 'gold', (.9, 0., -3.), (1., 1., 1.)),
                                        Object('box', 'oak', (.7, .3, -9.), (30., 31., 1.))),
            (View((0., 0., 0.)),))


def seen(scene, size, variant=None):
    "Depth and surface of a scene's first view."
    variant, view = variant or choose_variant(), scene.views[0]
    mi_scene, sensor = to_mitsuba(scene, variant), pinhole_sensor(view, scene.fov, size)
    z = z_depth(mi_scene, sensor, view, variant, size, scene.fov)
    return z, surface(mi_scene, scene, sensor, view, variant, z)


@pytest.mark.parametrize('variant', ['llvm_ad_rgb', 'scalar_rgb'])
def test_surface_equals_geometry(variant):
    import mitsuba as mi
    try: choose_variant((variant,))
    except RenderError as e: pytest.skip(str(e))
    mi.set_variant(variant)
    size = (60, 80)
    try: z, s = seen(TWO, size, variant)
    finally:
        choose_variant.cache_clear()
        choose_variant()
    rays = pixel_rays(size)
    assert s.distance == pytest.approx(z*np.linalg.norm(rays, axis=-1), abs=1e-4)
    assert (z > 0).all()
    assert set(np.unique(s.instance)) == {1, 2, 3}, 'two objects of one material keep two numbers'
    ball = s.instance == 1
    outward = rays*z[..., None] - [-.4, 0, 2]  # y points down, z forward
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    inner = ball & ((outward*rays).sum(-1) < -.3)
    angle = np.degrees(np.arccos((s.normal*outward).sum(-1).clip(-1, 1)))
    assert ball.mean() > .05 and angle[inner].max() < 1
    assert np.abs(s.normal[s.instance == 3] - [0, 0, -1]).max() < 1e-5
    assert np.abs(z[s.instance == 3] - 8.5).max() < 1e-4
    assert z[s.instance == 2].min() == pytest.approx(2.5, abs=1e-4)


def test_normals_face_the_camera_in_its_own_axes():
    "A floor seen from a camera that looks down: its normal points up and towards the camera."
    floor = Object('box', 'tiles', (0., -1.5, 0.), (50., 1., 50.))
    view = View((0., 1., 0.), pitch=-30.)
    _, s = seen(Scene('x', 0, 60., 'gray', 2., (floor,), (view,)), (24, 32))
    tilted = [0, -np.cos(np.radians(30)), -np.sin(np.radians(30))]
    assert s.normal[20, 16] == pytest.approx(tilted, abs=1e-5)


def test_normals_survive_eight_bits():
    n = np.random.default_rng(0).normal(size=(1000, 3))
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    assert np.degrees(np.arccos((decode_normal(encode_normal(n))*n).sum(1).clip(-1, 1))).max() < .5
    assert (decode_normal(encode_normal(np.zeros((2, 3)))) == 0).all()


def sharpness(x):
    "Variance of the Laplacian."
    return (4*x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]).var()


def test_the_slice_focused_on_an_object_is_its_sharpest():
    "Two checkered walls, near on the left, far on the right."
    walls = (Object('box', 'checker', (-2., 0., -2.5), (4., 4., 1.)),
             Object('box', 'checker', (4., 0., -5.5), (8., 12., 1.)))
    scene = Scene('x', 0, 60., 'white', 0., walls, (View((0., 0., 0.)),))
    mi_scene, distances = to_mitsuba(scene, choose_variant()), [1.2, 2., 3.2, 5., 9.]
    stack = focal_stack(mi_scene, scene.views[0], 60., (96, 128), distances, .08, 32, denoise=False)
    gray = [x.mean(-1) for x in stack]
    assert np.argmax([sharpness(g[:, :56]) for g in gray]) == 1
    assert np.argmax([sharpness(g[:, 72:]) for g in gray]) == 3


def test_extras_are_written_and_listed_and_change_nothing_else(small, tmp_path):
    arguments = SMALL | dict(scenes=2)
    out = render_dataset(tmp_path/'set', workers=1, progress=False, extras=EXTRAS,
                         focal=dict(slices=2), **arguments)
    line = json.loads((out/'metadata.jsonl').read_text().splitlines()[1])
    for kind in ('rgb', 'depth'):
        name = line[f'{kind}_file_name']
        assert (out/name).read_bytes() == (small/name).read_bytes()
    z, distance, instance = (np.array(Image.open(out/line[f'{k}_file_name']))
                             for k in ('depth', 'distance', 'instance'))
    normal = np.array(Image.open(out/line['normal_file_name']))
    assert distance.dtype == instance.dtype == np.uint16 and normal.dtype == np.uint8
    assert np.abs(distance - z*np.linalg.norm(pixel_rays((48, 64)), axis=-1)).max() <= 1.3
    assert ((instance > 0) == (z > 0)).all() and instance.max() <= line['objects']
    assert ((normal != 128).any(-1) == (z > 0)).all()
    assert line['focal_file_names'] == ['focal/focal_00001_0.png', 'focal/focal_00001_1.png']
    assert len(line['focal']['distances']) == 2 and line['focal']['aperture'] == .05
    assert all((out/name).is_file() for name in line['focal_file_names'])
    assert len(open_data(out)) == 4
    with pytest.raises(RenderError, match='extras'):
        render_dataset(out, workers=1, progress=False, **arguments)


def test_bad_views_are_counted_or_their_scene_is_sampled_anew(tmp_path, monkeypatch):
    from synthdepth.scenes import write
    real = write.sample_scene
    def shut_in(f, seed, index, name, attempt=0):
        scene = real(f, seed, index, name, attempt)
        if index == 1 and attempt < 2:  # a crate around the camera
            from dataclasses import replace
            crate = Object('box', 'oak', scene.views[1].position, (.2, .2, .2))
            scene = replace(scene, objects=(*scene.objects, crate))
        return scene
    monkeypatch.setattr(write, 'sample_scene', shut_in)
    arguments = dict(scenes=2, views=2, size=(24, 32), spp=1, workers=1, progress=False,
                     objects=[4, 8])
    kept = render_dataset(tmp_path/'kept', 'published', retries=0, **arguments)
    info = json.loads((kept/'dataset.json').read_text())
    assert info['views']['flagged'] == 2 and info['views']['faults'] == dict(inside=2)
    out = render_dataset(tmp_path/'anew', 'published', **arguments)
    info = json.loads((out/'dataset.json').read_text())
    lines = [json.loads(x) for x in (out/'metadata.jsonl').read_text().splitlines()]
    assert info['views']['flagged'] == 0 and info['views']['scenes_sampled_anew'] == 2
    assert [x.get('attempt', 0) for x in lines] == [0, 0, 2, 2]


def test_a_folder_from_before_a_factor_existed_goes_on(small, tmp_path):
    import shutil
    old = shutil.copytree(small, tmp_path/'old')
    info = json.loads((old/'dataset.json').read_text())
    del info['generator']['factors']['floating'], info['generator']['factors']['retries']
    del info['views']
    (old/'dataset.json').write_text(json.dumps(info))
    assert render_dataset(old, workers=1, progress=False, **SMALL) == old
    with pytest.raises(RenderError, match='factors'):
        render_dataset(old, workers=1, progress=False, **SMALL | dict(retries=1))


@pytest.mark.parametrize('wrong, message', [
    (dict(extras=('heat',)), 'unknown extras heat'),
    (dict(extras=('focal',), focal=dict(radius=1)), 'unknown focal option'),
    (dict(extras=('focal',), focal=dict(aperture=0)), 'aperture > 0'),
    (dict(retries=-1), 'retries is -1')])
def test_wrong_extras(tmp_path, wrong, message):
    with pytest.raises((RenderError, ValueError), match=message):
        render_dataset(tmp_path/'set', progress=False, **SMALL | wrong)
    assert not (tmp_path/'set').exists()


def test_fault_needs_something_wrong(small):
    scene = sample_scene(factors(views=2, objects=[4, 8], **NEAR), 5, 0, 'published')
    assert view_fault(next(render_scene(scene, (48, 64), 2))) is None
