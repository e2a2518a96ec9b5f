import numpy as np
import pytest

from synthdepth.camera import Intrinsics
from synthdepth.scenes import KINDS, MATERIALS, PRESETS, SHAPES, Factors, factors, from_json
from synthdepth.scenes import sample_scene, shape_mesh, sky, to_json
from synthdepth.scenes import catalogue, materials, skies

CLOSED = [n for n in SHAPES if n not in KINDS['light']]


@pytest.mark.parametrize('name', sorted(SHAPES))
def test_mesh_is_normalised_and_faces_outwards(name):
    mesh = shape_mesh(name)
    extent = np.ptp(mesh.corners.reshape(-1, 3), 0)
    assert extent.max() == pytest.approx(1, abs=1e-4)
    assert np.linalg.norm(mesh.normals, axis=-1) == pytest.approx(1, abs=1e-3)
    face = np.cross(mesh.corners[:, 1]-mesh.corners[:, 0], mesh.corners[:, 2]-mesh.corners[:, 0])
    agree = np.einsum('fi,fci->fc', face, mesh.normals) > 0
    assert agree.mean() > .99, 'shading normals must lie on the side of the face'
    if name in CLOSED:
        a, b, c = mesh.corners.transpose(1, 0, 2)
        volume = np.einsum('fi,fi->f', a, np.cross(b, c)).sum()/6
        assert volume > 0, 'a closed body has its outside outside'


def test_catalogues_are_known_by_name_alone():
    made = {f.__name__ for f in SHAPES.values()} | {f.__name__ for f in skies._DRAWN.values()}
    assert not made & {*catalogue.__all__, *skies.__all__}
    assert {name.lstrip('_') for name in made} == {*SHAPES, *skies._DRAWN}
    assert not set(MATERIALS) & {*materials.__all__}


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="shape 'box' is registered already"):
        catalogue.shape('primitive')(SHAPES['box'])
    assert KINDS['primitive'].count('box') == 1


def test_there_is_enough_to_draw_from():
    assert len(CLOSED) >= 40 and len(MATERIALS) >= 36


@pytest.mark.parametrize('preset', PRESETS)
def test_scene_is_plain_data_from_one_seed(preset):
    f = factors(preset)
    a, b = sample_scene(f, 3, 7, preset), sample_scene(f, 3, 7, preset)
    assert a == b == from_json(to_json(a))
    assert a != sample_scene(f, 4, 7, preset)
    assert len(a.views) == f.views


# What 0.3.0 sampled for seed 5, scene 11: count, background, sun, last object, last sun yaw.
SAMPLED = dict(
    published=(58, 'black', 2.317446, 'jack', 'dots', (-0.90038, 2.986105, -1.993514), -16.232681),
    abstract=(63, 'studio', 1.831178, 'knot', 'paint_white', (-2.133337, 1.293186, -0.623882),
              -89.503493),
    rooms=(23, 'none', 0, 'arch', 'paint_cream', (-0.036512, 0.211493, -2.086139), 28.606917),
    mixed=(27, 'none', 0, 'capsule', 'marble', (-1.58245, 0.127651, -2.095158), 165.156399))


@pytest.mark.parametrize('preset', SAMPLED)
def test_old_seeds_keep_their_scenes(preset):
    scene = sample_scene(factors(preset), 5, 11, preset)
    count, background, sun, shape, material, at, sun_yaw = SAMPLED[preset]
    last = scene.objects[-1]
    assert (len(scene.objects), scene.background) == (count, background)
    assert (last.shape, last.material) == (shape, material)
    assert last.position == pytest.approx(at, abs=1e-5)
    assert (scene.sun, scene.views[-1].sun_yaw) == pytest.approx((sun, sun_yaw), abs=1e-5)


@pytest.mark.parametrize('fov', [1, 37.5, 60, 66.123456789, 179])
def test_focal_length_in_metadata_keeps_every_bit(fov):
    camera = Intrinsics.from_fov(fov, 333, 251)
    focal = float(.5*251/np.tan(np.radians(fov)/2))  # as 0.3.0 wrote it
    assert vars(camera) == dict(fx=focal, fy=focal, cx=166.5, cy=125.5)
    assert list(vars(camera)) == ['fx', 'fy', 'cx', 'cy']


@pytest.mark.parametrize('name', skies._DRAWN)
def test_drawn_skies_are_radiance(name):
    x = sky(name)
    assert x.shape == (256, 512, 3) and x.dtype == np.float32
    assert np.isfinite(x).all() and x.min() >= 0 and x.max() > 0
    assert np.abs(x[:, 0] - x[:, -1]).mean() < .05*x.std(), 'no seam'


def test_published_recipe():
    f = factors('published')
    scenes = [sample_scene(f, 0, i) for i in range(40)]
    counts = [len(s.objects) for s in scenes]
    assert 50 <= min(counts) and max(counts) <= 75
    at = np.array([o.position for s in scenes for o in s.objects])
    assert (np.abs(at[:, [0, 2]]) <= 3).all() and at[:, 1].min() >= .1 and at[:, 1].max() <= 3
    size = np.array([o.size for s in scenes for o in s.objects])
    assert .3 <= size.min() and size.max() <= .9 and (size == size[:, :1]).all()
    v = scenes[0].views
    assert [v[0].pitch, v[7].pitch, v[14].pitch] == pytest.approx([-10, 0, 10])
    assert max(x.roll for x in v) == pytest.approx(5, abs=.2)
    assert [x.sun_elevation - x.pitch for x in v] == pytest.approx([45]*15)
    assert max(abs(np.diff([x.sun_yaw for x in v]))) <= 5


def test_room_camera_stands_in_free_space():
    for i in range(30):
        s = sample_scene(factors('rooms'), 0, i)
        width, _, depth = s.objects[0].size
        for v in s.views:
            assert abs(v.position[0]) < width/2 - .4 and abs(v.position[2]) < depth/2 - .4
            assert 1.1 <= v.position[1] <= 1.8


@pytest.mark.parametrize('wrong, message', [
    (dict(objects=(9, 3)), 'objects.*lowest <= highest'),
    (dict(size=.5), 'size is 0.5; expected a pair'),
    (dict(sun=(1, 2, 3)), 'sun.*expected a pair'), (dict(box=((0, 1), (0, 1))), 'three pairs'),
    (dict(room=((5, 3), (2, 3), (3, 5))), 'room.*lowest <= highest'),
    (dict(shapes=['unicorn']), 'unknown entries'), (dict(materials=[]), 'is empty'),
    (dict(views=0), 'views is 0'), (dict(retries=-1), 'retries is -1'),
    (dict(colour=1), 'unknown factor'), (dict(kind='attic'), "'floating' or 'room'")])
def test_wrong_factors(wrong, message):
    with pytest.raises(ValueError, match=message):
        factors('abstract', **wrong)


def test_ablation_reaches_the_scene():
    f = factors('published', shapes=['box'], materials=['oak', 'gold'], objects=[3, 3])
    s = sample_scene(f, 0, 0)
    assert isinstance(f, Factors)
    assert [o.shape for o in s.objects] == ['box']*3
    assert {o.material for o in s.objects} <= {'oak', 'gold'}
