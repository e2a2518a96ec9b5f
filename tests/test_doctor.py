"Faults planted in a rendered set are named, each by its name; the clean set has none."
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from synthdepth.camera import depth_to_distance
from synthdepth.data import DepthFormat, agreement, check_data, exchanged, misfit, misreading
from synthdepth.data import open_data, signs
from synthdepth.scenes import render_dataset


@pytest.fixture(scope='module', params=['rooms', 'abstract'])
def clean(request, tmp_path_factory):
    out = tmp_path_factory.mktemp('sets')/request.param
    render_dataset(out, request.param, scenes=6, views=2, size=(96, 128), spp=4, denoise=True,
                   workers=1, progress=False)
    return out


@pytest.fixture
def copy(clean, tmp_path):
    return shutil.copytree(clean, tmp_path/clean.name)


def problems(path): return check_data(path, progress=False).problems


def rewrite(path, change):
    "Stores changed metres again; change(metres, camera)."
    for c in open_data(path).captures:
        metres = np.array(Image.open(c.depth))/1000
        new = np.where(metres > 0, change(metres, c.intrinsics)*1000, 0).round().clip(0, 65535)
        Image.fromarray(new.astype(np.uint16)).save(c.depth)


def srgb(x): return np.where(x <= .0031308, 12.92*x, 1.055*np.maximum(x, 1e-9)**(1/2.4) - .055)


def test_clean_sets_have_no_problems(clean, tmp_path):
    report = check_data(clean, progress=False)
    assert report.ok, report.problems
    assert report.votes.flat_so.max() <= 1
    for name in ('page.png', 'page.pdf'):
        report.page(tmp_path/name)
        assert (tmp_path/name).stat().st_size > 10_000


FAULTS = {'distances (ray lengths)': lambda m, camera: depth_to_distance(m, camera),
          'inverted (near and far swapped)': lambda m, camera: 10 - m,
          'sRGB (gamma) curve': lambda m, camera: 10*srgb(m/10),
          'disparity (1/depth)': lambda m, camera: 1/np.maximum(m, .1),
          '8-bit picture': lambda m, camera: (m/m.max()*255).round()/255*m.max(),
          'exactly the largest value': lambda m, camera: np.minimum(m, 3.),
          'exactly the smallest value': lambda m, camera: np.maximum(m, 2.7),
          'misaligned': lambda m, camera: np.roll(m, 8, 1),
          'mirrored left to right': lambda m, camera: m[:, ::-1],
          'upside down': lambda m, camera: m[::-1]}


@pytest.mark.parametrize('message', FAULTS)
def test_fault_of_the_depth_is_named(copy, message):
    rewrite(copy, FAULTS[message])
    found = problems(copy)
    assert len(found) == 1 and message in found[0], found


def permute(path, order):
    depths = [p.read_bytes() for p in sorted((path/'depth').glob('*.png'))]
    for p, i in zip(sorted((path/'depth').glob('*.png')), order):
        p.write_bytes(depths[i])


def test_pairs_that_do_not_belong_together_are_named(copy):
    permute(copy, np.roll(range(12), 4))
    found = problems(copy)
    named = ['pairs do not belong together']  # the pictures say so,
    # or, among floating objects, the depth traced anew
    if copy.name == 'abstract': named.append('do not show the depth of their scenes')
    assert len(found) == 1 and any(n in found[0] for n in named), found


def test_near_duplicates_are_named(copy):
    rng, captures = np.random.default_rng(0), open_data(copy).captures
    for i, j in ((0, 7), (2, 3)):
        a, b = captures[i], captures[j]
        noisy = np.array(Image.open(a.rgb)) + rng.normal(0, 4, (96, 128, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(b.rgb)
        shutil.copy(a.depth, b.depth)
    found = problems(copy)
    assert len(found) == 2, found
    assert '1 captures are near-duplicates of others in different scenes' in found[0]
    assert '1 captures are near-duplicates of others in the same scene' in found[1]


def test_depth_that_is_called_distance_is_named(copy):
    info = json.loads((copy/'dataset.json').read_text())
    info['depth']['kind'] = 'distance'
    (copy/'dataset.json').write_text(json.dumps(info))
    found = problems(copy)
    assert len(found) == 1 and 'z-depths' in found[0], found


def test_exchanged_needs_a_clear_partner():
    table = np.full((4, 4), 0.) + np.diag([.4, .4, .4, .4])
    assert exchanged(table) == []
    assert [p[:2] for p in exchanged(table[:, [2, 1, 0, 3]])] == [(0, 2)]
    blank = table.copy()
    blank[:, 3] = blank[3] = .3
    blank[3, 3] = 0
    assert exchanged(blank) == []


def test_a_plane_fits_and_a_sphere_does_not():
    v, u = np.mgrid[:12, :12].reshape(2, 1, -1)/100
    plane, ball = 1/(.3 + u + .5*v), 2 - np.sqrt(.1 - (u - .05)**2 - (v - .05)**2)
    assert misfit(plane, lambda m: m, .001) < 1e-6 < .5 < misfit(ball, lambda m: m, .001)


def test_captures_without_edges_agree_with_nothing():
    flat = signs(np.full((96, 128), 90, np.float32), np.full((96, 128), 2, np.float32))
    assert np.isfinite(agreement([flat, flat])).all() and not agreement([flat, flat]).any()


@pytest.mark.parametrize('name, change', [
    ('inverted (near and far swapped)', lambda m: 10 - m), ('disparity (1/depth)', lambda m: 1/m),
    ('on an sRGB (gamma) curve', lambda m: 10*srgb(m/10))])
def test_a_reading_fits_if_one_of_its_values_does(name, change):
    "Near and far may have been exchanged about any of several depths, and one of them is right."
    truth = np.linspace(1, 5, 48*64).reshape(48, 64)
    assert misreading(change(truth), truth, DepthFormat(), None)[1] == name


def test_a_finding_tells_its_kind_and_its_file(copy):
    (copy/'rgb/rgb_00003.png').write_bytes(b'')
    permute(copy, [5, 1, 2, 3, 4, 0, *range(6, 12)])
    report = check_data(copy, progress=False)
    first = report.findings[0]
    assert (first.kind, first.file) == ('unreadable', 'rgb/rgb_00003.png')
    assert report.found('unreadable') and not report.found('clipped', 'coarse')
    assert [str(f) for f in report.findings if not f.note] == report.problems


def test_a_word_in_a_file_name_is_no_finding(copy):
    "Messages were once searched for 'clipped', which switched the comparison of pairs off."
    renamed = copy.with_name('clipped')
    copy.rename(renamed)
    permute(renamed, np.roll(range(12), 4))
    (renamed/'rgb/clipped.png').write_bytes((renamed/'rgb/rgb_00000.png').read_bytes())
    report = check_data(renamed, progress=False)
    if 'rooms' in (renamed/'metadata.jsonl').read_text(): assert report.found('mispaired')
    assert report.found('layout') and not report.found('clipped')
