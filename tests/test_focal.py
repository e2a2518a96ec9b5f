"Focal stacks: made as the renderer's lens makes them, read as they are listed, changed alike."
import json

import numpy as np
import pytest
import torch
from PIL import Image
from toy import write_synthdepth

from synthdepth.data import Augment, DataError, Focus, Pairs, add_focal_stack, augment_batch
from synthdepth.data import even_dioptres, loader, made_stacks, open_data, pack_dataset
from synthdepth.data import stored_distances, usual_focus
from synthdepth.data.focal import defocus
from synthdepth.evaluation import PERTURBATIONS, FocusDistances, MeanDepthMap, find_focus_leak
from synthdepth.evaluation import perturb, perturb_data, trivial_predictors
from synthdepth.evaluation.scores import score_batches
from synthdepth.metrics import get_protocol
from synthdepth.models import turn
from synthdepth.scenes import render_dataset
from synthdepth.training.batches import apply_changes, draw_changes
from synthdepth.training.recipes import make_recipe


pytestmark = pytest.mark.usefixtures('one_thread')


def edit_lines(root, change):
    "`change(n, line)` in each line of metadata.jsonl."
    path = root/'metadata.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for n, line in enumerate(lines): change(n, line)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def with_stacks(root, distances=(1., 2., 4.)):
    "Write stacks whose slices are the picture itself, darker from slice to slice."
    (root/'focal').mkdir()

    def add(n, line):
        rgb = np.array(Image.open(root/line['rgb_file_name']))
        line['focal_file_names'] = [f'focal/focal_{n:05d}_{k}.png' for k in range(len(distances))]
        line['focal'] = dict(distances=list(distances), aperture=.05)
        for k, name in enumerate(line['focal_file_names']):
            Image.fromarray(rgb//(k + 1)).save(root/name)

    edit_lines(root, add)
    return root


@pytest.fixture
def plain(tmp_path): return write_synthdepth(tmp_path/'plain', scenes=2, views=2)


@pytest.fixture
def stored(tmp_path): return with_stacks(write_synthdepth(tmp_path/'stored', scenes=2, views=2))


def first_batch(data, size=(48, 64), **options):
    return next(iter(loader(data, size, batch_size=4, **options)))


# --- made


def test_a_made_stack_is_what_the_renderers_thin_lens_sees(tmp_path):
    root = render_dataset(tmp_path/'rooms', 'rooms', scenes=1, views=2, size=(96, 128), spp=16,
                          workers=1, progress=False, extras=('focal',),
                          focal=dict(distances=Focus().distances, aperture=.1))
    data = open_data(root)
    batch = first_batch(data, None)
    traced = add_focal_stack(batch, data, Focus(stored=True))['focal']

    def psnr(pictures): return -10*(pictures - traced).square().mean((0, 2, 3, 4)).log10()
    made, sharp = psnr(made_stacks(batch, Focus(aperture=.1))), psnr(batch['rgb'][:, None])
    assert made.mean() > 34 and made.mean() > sharp.mean() + 3 and (made > sharp).all()
    for other in (.05, .2):
        assert psnr(made_stacks(batch, Focus(aperture=other))).mean() < made.mean() - 1


def test_a_point_becomes_a_disc_of_the_right_radius():
    point = torch.zeros(3, 61, 61)
    point[:, 30, 30] = 1
    for metres, radius in ((1., 8.), (2., 0.), (4., 4.), (0., 8.)):  # 0: infinitely far
        depth = torch.full((61, 61), metres)
        seen = defocus(point, depth, torch.tensor([2.]), torch.tensor(160.), .1)[0, 0]
        lit = (seen > .01).nonzero().sub(30).float().norm(dim=1)
        assert abs(lit.max() - radius) < .9
        assert abs(len(lit) - np.pi*radius**2) <= 1 + 8*radius


def test_what_is_in_focus_is_sharp_and_hides_what_lies_behind():
    rgb, depth = torch.rand(3, 40, 60), torch.full((40, 60), 8.)
    depth[:, 20:40] = 1.
    near, far = defocus(rgb, depth, torch.tensor([1., 8.]), torch.tensor(60.), .05)
    assert (near[:, :, 20:40] - rgb[:, :, 20:40]).abs().max() < 1e-3
    assert (far[:, :, 46:] - rgb[:, :, 46:]).abs().max() < 1e-3  # 3 pixels of blur, no farther
    assert (near[:, :, :18] - rgb[:, :, :18]).abs().mean() > .05
    assert (far[:, :, 20:40] - rgb[:, :, 20:40]).abs().mean() > .05


def test_a_stack_does_not_depend_on_its_batch(plain):
    batch = first_batch(open_data(plain))
    whole = made_stacks(batch, Focus())
    alone = made_stacks({k: v[2:3] for k, v in batch.items()}, Focus())
    assert torch.equal(whole[2], alone[0]) and 0 <= whole.min() and whole.max() <= 1
    assert whole.shape == (4, 5, 3, 48, 64)


def test_an_unknown_camera_and_an_empty_view_have_stacks_too():
    batch = dict(rgb=torch.rand(2, 3, 24, 32), depth=torch.zeros(2, 24, 32),
                 intrinsics=torch.full((2, 4), torch.nan))
    batch['depth'][1] = 2.
    focal = made_stacks(batch, Focus((1., 2.)))
    assert focal.isfinite().all() and torch.allclose(focal[1, 1], batch['rgb'][1], atol=1e-3)


def test_slices_and_distances():
    ten = Focus(even_dioptres(slices=10))
    assert len(ten.distances) == 10 and ten.distances[0] == .8
    for wrong in ((1.,), (2., 1.), (1., 1.), (0., 1.), (1., float('inf'))):
        with pytest.raises(ValueError, match='two or more distances in rising order'): Focus(wrong)


# --- read


def test_a_stored_stack_is_cropped_and_resized_as_its_picture(stored):
    data = open_data(stored)
    batch = first_batch(data, (32, 32), centre=.8)
    seen = add_focal_stack(batch, data, Focus(stored=True), centre=.8)
    assert seen['focal'].shape == (4, 3, 3, 32, 32) and seen['focus'].tolist() == [[1, 2, 4]]*4
    assert torch.equal(seen['focal'][:, 0], batch['rgb'])
    assert (seen['focal'][:, 1] - batch['rgb']/2).abs().max() < 2/255
    assert seen['rgb'] is batch['rgb'] and 'focal' not in batch


def test_a_kept_dataset_gets_the_same_stacks(stored, tmp_path):
    data = open_data(stored)
    batch = Pairs(data, (48, 64), cache=True).__getitems__([3, 1])
    seen = add_focal_stack(batch, data, Focus(stored=True))
    assert torch.equal(seen['focal'][:, 0], batch['rgb'])


def test_slices_are_given_from_near_to_far(stored):
    def turned(n, line):
        line['focal']['distances'] = line['focal']['distances'][::-1]
    edit_lines(stored, turned)
    data = open_data(stored)
    batch = first_batch(data)
    seen = add_focal_stack(batch, data, Focus(stored=True))
    assert seen['focus'][0].tolist() == [1, 2, 4]
    assert torch.equal(seen['focal'][:, 2], batch['rgb'])


def break_line(at, **change):
    def edit(n, line):
        if n == at: line |= change
    return edit


@pytest.mark.parametrize('change, says', [
    (break_line(1, focal_file_names=None), 'rgb_00001.png: found no focal stack; expected focal_f'),
    (break_line(0, focal={}), 'rgb_00000.png: found no focal stack'),
    (break_line(2, focal=dict(distances=[1, 2], aperture=1)),
     'rgb_00002.png: found 3 slices and 2 distances'),
    (break_line(3, focal=dict(distances=[1, 2], aperture=1), focal_file_names=['a.png', 'b.png']),
     'rgb_00003.png: found a focal stack of 2 slices, expected 3, as .*rgb_00000.png has'),
    (break_line(0, focal_file_names=['../a.png', 'b', 'c']), r'slice ../a.png points outside')])
def test_stacks_that_cannot_be_used(stored, change, says):
    edit_lines(stored, change)
    data = open_data(stored)  # opening does not look at stacks
    with pytest.raises(DataError, match=says): stored_distances(data)
    with pytest.raises(DataError, match=says):
        add_focal_stack(first_batch(data), data, Focus(stored=True))
    assert usual_focus(data) == Focus()


def test_a_dataset_without_stacks_names_its_first_capture(plain):
    data = open_data(plain)
    with pytest.raises(DataError, match=r'rgb_00000.png: found no focal stack.*--extras focal'):
        add_focal_stack(first_batch(data), data, Focus(stored=True))


def test_slices_of_other_sizes_and_missing_ones(stored):
    data = open_data(stored)
    Image.new('RGB', (10, 10)).save(stored/'focal'/'focal_00000_1.png')
    with pytest.raises(DataError, match='slices of 2 sizes, 10x10 and 48x64; expected one'):
        add_focal_stack(first_batch(data), data, Focus(stored=True))
    (stored/'focal'/'focal_00000_1.png').unlink()
    with pytest.raises(DataError, match='focal_00000_1.png: no such file'):
        add_focal_stack(first_batch(data), data, Focus(stored=True))


def test_stacks_in_shards_are_made_and_not_read(stored, tmp_path):
    pack_dataset(stored, tmp_path/'packed')
    data = open_data(tmp_path/'packed')
    with pytest.raises(DataError, match='lies in a shard.*unpack'):
        add_focal_stack(first_batch(data), data, Focus(stored=True))
    focus = usual_focus(data)
    assert not focus.stored and 'focal' in add_focal_stack(first_batch(data), data, focus)


def test_distances_that_differ_are_not_used_unless_asked_for(stored):
    assert usual_focus(open_data(stored)) == Focus((1., 2., 4.), stored=True)
    edit_lines(stored, break_line(2, focal=dict(distances=[1., 2., 5.], aperture=.05)))
    data = open_data(stored)
    assert usual_focus(data) == Focus()
    seen = add_focal_stack(first_batch(data), data, Focus(stored=True))
    assert seen['focus'][:, 2].tolist() == [4, 4, 5, 4]


# --- changed alike


@pytest.fixture
def copies(plain):
    "A batch whose slices are the sharp picture itself."
    batch = first_batch(open_data(plain))
    return batch | dict(focal=batch['rgb'][:, None].repeat(1, 3, 1, 1, 1),
                        focus=torch.tensor([[1., 2., 4.]]).expand(4, -1))


def assert_alike(before, after):
    assert after['focal'].shape == before['focal'].shape
    assert torch.equal(after['focus'], before['focus'])
    for k in range(3): assert (after['focal'][:, k] - after['rgb']).abs().max() < 1e-5


def test_flip_crop_and_colour_change_all_slices_alike(copies):
    usual = Augment(True, .2, .2, .3, .05, .2, .6)
    after = augment_batch(copies, usual, 0, 1)
    assert_alike(copies, after)
    alone = {k: v for k, v in copies.items() if k not in ('focal', 'focus')}
    for name, x in augment_batch(alone, usual, 0, 1).items(): assert torch.equal(x, after[name])
    assert (after['rgb'] - copies['rgb']).abs().mean() > .02


def test_the_changes_of_a_step_and_a_turn_do_so_too(copies):
    changes = draw_changes(4, make_recipe('corrected', jitter=.5), torch.Generator().manual_seed(0))
    after = apply_changes(copies, changes)
    assert_alike(copies, after)
    alone = apply_changes({k: v for k, v in copies.items() if k != 'focal'}, changes)
    assert torch.equal(alone['rgb'], after['rgb']) and 'focal' not in alone
    assert torch.equal(alone['depth'], after['depth'])
    turned = turn(copies, torch.tensor([True, False, True, False]))
    assert_alike(copies, turned)
    assert torch.equal(turned['focal'][0], copies['focal'][0].flip(-1))
    assert torch.equal(turned['focal'][1], copies['focal'][1])


@pytest.mark.parametrize('name', PERTURBATIONS)
def test_corruptions_and_cameras_do_so_too(copies, name):
    keys = ['a', 'b', 'c', 'd']
    after = perturb(copies, name, 3, keys)
    assert_alike(copies, after)
    alone = perturb({k: v for k, v in copies.items() if k != 'focal'}, name, 3, keys)
    for k in ('rgb', 'depth', 'valid', 'intrinsics'): assert torch.equal(alone[k], after[k])


def test_data_that_change_their_pictures_as_they_are_read_are_refused(plain):
    data = perturb_data(open_data(plain), 'fog', 2)
    with pytest.raises(DataError, match='pictures are changed as they are read'):
        add_focal_stack(first_batch(data), data)


# --- what the distances tell


def test_a_map_is_stretched_between_the_distances_of_each_stack():
    model = FocusDistances(torch.tensor([[2., 3.], [4., 6.]]))
    found = model(torch.rand(2, 3, 2, 2), torch.tensor([[1., 2., 5.], [8., 2., 4.]]))
    assert found.tolist() == [[[1, 2], [3, 5]], [[2, 3.5], [5, 8]]]
    flat = FocusDistances(torch.full((3, 4), 2.))(torch.rand(1, 3, 6, 8), torch.tensor([[1., 4.]]))
    assert flat.shape == (1, 6, 8) and flat.isfinite().all()


def test_it_stands_beside_a_model_that_is_given_a_stack(stored):
    data = open_data(stored)
    models = trivial_predictors(data, stack=True)
    assert list(models)[-1] == 'focus distances' and len(trivial_predictors(data)) == 3
    batch = add_focal_stack(first_batch(data), data, Focus(stored=True))
    rows = score_batches(models, data, [batch], get_protocol('metric'))['focus distances']
    assert len(rows) == 4 and rows.d1.between(0, 1).all()
    plain = {k: v for k, v in batch.items() if k != 'focus'}
    with pytest.raises(ValueError, match='focus distances needs focus beside the picture'):
        score_batches(models, data, [plain], get_protocol('metric'))


def refocus(root, distances):
    "Let each capture's line say other distances."
    def edit(n, line): line['focal'] = dict(distances=list(map(float, distances[n])), aperture=.05)
    edit_lines(root, edit)
    return open_data(root)


def test_distances_that_follow_the_true_depth_are_named(tmp_path):
    root = with_stacks(write_synthdepth(tmp_path/'set', scenes=6, views=2))
    data, stored = open_data(root), Focus(stored=True)
    assert find_focus_leak(data, stored) == []
    ends = [np.quantile(s.depth[s.valid], (.02, .98)) for s in data]
    following = refocus(root, [1/np.linspace(1/near, 1/far, 3) for near, far in ends])
    assert usual_focus(following) == Focus()
    assert find_focus_leak(following, Focus()) == []
    fault, = find_focus_leak(following, stored)
    assert 'set: the distances of its focal stacks follow the true depth' in fault
    assert 'over 12 pictures' in fault and 'fixed for the whole dataset' in fault
    scale = np.random.default_rng(1).uniform(.8, 1.2, (12, 1))
    unrelated = refocus(root, scale*[1, 2, 4])
    assert find_focus_leak(unrelated, stored) == []


def test_the_renderers_own_distances_are_named(tmp_path):
    root = render_dataset(tmp_path/'set', 'rooms', scenes=5, views=1, size=(24, 32), spp=1,
                          workers=1, progress=False, extras=('focal',), denoise=False)
    fault, = find_focus_leak(open_data(root), Focus(stored=True))
    assert '1.00 at the nearest, 1.00 at the farthest' in fault


def test_what_the_distances_of_nyu_tell(real):
    "The numbers that stand in the notebook of the trivial predictors."
    depths = []
    for path in sorted((real/'nyuv2'/'depth').glob('*.png')):
        raw = torch.from_numpy(np.array(Image.open(path))[::4, ::4].astype(np.float32))
        depths.append(torch.where(raw > 0, (raw + .5)*9.99547/255, 0.))
    depth = torch.stack(depths)
    valid = (depth > 0) & (depth < 10)
    mean = (depth*valid).sum(0)/valid.sum(0).clamp(min=1)
    rgb = depth[:, None].expand(-1, 3, -1, -1)
    ends = [torch.quantile(d[v], torch.tensor([.02, .98])) for d, v in zip(depth, valid)]

    def d1(pred):
        close = (torch.maximum(pred/depth, depth/pred) < 1.25) & valid
        return (close.sum((1, 2))/valid.sum((1, 2))).mean().item()
    assert d1(MeanDepthMap(mean)(rgb)) == pytest.approx(.43, abs=.01)
    assert d1(FocusDistances(mean)(rgb, torch.stack(ends))) == pytest.approx(.54, abs=.01)
