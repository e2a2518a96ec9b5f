"Augmentation: drawn from seed, epoch and index; depth, mask and camera change with the picture."
import pytest
import torch
from toy import write_synthdepth

from synthdepth.data import Augment, add_noise, augment_batch, crop_resize, draw, flips, loader
from synthdepth.data import open_data, recolour, soften
from synthdepth.models import turn

ALL = Augment(flip=True, brightness=.3, contrast=.3, saturation=.4, hue=.1, gamma=.3, crop=.5,
              resolution=.4, noise=.1)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=4, views=3))


def samples(data, **options):
    "Augmented captures by index, as a loader of this kind gives them."
    out = {}
    for batch in loader(data, (48, 64), **options):
        batch = augment_batch(batch, ALL, seed=3, epoch=2)
        for k, i in enumerate(batch['index'].tolist()): out[i] = {n: x[k] for n, x in batch.items()}
    return out


def test_the_same_bytes_whatever_the_loader(data):
    want = samples(data, batch_size=1)
    for options in (dict(batch_size=5, shuffle=True, seed=1), dict(batch_size=4, workers=2),
                    dict(batch_size=12, cache=True)):
        torch.manual_seed(options['batch_size'])
        found = samples(data, **options)
        assert all(torch.equal(found[i][n], want[i][n]) for i in range(12) for n in want[i])


def test_off_by_default(data):
    batch = next(iter(loader(data, 32)))
    assert augment_batch(batch, Augment(), 0, 0) is batch and not Augment() and Augment().only_flips


@pytest.mark.parametrize('wrong', [dict(brightness=1.), dict(hue=.6), dict(crop=0.),
                                   dict(crop=1.2), dict(gamma=-.1), dict(flip=2),
                                   dict(resolution=0.), dict(resolution=1.1), dict(noise=.6)])
def test_limits(wrong):
    with pytest.raises(ValueError, match=f'augmentation: {next(iter(wrong))} is'): Augment(**wrong)


def test_draws_are_uniform_and_apart():
    u = draw(torch.arange(2000), 5, 7)
    for x in u.values(): assert x.min() >= 0 and x.max() < 1 and abs(x.mean() - .5) < .03
    assert abs(torch.corrcoef(torch.stack(list(u.values())))[~torch.eye(len(u)).bool()]).max() < .1
    later = draw(torch.arange(2000), 5, 8)
    assert abs(torch.corrcoef(torch.stack([u['crop'], later['crop']]))[0, 1]) < .1


def test_one_change_leaves_the_others_as_they_were(data):
    batch = next(iter(loader(data, (48, 64), batch_size=12)))
    some = augment_batch(batch, Augment(flip=True, crop=.5), 3, 2)
    more = augment_batch(batch, ALL, 3, 2)
    assert all(torch.equal(some[n], more[n]) for n in ('depth', 'valid', 'intrinsics'))
    assert not torch.equal(some['rgb'], more['rgb'])
    assert 0 <= more['rgb'].min() and more['rgb'].max() <= 1


def test_flips_alone(data):
    batch = next(iter(loader(data, (48, 64), batch_size=12)))
    turned = flips(batch['index'], 1, 1)
    want, found = turn(batch, turned), augment_batch(batch, Augment(flip=True), 1, 1)
    assert 2 < turned.sum() < 10 and all(torch.equal(want[n], found[n]) for n in want)


def world(depth, camera):
    "(h,w,3) metres right, down and forward of every pixel's centre."
    h, w = depth.shape
    fx, fy, cx, cy = camera
    y, x = torch.meshgrid(torch.arange(h) + .5, torch.arange(w) + .5, indexing='ij')
    return torch.stack([(x - cx)/fx*depth, (y - cy)/fy*depth, depth], -1)


