"Depth against geometry that Mitsuba has no part in: another ray caster, and formulas."
import numpy as np
import pytest

from synthdepth.camera import Intrinsics
from synthdepth.scenes import Object, Scene, View, camera_pose, choose_variant, factors
from synthdepth.scenes import object_triangles, pinhole_sensor, sample_scene, to_mitsuba, z_depth

SIZE = (96, 128)


def pixel_rays(view, size, fov):
    "Origin (3,) and directions (H,W,3) whose component along the viewing direction is 1."
    k, pose = Intrinsics.from_fov(fov, size[1], size[0]), camera_pose(view)
    v, u = np.mgrid[.5:size[0], .5:size[1]]
    rays = np.stack([(u-k.cx)/k.fx, (v-k.cy)/k.fy, np.ones_like(u)], -1)
    return pose[:3, 3], rays@pose[:3, :3].T


def found(scene, view, size=SIZE):
    variant = choose_variant()
    mi_scene, sensor = to_mitsuba(scene, variant), pinhole_sensor(view, scene.fov, size)
    return z_depth(mi_scene, sensor, view, variant, size, scene.fov)


def cast(scene, view, size=SIZE):
    "z-depth by Embree through trimesh, 0 for a miss."
    trimesh = pytest.importorskip('trimesh')
    from trimesh.ray.ray_pyembree import RayMeshIntersector
    corners = np.concatenate([object_triangles(o)[0] for o in scene.objects])
    corners = corners.reshape(-1, 3).astype(float)
    mesh = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
    origin, rays = pixel_rays(view, size, scene.fov)
    flat = rays.reshape(-1, 3)
    caster, origins = RayMeshIntersector(mesh), np.tile(origin, (len(flat), 1))
    at, ray, _ = caster.intersects_location(origins, flat, False)
    z = np.zeros(len(flat))
    z[ray] = (at-origin)@camera_pose(view)[:3, 2]
    return z.reshape(size)


@pytest.mark.parametrize('preset', ['abstract', 'rooms'])
def test_agrees_with_another_ray_caster(preset):
    pytest.importorskip('embreex')
    same, close = [], []
    for index in range(10):
        scene = sample_scene(factors(preset, views=3), 11, index, preset)
        view = scene.views[index%3]
        a, b = found(scene, view), cast(scene, view)
        same.append(((a > 0) == (b > 0)).mean())
        close.append((np.abs(a-b) <= .001).mean())
    print(f'{preset}: same validity {np.mean(same):.5%}, within 1 mm {np.mean(close):.5%}, '
          f'worst {min(close):.5%}')
    assert min(same) >= .999 and min(close) >= .999


def lone(*objects): return Scene('x', 0, 60., 'gray', 0., objects, ())


TURNED = View((.3, 1.2, 2.), yaw=20., pitch=-15., roll=7.)


def test_box_equals_its_faces():
    "The slab method: the last entry into the pairs of planes, if it comes before the first exit."
    size, at = np.array([1.2, .7, .9]), np.array([-.3, .4, -1.5])
    z = found(lone(Object('box', 'oak', tuple(at), tuple(size))), TURNED)
    origin, rays = pixel_rays(TURNED, SIZE, 60.)
    low, high = ((at + s*size/2 - origin)/rays for s in (-1, 1))
    enter, leave = np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)
    truth = np.where(enter < leave, enter, 0)
    assert (truth > 0).mean() > .05
    assert ((z > 0) == (truth > 0)).mean() >= .999
    both = (z > 0) & (truth > 0)
    assert np.abs(z-truth)[both].max() < 1e-4


def test_floor_equals_its_plane():
    floor = Object('box', 'tiles', (0., -.5, 0.), (200., 1., 200.))
    z = found(lone(floor), TURNED)
    origin, rays = pixel_rays(TURNED, SIZE, 60.)
    truth = np.where(rays[..., 1] < 0, -origin[1]/np.minimum(rays[..., 1], -1e-9), 0)
    near = (truth > 0) & (truth < 30)
    assert near.mean() > .5
    assert np.abs(z-truth)[near].max() < 1e-3


def test_sphere_lies_between_the_balls_around_and_inside_its_triangles():
    radius, at = .5, np.array([0., .6, -1.])
    z = found(lone(Object('sphere', 'gold', tuple(at), (1., 1., 1.))), TURNED)
    origin, rays = pixel_rays(TURNED, SIZE, 60.)
    a, b, c = (rays**2).sum(-1), rays@(origin-at), ((origin-at)**2).sum()
    def ball(r): return np.where((root := b**2-a*(c-r*r)) > 0, (-b-np.sqrt(root.clip(0)))/a, np.nan)
    inside = ~np.isnan(ball(.995*radius))
    assert inside.mean() > .02
    assert (z[inside] > ball(radius+1e-5)[inside] - 1e-5).all()
    assert (z[inside] < ball(.995*radius)[inside]).all()
