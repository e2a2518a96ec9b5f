"A real camera: what it bends is bent in picture and depth alike, and the rest is light alone."
import json
from dataclasses import replace

import numpy as np
import pytest

from synthdepth.scenes import Lens, Object, Scene, View, choose_variant, from_json, render_scene
from synthdepth.scenes import to_json

FOV, SIZE, EYE = 70., (96, 128), 1.5
FLOOR = Object('box', 'checker', (0., -.05, 0.), (60., .1, 60.))
BACK = Object('box', 'brick', (0., 0., -6.), (60., 30., .1))
SCENE = Scene('grid', 3, FOV, 'studio', 0., (FLOOR, BACK), (View((0., EYE, 0.)),))
bulk = pytest.mark.skipif(choose_variant().startswith('scalar'), reason='needs rays in bulk')


def seen(lens, scene=SCENE, spp=1, **options):
    return next(render_scene(replace(scene, lens=lens), SIZE, spp, denoise=False, **options))


def ideal(k1, k2):
    "Where a pinhole sees what each pixel shows: x and y one metre ahead, by bisection."
    height, width = SIZE
    f = height/2/np.tan(np.radians(FOV)/2)
    v, u = np.mgrid[:height, :width] + .5
    x, y = (u - width/2)/f, (v - height/2)/f
    far = np.hypot(x, y)
    low, high = 0*far, 3 + 0*far
    if k1 < 0: high = np.minimum(high, .98*(1/(-3*k1))**.5)
    for _ in range(60):
        r = (low + high)/2
        over = r*(1 + k1*r**2 + k2*r**4) > far
        low, high = np.where(over, low, r), np.where(over, r, high)
    return x*r/far, y*r/far


@bulk
@pytest.mark.parametrize('k1, k2', [(-.08, 0.), (.05, 0.), (-.1, .02), (0., .03)])
def test_depth_through_a_lens_is_that_of_the_formula(k1, k2):
    depth = seen(Lens(k1, k2)).depth
    _, y = ideal(k1, k2)
    expected = np.where(y > EYE/5.95, EYE/np.maximum(y, 1e-9), 5.95)
    edge = np.abs(y - EYE/5.95) < 1e-3
    assert np.abs(depth - expected)[~edge].max() < 2e-3
    assert np.median(np.abs(depth - expected)) < 1e-5


@bulk
def test_distance_and_normals_belong_to_the_same_rays():
    view = seen(Lens(-.08), extras=('distance', 'normal', 'instance'))
    x, y = ideal(-.08, 0.)
    expected = view.depth*np.sqrt(1 + x**2 + y**2)
    assert np.abs(view.extras['distance']/1000 - expected).max() < 2e-3
    assert set(np.unique(view.extras['instance'])) == {1, 2}


@bulk
def test_picture_and_depth_are_bent_alike():
    "The horizon between floor and wall lies where depth says, in the picture, too."
    two = (replace(FLOOR, material='plastic_red'), replace(BACK, material='plastic_blue'))
    view = seen(Lens(-.1), replace(SCENE, objects=two), spp=64)
    red = view.rgb[..., 0].astype(int) > view.rgb[..., 2]
    assert (red == (view.depth < 5.9)).mean() > .985


def test_without_a_lens_nothing_changes():
    plain = seen(None)
    for lens in (Lens(),):
        view = seen(lens)
        assert (view.rgb == plain.rgb).all() and (view.depth == plain.depth).all()


def test_light_alone():
    plain = seen(None, spp=16)
    noisy, again = (seen(Lens(noise=.05), spp=16) for _ in range(2))
    assert (noisy.rgb == again.rgb).all() and (noisy.rgb != plain.rgb).any()
    assert (noisy.depth == plain.depth).all()
    over = seen(Lens(exposure=2.), spp=16)
    assert (over.rgb == 255).mean() > (plain.rgb == 255).mean() + .1
    dark = seen(Lens(vignetting=.8), spp=16)
    corner, middle = np.s_[:8, :8], np.s_[44:52, 60:68]
    ratio = [v.rgb[corner].mean()/v.rgb[middle].mean() for v in (plain, dark)]
    assert ratio[1] < .75*ratio[0]


def test_noise_differs_between_views():
    scene = replace(SCENE, views=SCENE.views*2, lens=Lens(noise=.05))
    a, b = render_scene(scene, SIZE, 4, denoise=False)
    assert (a.rgb != b.rgb).mean() > .3


def test_a_lens_is_plain_data():
    assert 'lens' not in json.loads(to_json(SCENE))
    with_lens = replace(SCENE, lens=Lens(-.1, noise=.02))
    assert from_json(to_json(with_lens)) == with_lens


@pytest.mark.parametrize('field, value', [('vignetting', 1.2), ('noise', -.01), ('k2', np.nan),
                                          ('exposure', np.inf)])
def test_values_that_no_camera_has_are_refused(field, value):
    with pytest.raises(ValueError, match=f'scene grid: the {field} of its lens'):
        seen(Lens(**{field: value}))
