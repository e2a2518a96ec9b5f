"Corruptions: the same bytes every time, the published amounts, any size of picture."
import io

import numpy as np
import pytest
import torch
from PIL import Image
from toy import toy_capture
from torch.nn import functional as F

from synthdepth.evaluation import CORRUPTIONS, BatchRandom, corrupt, disc_kernel, filter_pictures
from synthdepth.evaluation import gaussian_kernel, motion_kernels

NAMES = list(CORRUPTIONS)


@pytest.fixture(scope='module')
def batch():
    "rgb (3,3,96,128) in [0,1] and depth (3,96,128)."
    toys = [toy_capture(scene, 0, (96, 128)) for scene in range(3)]
    rgb = torch.stack([torch.from_numpy(rgb).permute(2, 0, 1)/255 for rgb, *_ in toys])
    return rgb, torch.stack([torch.from_numpy(depth) for _, depth, _ in toys])


def test_there_are_the_18_of_robodepth():
    assert NAMES == ['brightness', 'dark', 'fog', 'frost', 'snow', 'contrast', 'defocus', 'glass',
                     'motion', 'zoom', 'elastic', 'quant', 'gaussian', 'impulse', 'shot', 'iso',
                     'pixelate', 'jpeg']
    assert all(len(c.parameters) == 5 for c in CORRUPTIONS.values())


