"Light paths: the same light as Mitsuba's own path tracer, and the same bytes in every run."
import numpy as np
import pytest

from synthdepth.scenes import MATERIALS, Object, Scene, View, factors, sample_scene
from synthdepth.scenes import choose_variant, exposure, pinhole_sensor, thin_lens_sensor, to_mitsuba
from synthdepth.scenes import tone_map

SIZE = 48, 64
BALL = Object('sphere', 'plastic_white', (0., 0., -2.), (1., 1., 1.))
WALL = Object('box', 'oak', (0., 0., -4.), (6., 6., 1.))
LAMP = Object('sphere', 'lamp', (.9, .6, -1.6), (.3, .3, .3))
VIEW = View((0., 0., 0.), sun_elevation=30., sun_yaw=40.)


@pytest.fixture(scope='module')
def bulk():
    "A variant that traces rays in bulk."
    variant = choose_variant()
    if variant.startswith('scalar'): pytest.skip('needs LLVM or CUDA')
    return variant


def lit(background, sun, *objects): return Scene('lit', 0, 60., background, sun, objects, (VIEW,))


def mitsubas(scene, variant, sensor, spp, seed):
    import mitsuba as mi
    from synthdepth.scenes import MAX_DEPTH, ROULETTE_DEPTH
    path = mi.load_dict(dict(type='path', max_depth=MAX_DEPTH, rr_depth=ROULETTE_DEPTH))
    mi_scene = to_mitsuba(scene, variant, sun_apart=False)
    found = mi.render(mi_scene, sensor=sensor, integrator=path, spp=spp, seed=seed)
    return np.array(found)[..., :3]


SCENES = {'sun and sky': lit('clear', 3., BALL, WALL), 'sun alone': lit('none', 3., BALL, WALL),
          'lamp alone': lit('none', 0., BALL, WALL, LAMP),
          'sun and lamp': lit('none', 3., BALL, WALL, LAMP),
          'sky alone': lit('studio', 0., BALL, WALL),
          'abstract': sample_scene(factors('abstract', views=1), 2, 3),
          'room': sample_scene(factors('rooms', views=1), 2, 0)}


@pytest.mark.parametrize('scene', SCENES.values(), ids=SCENES)
def test_the_same_light_as_mitsubas_own_path_tracer(bulk, scene):
    from synthdepth.scenes import trace
    sensor = pinhole_sensor(scene.views[0], scene.fov, SIZE)
    mine = [trace(to_mitsuba(scene, bulk), sensor, SIZE, 256, seed)[..., :3] for seed in (1, 2)]
    theirs = [mitsubas(scene, bulk, sensor, 256, seed) for seed in (3, 4)]
    gain = exposure(np.mean(theirs, 0))
    def seen(x): return tone_map(x, gain).astype(float)
    def difference(x, y): return np.sqrt(np.mean((seen(x) - seen(y))**2))
    assert seen(theirs[0]).mean() > 10
    noise = difference(*theirs)/np.sqrt(2)
    assert difference(np.mean(mine, 0), np.mean(theirs, 0)) < max(1.3*noise, .6)
    assert abs(seen(np.mean(mine, 0)).mean()/seen(np.mean(theirs, 0)).mean() - 1) < .004


def test_guides_are_albedo_and_normal_of_the_first_surface(bulk):
    from synthdepth.scenes import trace
    right = Object('box', 'plastic_white', (2., 0., -3.), (2., 6., 2.))
    mi_scene = to_mitsuba(lit('clear', 3., right), bulk)
    found = trace(mi_scene, pinhole_sensor(VIEW, 60., SIZE), SIZE, 4, 0)
    on, off = found[24, 60], found[24, 5]
    white = np.unique(MATERIALS['plastic_white'].texture())
    assert len(white) == 1 and np.abs(on[3:] - [*[white[0]]*3, 0, 0, 1]).max() < 1e-4
    assert (off[3:] == 0).all() and off[:3].min() > 0


@pytest.mark.parametrize('spp', [1, 5])
def test_bands_are_one_picture_and_its_bytes_return(bulk, spp, monkeypatch):
    from synthdepth.scenes import light_paths
    scene = lit('clear', 3., BALL, WALL)
    mi_scene, sensor = to_mitsuba(scene, bulk), pinhole_sensor(VIEW, 60., SIZE)
    whole = light_paths.trace(mi_scene, sensor, SIZE, spp, 3)
    rows = 7  # of a band; 48 is not a multiple
    monkeypatch.setattr(light_paths, 'PATHS_PER_BAND', rows*64*max(spp, 6))
    banded = light_paths.trace(mi_scene, sensor, SIZE, spp, 3)
    assert whole.shape == banded.shape == (*SIZE, 9) and np.isfinite(banded).all()
    assert (banded == light_paths.trace(mi_scene, sensor, SIZE, spp, 3)).all()
    assert abs(banded[..., :3].mean()/whole[..., :3].mean() - 1) < .03
    rows_differ = np.abs(banded[..., 6:].mean(1) - whole[..., 6:].mean(1))
    assert rows_differ.max() < .15  # row by row the same surfaces


def test_a_lens_blurs_what_is_out_of_focus(bulk):
    from synthdepth.scenes import trace
    mi_scene = to_mitsuba(lit('clear', 3., BALL, WALL), bulk)
    def edges(distance):
        lens = thin_lens_sensor(VIEW, 60., SIZE, aperture=.2, distance=distance)
        normal = trace(mi_scene, lens, SIZE, 64, 0)[..., 6:]
        return np.abs(np.diff(normal, axis=1)).max()
    assert edges(1.6) > 1.5*edges(.4)
