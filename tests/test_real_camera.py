"A real camera among the rest: other tracers, focal stacks, extras, readers, processes."
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq

from synthdepth.camera import Intrinsics
from synthdepth.data.native import read_line
from synthdepth.scenes import Lens, Object, Scene, View, camera_pose, choose_variant
from synthdepth.scenes import factors, object_triangles, pinhole_sensor, render_scene
from synthdepth.scenes import sample_scene, surface, to_json, to_mitsuba, z_depth
from synthdepth.scenes.dataset_folder import capture_metadata
from synthdepth.scenes.lenses import bend_of

SIZE, FOV = (60, 80), 60.


def bulk():
    "The variant; lenses need one that traces rays in bulk."
    variant = choose_variant()
    if variant.startswith('scalar'): pytest.skip('no variant that traces rays in bulk')
    return variant


def ideal_rays(lens, size=SIZE, fov=FOV):
    "(H,W,3) camera axes, z 1: for each pixel's centre, the ray whose bent image lies there."
    k = Intrinsics.from_fov(fov, size[1], size[0])
    v, u = np.mgrid[.5:size[0], .5:size[1]]
    x, y = (u - k.cx)/k.fx, (v - k.cy)/k.fy
    bent = np.hypot(x, y)
    def seen(r): return r*(1 + lens.k1*r**2 + lens.k2*r**4)
    def ideal(d): return brentq(lambda r: seen(r) - d, 0, 1.3, xtol=1e-13)
    s = np.vectorize(ideal)(bent)/bent
    return np.stack([x*s, y*s, np.ones_like(x)], -1)


def traced(scene):
    "Depth and surface of a scene's first view."
    variant, view = bulk(), scene.views[0]
    mi_scene, sensor = to_mitsuba(scene, variant), pinhole_sensor(view, scene.fov, SIZE)
    z = z_depth(mi_scene, sensor, view, variant, SIZE, scene.fov, bend_of(scene))
    return z, surface(mi_scene, scene, sensor, view, variant, z)


WALL = Object('box', 'checker', (0., 0., -5.), (20., 20., 1.), (0., np.sin(.2), 0., np.cos(.2)))
PLAIN = Scene('wall', 3, FOV, 'gray', 2., (WALL,), (View((0., 0., 0.)),))


def test_depth_of_a_scene_equals_embree():
    trimesh = pytest.importorskip('trimesh')
    embree = pytest.importorskip('trimesh.ray.ray_pyembree', exc_type=ImportError)
    lens = Lens(-.15, .03)
    scene = replace(sample_scene(factors('rooms', views=1), 3, 1), lens=lens)
    z, s = traced(scene)
    corners = np.concatenate([object_triangles(o)[0] for o in scene.objects])
    mesh = trimesh.Trimesh(corners.reshape(-1, 3), np.arange(3*len(corners)).reshape(-1, 3),
                           process=False)
    pose = camera_pose(scene.views[0])
    rays = ideal_rays(lens, fov=scene.fov).reshape(-1, 3)@pose[:3, :3].T
    tracer = embree.RayMeshIntersector(mesh)
    where, which, _ = tracer.intersects_location(np.tile(pose[:3, 3], (len(rays), 1)), rays,
                                                 multiple_hits=False)
    truth = np.zeros(len(rays))
    truth[which] = (where - pose[:3, 3])@pose[:3, 2]
    lengths = np.linalg.norm(rays, axis=-1).reshape(SIZE)
    assert s.distance == pytest.approx(z*lengths, abs=1e-4)
    off = np.abs(z.ravel() - truth)
    assert (off < 1e-4 + 1e-4*truth).mean() > .995 and np.median(off) < 1e-5


def test_the_focal_stack_has_the_same_camera():
    bulk()
    scene = replace(PLAIN, lens=Lens(-.14))
    sharp = dict(slices=1, distances=[5.], aperture=1e-5)
    view = next(render_scene(scene, SIZE, spp=64, denoise=False, extras=('focal',), focal=sharp))
    plain = next(render_scene(PLAIN, SIZE, spp=64, denoise=False))
    def off(a, b): return np.abs(a.astype(int) - b).mean()
    assert off(view.extras['focal'][0], view.rgb) < 4 < off(plain.rgb, view.rgb)