PUBLISHED = dict(  # levels 1 to 5 of RoboDepth's configuration table, docs/CREATE.md
    brightness=(.1, .2, .3, .4, .5), contrast=(.4, .3, .2, .1, .05),
    gaussian=(.08, .12, .18, .26, .38), impulse=(.03, .06, .09, .17, .27), shot=(60, 25, 12, 5, 3),
    iso=(.08, .12, .18, .26, .38), quant=(5, 4, 3, 2, 1), pixelate=(.6, .5, .4, .3, .25),
    jpeg=(25, 18, 15, 10, 7), defocus=(3, 4, 6, 8, 10),
    motion=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    glass=((.7, 1, 2), (.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    zoom=((1.11, .01), (1.16, .01), (1.21, .02), (1.26, .02), (1.31, .03)),
    elastic=(12.5, 16.25, 21.25, 25, 30), frost=((1, .4), (.8, .6), (.7, .7), (.65, .7), (.6, .75)),
    snow=((.1, .3, 3, .5, 10, 4, .8), (.2, .3, 2, .5, 12, 4, .7), (.55, .3, 4, .9, 12, 8, .7),
          (.55, .3, 4.5, .85, 12, 8, .65), (.55, .3, 2.5, .85, 12, 12, .55)))


def test_parameters_are_the_published_ones():
    for name, levels in PUBLISHED.items(): assert CORRUPTIONS[name].parameters == levels, name
    assert [c[1:] for c in CORRUPTIONS['fog'].parameters] == [(1.5, 2.), (2., 2.), (2.5, 1.7),
                                                              (2.5, 1.5), (3., 1.4)]
    assert [c[0] for c in CORRUPTIONS['dark'].parameters] == [.6, .5, .4, .3, .2]
    assert set(PUBLISHED) | {'fog', 'dark'} == set(NAMES)


def test_elastic_moves_as_far_as_published():
    "By a ramp: uniform noise of 0.5 % of the height, smoothed by 1 % of the sides, times alpha."
    ramp = torch.linspace(.2, .8, 640).expand(1, 3, 480, 640)
    for severity, alpha in ((1, 12.5), (5, 30)):
        warped = CORRUPTIONS['elastic'].apply(ramp, CORRUPTIONS['elastic'].parameters[severity-1],
                                              BatchRandom([0], 'cpu'), None, 1.)
        moved = (warped - ramp)[0, 0, 60:-60, 60:-60]/(.6/639)
        smoothing = 1/(2*np.sqrt(np.pi*4.8*6.4))
        assert moved.square().mean().sqrt().item() == pytest.approx(alpha*2.4/np.sqrt(3)*smoothing,
                                                                    rel=.2)


@pytest.mark.parametrize('name', NAMES)
def test_the_same_bytes_whatever_the_batch_its_order_and_the_global_state(name, batch):
    rgb, depth = batch
    torch.manual_seed(0)
    all3 = corrupt(rgb, name, 3, ['a', 'b', 'c'], depth)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    np.random.seed(1)
    turned = corrupt(rgb.flip(0), name, 3, ['c', 'b', 'a'], depth.flip(0)).flip(0)
    alone = torch.cat([corrupt(rgb[i:i + 1], name, 3, ['abc'[i]], depth[i:i + 1])
                       for i in range(3)])
    assert torch.equal(all3, turned) and torch.equal(all3, alone)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all3.shape == rgb.shape and all3.min() >= 0 and all3.max() <= 1
    assert torch.isfinite(all3).all()
    assert torch.equal(all3, (all3*255).round()/255)


SURE = ('brightness', 'contrast', 'defocus', 'zoom', 'quant', 'pixelate', 'jpeg')


@pytest.mark.parametrize('name', [n for n in NAMES if n not in SURE])
def test_chance_depends_on_the_key_where_there_is_any(name, batch):
    same = batch[0][:1].expand(2, -1, -1, -1)
    a, b = corrupt(same, name, 3, ['one', 'two'])
    assert not torch.equal(a, b)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('size', [(24, 32), (7, 50), (65, 33)])
def test_any_size(name, size):
    rgb = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    for severity in (1, 5):
        out = corrupt(rgb, name, severity, ['x'])
        assert out.shape == rgb.shape and torch.isfinite(out).all()


def test_severity_0_and_the_input_stay(batch):
    rgb = batch[0].clone()
    assert torch.equal(corrupt(rgb, 'fog', 0, 'abc'), (rgb*255).round()/255)
    for name in NAMES: corrupt(rgb, name, 5, 'abc')
    assert torch.equal(rgb, batch[0])


def test_a_picture_of_8_bits_gives_the_same_as_floats(batch):
    eight = (batch[0]*255).round().to(torch.uint8)
    assert torch.equal(corrupt(eight/255, 'iso', 2, 'abc'), corrupt(batch[0], 'iso', 2, 'abc'))


def test_noise_has_the_published_amount():
    gray = torch.full((1, 3, 200, 200), 128/255)
    assert corrupt(gray, 'gaussian', 1, ['x']).std() == pytest.approx(.08, rel=.02)
    spoiled = corrupt(gray, 'impulse', 4, ['x'])
    assert (spoiled != gray).float().mean() == pytest.approx(.17, rel=.05)
    assert (spoiled == 1).sum()/(spoiled == 0).sum() == pytest.approx(1, rel=.05)
    for severity, photons in ((1, 60), (3, 12)):
        x = corrupt(gray/2, 'shot', severity, ['x'])
        assert x.std() == pytest.approx((64/255/photons)**.5, rel=.03)
        assert x.mean() == pytest.approx(64/255, rel=.03)


def test_light_is_the_published_formula(batch):
    rgb = batch[0][:1]*.5
    bright = corrupt(rgb, 'brightness', 2, ['x'])
    assert torch.allclose(bright.amax(1), rgb.amax(1) + .2, atol=1/255)
    flat = corrupt(rgb, 'contrast', 5, ['x'])
    assert torch.allclose(flat.mean((2, 3)), rgb.mean((2, 3)), atol=1/255)
    assert torch.allclose(flat.std((2, 3)), .05*rgb.std((2, 3)), atol=1/255)
    assert corrupt(rgb*0, 'brightness', 5, ['x']).unique().tolist() == pytest.approx([128/255])


def test_quant_keeps_so_many_levels():
    ramp = (torch.arange(256)/255).expand(1, 3, 8, 256)
    levels = [len(corrupt(ramp, 'quant', s, ['x']).unique()) for s in range(1, 6)]
    assert levels == [32, 16, 8, 4, 2]


def test_jpeg_is_that_of_pillow(batch):
    eight = (batch[0][0]*255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(eight.permute(1, 2, 0).numpy()).save(file, 'jpeg', quality=15)
    theirs = np.array(Image.open(file)).astype(int)
    ours = corrupt(eight[None]/255, 'jpeg', 3, ['x'])[0].permute(1, 2, 0)
    ours = (ours.numpy()*255).round().astype(int)
    assert np.abs(ours - theirs).mean() < .5


def test_fog_follows_koschmieder():
    "Pixels of one depth fade alike; farther pixels fade more; unknown ones as the farthest."
    black, depth = torch.zeros(1, 3, 64, 64), torch.full((1, 64, 64), 2.)
    depth[:, :, 32:] = 6.
    depth[:, 60:, 60:] = 0
    near, far = (corrupt(black, 'fog', 3, ['x'], depth)[0, 0, :, s]
                 for s in (slice(0, 32), slice(32, 60)))
    assert near.mean() < far.mean()
    # median depth everywhere
    uniform = 1 - corrupt(black, 'fog', 3, ['x'], torch.full_like(depth, 4.))[0, 0]/.85
    assert uniform.log().mean().item() == pytest.approx(-np.log(50)/5*(.5 + .5), rel=.25)
    known = corrupt(black, 'fog', 3, ['x'], torch.where(depth > 0, depth, 6.))
    assert (corrupt(black, 'fog', 3, ['x'], depth) - known).abs().max() < .02


def test_blur_is_the_sum_over_the_kernel(batch):
    kernel = gaussian_kernel(1.3)
    ours = filter_pictures(batch[0], kernel)
    r = kernel.shape[-1]//2
    theirs = F.conv2d(F.pad(batch[0], [r]*4, mode='reflect').flatten(0, 1)[:, None],
                      kernel[None]).view_as(ours)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize('kernel',
                         [gaussian_kernel(.3), gaussian_kernel(2.), disc_kernel(1.2),
                          disc_kernel(6.), motion_kernels(10, 3, torch.tensor([.4]))])
def test_kernels_neither_darken_nor_displace(kernel):
    n = torch.arange(kernel.shape[-1]) - kernel.shape[-1]//2
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    assert (kernel[0].sum(0)*n).sum().item() == pytest.approx(0, abs=2e-2)
    assert (kernel[0].sum(1)*n).sum().item() == pytest.approx(0, abs=2e-2)


@pytest.mark.parametrize('name', ['defocus', 'motion', 'zoom'])
def test_lengths_scale_with_the_picture(name):
    "Blurring and shrinking commute."
    rgb, _, _ = toy_capture(1, 0, (480, 640))
    rgb = torch.from_numpy(rgb).permute(2, 0, 1)[None]/255

    def small(x): return F.interpolate(x, (240, 320), mode='area')
    def error(a, b): return (a - b).square().mean().sqrt()
    keys = ['x']
    first, last = small(corrupt(rgb, name, 4, keys)), corrupt(small(rgb), name, 4, keys)
    assert error(first, last) < .25*error(last, small(rgb))


def test_faults_are_named(batch):
    rgb = batch[0]
    for arguments, message in [((rgb, 'rain', 1, 'abc'), 'unknown corruption .rain'),
                               ((rgb, 'fog', 6, 'abc'), 'severity is 6'),
                               ((rgb, 'fog', 1, 'ab'), 'found .* 2 keys'),
                               ((rgb[:, 0], 'fog', 1, 'abc'), 'expected rgb'),
                               ((batch[0], 'fog', 1, 'abc', batch[1][:, 1:]), 'depth of')]:
        with pytest.raises(ValueError, match=message): corrupt(*arguments)
