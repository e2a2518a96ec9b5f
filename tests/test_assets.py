import numpy as np
import pytest

from synthdepth.scenes import KINDS, MATERIALS, PRESETS, SHAPES, Factors, factors, from_json
from synthdepth.scenes import sample_scene, shape_mesh, to_json

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
        volume = np.einsum('fi,fi->f', mesh.corners[:, 0], np.cross(mesh.corners[:, 1], mesh.corners[:, 2])).sum()/6
        assert volume > 0, 'a closed body has its outside outside'


def test_there_is_enough_to_draw_from():
    assert len(CLOSED) >= 40 and len(MATERIALS) >= 36


@pytest.mark.parametrize('preset', PRESETS)
def test_scene_is_plain_data_from_one_seed(preset):
    f = factors(preset)
    a, b = sample_scene(f, 3, 7, preset), sample_scene(f, 3, 7, preset)
    assert a == b == from_json(to_json(a))
    assert a != sample_scene(f, 4, 7, preset)
    assert len(a.views) == 15


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
    (dict(objects=(9, 3)), 'objects.*lowest <= highest'), (dict(size=.5), 'size is 0.5; expected a pair'),
    (dict(sun=(1, 2, 3)), 'sun.*expected a pair'), (dict(box=((0, 1), (0, 1))), 'three pairs'),
    (dict(room=((5, 3), (2, 3), (3, 5))), 'room.*lowest <= highest'), (dict(shapes=['teapot']), 'unknown entries'),
    (dict(materials=[]), 'is empty'), (dict(views=0), 'views is 0'), (dict(colour=1), 'unknown factor'),
    (dict(kind='attic'), "'floating' or 'room'")])
def test_wrong_factors(wrong, message):
    with pytest.raises(ValueError, match=message):
        factors('abstract', **wrong)


def test_ablation_reaches_the_scene():
    f = factors('published', shapes=['box'], materials=['oak', 'gold'], objects=[3, 3])
    s = sample_scene(f, 0, 0)
    assert isinstance(f, Factors)
    assert [o.shape for o in s.objects] == ['box']*3
    assert {o.material for o in s.objects} <= {'oak', 'gold'}