@pytest.mark.parametrize('mirrored', [False, True])
def test_a_crop_shows_the_same_points_in_space(mirrored):
    "A plane that leans: wherever it is seen from the crop, its equation holds."
    camera, size = torch.tensor([70., 66., 30., 25.]), (48, 64)
    rows, columns = (torch.arange(48) + .5 - 25)/66, (torch.arange(64) + .5 - 30)/70
    y, x = torch.meshgrid(rows, columns, indexing='ij')
    depth = 3/(1 + .5*x + .3*y)  # z + .5 X + .3 Y = 3
    batch = dict(rgb=torch.rand(1, 3, *size), depth=depth[None], intrinsics=camera[None],
                 valid=torch.ones(1, *size, dtype=bool), index=torch.tensor([0]))
    seed = next(s for s in range(50) if bool(flips(batch['index'], s, 0)) == mirrored
                and draw(batch['index'], s, 0)['crop'] > .5)
    found = augment_batch(batch, Augment(flip=True, crop=.4), seed, 0)
    X, Y, Z = world(found['depth'][0], found['intrinsics'][0]).unbind(-1)
    assert found['intrinsics'][0, 0] > 85
    off = (Z + (-.5 if mirrored else .5)*X + .3*Y - 3).abs()
    assert off.max() < .05  # half a pixel of the whole picture, as nearest resizing allows
    wrong = world(found['depth'][0], camera)
    x, y, z = wrong.unbind(-1)
    assert (z + (-.5 if mirrored else .5)*x + .3*y - 3).abs().max() > .2
    assert torch.isin(found['depth'], depth).all()


def test_invalid_stays_invalid():
    depth = torch.rand(20, 20)
    valid = depth > .5
    rgb, d, v, _ = crop_resize(torch.rand(3, 20, 20), depth, valid, torch.ones(4), 3, 4, 7, 9)
    assert torch.equal(v, d > .5) and 0 < v.float().mean() < 1


def test_unknown_camera_stays_unknown():
    rgb, depth, unknown = torch.rand(3, 8, 8), torch.rand(8, 8), torch.full((4,), torch.nan)
    camera = crop_resize(rgb, depth, torch.rand(8, 8) > 0, unknown, 0, 0, 4, 4)[3]
    assert camera.isnan().all()


def test_recolour_does_what_it_says():
    rgb = torch.rand(3, 16, 16)*.5 + .2
    u = dict.fromkeys(('brightness', 'contrast', 'saturation', 'hue', 'gamma'), .99)
    assert torch.allclose(recolour(rgb, Augment(brightness=.2), u), rgb*1.196, atol=1e-5)
    assert recolour(rgb, Augment(contrast=.5), u).std() > 1.3*rgb.std()
    assert recolour(rgb, Augment(gamma=.5), u).mean() < rgb.mean()
    gray = rgb.mean(0, keepdim=True).expand(3, -1, -1)
    assert torch.allclose(recolour(gray, Augment(saturation=.9, hue=.5), u), gray, atol=1e-3)
    assert not torch.allclose(recolour(rgb, Augment(hue=.5), u), rgb, atol=.05)


def test_less_resolution_and_more_noise_change_the_picture_alone(data):
    batch = next(iter(loader(data, (48, 64), batch_size=12)))
    found = augment_batch(batch, Augment(resolution=.3, noise=.1), 3, 2)
    assert all(torch.equal(found[n], batch[n]) for n in ('depth', 'valid', 'intrinsics', 'index'))
    off = (found['rgb'] - batch['rgb']).flatten(1).std(1)
    assert off.max() < .2 and off.max() > 2*off.min()  # each picture as its own draw says


def test_soften_takes_detail_and_leaves_the_rest():
    rows = torch.linspace(.2, .8, 40)[:, None].expand(3, 40, 60)
    assert torch.allclose(soften(rows, .5)[:, 4:-4], rows[:, 4:-4], atol=1e-3)
    checks = ((torch.arange(40)[:, None] + torch.arange(60)) % 2).float().expand(2, 3, 40, 60)
    assert soften(checks, .5).std() < .1*checks.std()
    assert soften(checks, .05).shape == checks.shape  # so small that two rows are left


def test_noise_is_its_own_for_each_grain_and_as_strong_as_asked():
    gray = torch.full((2, 3, 100, 100), .5)
    one, other = add_noise(gray, .05, .1), add_noise(gray, .05, .2)
    assert torch.equal(one, add_noise(gray, .05, .1)) and not torch.equal(one, other)
    assert torch.isclose((one - .5).std(), torch.tensor(.05), rtol=.03)
    assert not torch.equal(one[0], one[1])  # slices of a stack are pictures of their own
    between = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
    assert abs(between) < .02 and (add_noise(gray*0, .3, .1) >= 0).all()