def test_noise_depends_on_scene_and_view_alone():
    scene = replace(PLAIN, views=PLAIN.views*2, lens=Lens(noise=.05))
    few = list(render_scene(scene, SIZE, spp=1))
    again = list(render_scene(scene, SIZE, spp=1, extras=('focal', 'normal'), focal=dict(slices=2)))
    for a, b in zip(few, again): assert (a.rgb == b.rgb).all()
    assert (few[0].rgb != few[1].rgb).any(), 'each view has noise of its own'
    clean = next(render_scene(PLAIN, SIZE, spp=1))
    assert (clean.depth == few[0].depth).all()


def test_no_two_pictures_share_their_noise():
    flat = replace(PLAIN, objects=(), sun=0., views=PLAIN.views*2,
                   lens=Lens(exposure=-1., noise=.1))
    many = render_scene(flat, SIZE, spp=1, denoise=False, extras=('focal',), focal=dict(slices=2))
    pictures = [x.ravel() for v in many for x in (v.rgb, *v.extras['focal'])]
    alike = np.corrcoef(pictures) - np.eye(6)
    assert np.abs(alike).max() < .1


def test_exposure_is_in_stops_and_corners_are_dark():
    grey = replace(PLAIN, objects=(), background='gray', sun=0.)
    def level(**lens):
        rgb = next(render_scene(replace(grey, lens=Lens(**lens)), SIZE, spp=1, denoise=False)).rgb
        x = rgb/255
        return np.where(x < .04045, x/12.92, ((x + .055)/1.055)**2.4).mean(-1)
    usual = level()
    assert level(exposure=-1.)/usual == pytest.approx(.5, abs=.01)
    assert (level(exposure=1.) == 1).all(), 'a stop more clips'
    dark = level(vignetting=.6)
    assert dark[0, 0]/dark[30, 40] == pytest.approx(.4, abs=.03)


@pytest.mark.parametrize('lens', [Lens(-.6), Lens(0., -.5)], ids=str)
def test_a_lens_that_folds_the_picture_is_refused(lens):
    with pytest.raises(ValueError, match='wall.*k1'):
        next(render_scene(replace(PLAIN, lens=lens), SIZE))


def test_readers_know_the_lens_at_a_glance():
    "The quick way of reading a line ends at the camera; the lens must not make it stumble."
    bent = replace(PLAIN, lens=Lens(-.1, .02, .3, .5, .01))
    plain, told = (capture_metadata(s, s.views[0], SIZE) for s in (PLAIN, bent))
    assert told['intrinsics'] == plain['intrinsics'] | dict(distortion=[-.1, .02])
    assert told['lens'] == dict(vignetting=.3, exposure=.5, noise=.01)
    assert 'lens' not in plain and 'distortion' not in plain['intrinsics']
    first = dict(rgb_file_name='rgb/a.png', depth_file_name='depth/a.png', scene='wall', view=0)
    line = json.dumps(first | told).encode()
    cut = line[:line.index(b'}') + 1]
    assert json.loads(cut + b'}')['intrinsics'] == told['intrinsics']
    assert read_line(line).intrinsics == Intrinsics.from_fov(FOV, SIZE[1], SIZE[0])


def test_a_scene_of_a_household_needs_no_other_import():
    "A process that reads a scene as text knows the things and materials of homes, too."
    chair = Object('armchair', 'cloth_plaid', (0., 0., -3.), (1., 1., 1.))
    code = ('import sys; from synthdepth.scenes.description import from_json; '
            'from synthdepth.scenes.render import render_scene; '
            'v = next(render_scene(from_json(sys.argv[1]), (24, 32), 1)); '
            'print((v.depth > 0).sum())')
    said = subprocess.run([sys.executable, '-c', code, to_json(replace(PLAIN, objects=(chair,)))],
                          capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) > 20
