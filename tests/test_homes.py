"The preset of lived-in rooms: what is in them, what can be taken away, where the camera stands."
import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from synthdepth.scenes import PRESETS, HomeFactors, draw_home, factors, from_json, render_scene
from synthdepth.scenes import sample_scene, to_json, view_fault

# sha256 of the scenes of seeds 0 and 7, indices 0..5, before there were homes
FORMER = dict(published='b27e9e7fc3a4f839', abstract='0d66b5705bbd008d', rooms='00c54cd4b0d4f7a5',
              mixed='f55a41cbaa8c70ef')


def home(seed, **changes): return sample_scene(factors('homes', **changes), 3, seed, 'homes')


@pytest.mark.parametrize('preset', FORMER)
def test_old_presets_keep_their_scenes_to_the_last_bit(preset):
    scenes = (sample_scene(factors(preset), seed, i, preset) for seed in (0, 7) for i in range(6))
    text = ''.join(map(to_json, scenes))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FORMER[preset]


def test_scenes_are_plain_data():
    for i in range(12):
        scene = home(i)
        assert from_json(to_json(scene)) == scene == home(i)
        assert 20 < len(scene.objects) < 400
        assert all(o.texture > 0 and min(o.size) > 0 for o in scene.objects)
    assert json.loads(to_json(home(0)))['views'][0]['yaw'] == home(0).views[0].yaw


# factor, its value when taken away, shapes that are gone then
GONE = [('windows', (0, 0), {'window', 'blind', 'curtain', 'radiator'}),
        ('doors', (0, 0), {'door'}),
        ('curtains', 0., {'curtain'}), ('blinds', 0., {'blind'}), ('radiators', 0., {'radiator'}),
        ('pictures', (0, 0), {'picture'}), ('mirrors', 0., {'mirror_frame'}), ('clocks', 0., set()),
        ('screens', 0., {'monitor', 'keyboard'}), ('rugs', 0., set()),
        ('people', (0, 0), {'person_standing', 'person_walking', 'person_sitting'}),
        ('plants', (0, 0), {'palm', 'hanging_plant'}), ('clutter', (0, 0), {'shoe'}),
        ('smalls', (0., 0.), {'mug', 'plate', 'teapot'}), ('pendants', (0, 0), {'pendant_lamp'})]


@pytest.mark.parametrize('factor, none, shapes', GONE, ids=[g[0] for g in GONE])
def test_what_is_taken_away_is_gone_and_the_rest_stays(factor, none, shapes):
    kept, before = 0, 0
    for i in range(10):
        full, less = home(i), home(i, **{factor: none})
        assert not shapes & {o.shape for o in less.objects}
        assert (full.fov, full.seed) == (less.fov, less.seed)
        def things(scene):
            walls = ('box', *shapes)
            return Counter(o for o in scene.objects if o.shape not in walls)
        kept += sum((things(full) & things(less)).values())
        before += sum(things(full).values())
    share = dict(smalls=.3, doors=.75, clutter=.75).get(factor, .9)
    assert kept >= share*before, f'{kept} of {before} things stay'


@pytest.mark.parametrize('factor', ['distortion', 'vignetting', 'exposure', 'noise'])
def test_the_lens_has_a_factor_for_each_of_its_faults(factor):
    field = 'k1' if factor == 'distortion' else factor
    for i in range(5):
        full, less = home(i).lens, home(i, **{factor: (0., 0.)}).lens
        assert getattr(full, field) and not getattr(less, field)
        assert {**vars(full), field: 0} == {**vars(less), field: 0}
    perfect = dict.fromkeys(('distortion', 'vignetting', 'exposure', 'noise'), (0., 0.))
    assert home(0, **perfect).lens is None


def test_the_camera_is_held_as_hands_do():
    views = [v for i in range(40) for v in home(i).views]
    heights, pitch, roll = (np.array(x) for x in zip(*((v.position[1], v.pitch, v.roll)
                                                       for v in views)))
    assert .4 <= heights.min() and heights.max() <= 2 and np.median(heights) > 1.2
    assert -35 <= pitch.min() and pitch.max() <= 15 and np.abs(roll).max() <= 8
    fov = np.array([home(i).fov for i in range(40)])
    assert 35 <= fov.min() and fov.max() <= 90 and 45 < np.median(fov) < 62


def test_the_camera_is_clear_of_everything():
    for i in range(40):
        scene = home(i)
        place, _ = draw_home(factors('homes'), (3, i, 0))
        boxes = np.array(place.boxes)
        for view in scene.views:
            at = np.array(view.position)
            outside = np.maximum(np.maximum(boxes[:, :3] - at, at - boxes[:, 3:]), 0)
            assert np.linalg.norm(outside, axis=1).min() > .15
            assert (at[[0, 2]] > place.plan.low).all() and (at[[0, 2]] < place.plan.high).all()


def test_furniture_does_not_stand_in_furniture():
    for i in range(20):
        place, _ = draw_home(factors('homes'), (3, i, 0))
        boxes = np.array([s.box for s in place.stood if 'chair' not in s.shape
                          and s.shape != 'stool' and not s.shape.startswith('person')])
        low = np.maximum(boxes[:, None, :3], boxes[None, :, :3])
        high = np.minimum(boxes[:, None, 3:], boxes[None, :, 3:])
        shared = (high - low).min(-1)
        np.fill_diagonal(shared, 0)
        assert shared.max() < .02


@pytest.mark.parametrize('room', factors('homes').rooms)
def test_every_sort_of_room_can_be_had(room):
    shapes = Counter(o.shape for i in range(4) for o in home(
        i, rooms=[room], passages=0., furniture=(1., 1.)).objects)
    sign = dict(living='couch', bedroom='nightstand', kitchen='counter', office='desk',
                bathroom='toilet', storage='carton', corridor='door').get(room, 'dining_chair')
    assert shapes[sign] or shapes['chair'] or shapes['stool']


def test_wrong_factors_are_refused():
    with pytest.raises(ValueError, match='unknown factor objects'): factors('homes', objects=(1, 2))
    with pytest.raises(ValueError, match='unknown factor windows'): factors('rooms', windows=(1, 2))
    with pytest.raises(ValueError, match='lowest <= highest'): factors('homes', windows=(2, 1))
    with pytest.raises(ValueError, match="unknown entries .'attic'"): HomeFactors(rooms=('attic',))
    with pytest.raises(ValueError, match='curtains'): HomeFactors(curtains=1.5)
    assert isinstance(PRESETS['homes'], HomeFactors)


def test_views_show_rooms_and_windows_the_sky():
    sky = 0
    for i in range(6):
        scene = home(i, windows=(4, 4), views=1, blinds=0., retries=0)
        view = next(render_scene(scene, (48, 64), 1, denoise=False))
        assert (view.depth > 0).mean() > .5
        assert view_fault(view) not in ('empty', 'inside')
        sky += (view.depth == 0).sum()
    assert sky > 50
    closed = home(0, windows=(0, 0), views=1)
    assert closed.background == 'none' and closed.sun == 0
    assert (next(render_scene(closed, (48, 64), 1, denoise=False)).depth > 0).all()
