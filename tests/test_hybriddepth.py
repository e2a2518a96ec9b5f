"A focal stack, a prior and what joins them, at the size of a thumb."
import pytest
import torch
from scipy.stats import spearmanr
from toy import write_synthdepth

from synthdepth.data import CacheError, Focus, Pairs, add_focal_stack, even_dioptres, loader
from synthdepth.data import open_data
from synthdepth.metrics import objective_for, weighted_loss
from synthdepth.models import FeatureCache, create_model, freeze, load_model, predict_batch
from synthdepth.models import run_batch, unfreeze
from synthdepth.models.hybriddepth import NEAREST, fit_prior, hybriddepth, seen_by_prior
from synthdepth.training import make_optimizer, make_recipe

SMALL = dict(size=(48, 64), widths=(8, 8, 8))


pytestmark = pytest.mark.usefixtures('one_thread')


def make(**more):
    "Random weights, the last convolution of the refinement included."
    torch.manual_seed(0)
    model = create_model('hybriddepth', 'none', prior_config=dict(size=(64, 96)), **SMALL | more)
    with torch.no_grad(): model.own.refinement.last[1].weight.normal_(std=.1)
    return model


def stack(b=2, n=5, h=48, w=64):
    g = torch.Generator().manual_seed(n)
    return dict(focal=torch.rand(b, n, 3, h, w, generator=g),
                focus=torch.tensor(even_dioptres(slices=n)).expand(b, -1))


def picture(b=2, h=48, w=64):
    return torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='module')
def batch(tmp_path_factory):
    data = open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=4, views=1))
    return add_focal_stack(next(iter(loader(data, None, batch_size=4))), data, Focus())


# --- the contract


@pytest.mark.parametrize('n', [2, 5, 10])
@pytest.mark.parametrize('size', [(48, 64), (53, 81), (96, 60)])
def test_any_size_and_any_number_of_slices(n, size):
    model, rgb, inputs = make(), picture(3, *size), stack(3, n, *size)
    with torch.no_grad():
        depth = model(rgb, **inputs)
        alone = model(rgb[1:2], **{k: v[1:2] for k, v in inputs.items()})[0]
    assert depth.shape == (3, *size) and depth.dtype == torch.float32
    assert depth.isfinite().all() and depth.min() > 0 and depth[1].std() > 0
    assert (alone - depth[1]).abs().max() < 1e-4*depth.max()
    assert model.predicts == 'metric' and model.needs == ('rgb', 'focal', 'focus', 'intrinsics')
    assert str(objective_for('metric', '', model.loss)) == 'silog + 0.5 gradient'


def test_features_between_the_stages():
    model, rgb, inputs = make(), picture(), stack()
    with torch.no_grad():
        whole, features = model(rgb, **inputs), model.encode(rgb, **inputs)
        neck = model.neck(features, (48, 64))
        assert all(len(f) == 2 for f in [*features, *neck])
        assert torch.equal(model(features, size=(48, 64)), whole)
        assert torch.equal(model(neck, size=(48, 64), stage='neck'), whole)


def test_the_prior_never_trains():
    model = make()
    groups = model.parameter_groups()
    assert list(groups) == ['fixed', *(f'encoder.{i}' for i in range(4)), 'neck', 'decoder']
    ids = [id(p) for params in groups.values() for p in params]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in groups['fixed']} == {id(p) for p in model.prior.parameters()}
    before = {k: v.clone() for k, v in model.prior.state_dict().items()}
    freeze(model, 'encoder')
    unfreeze(model, 'encoder')
    assert not any(p.requires_grad for p in groups['fixed'])
    model.train()
    assert not any(m.training for m in model.prior.modules()) and model.own.encoder.training
    recipe = make_recipe('corrected', lr=1e-2)
    optimizer = make_optimizer(model, recipe, torch.device('cpu'))
    model(picture(), **stack()).mean().backward()
    optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in model.prior.state_dict().items())


def test_half_precision_and_another_memory_layout():
    model = make().to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        depth = model(picture(), **stack())
    assert depth.dtype == torch.float32 and depth.isfinite().all() and depth.min() >= NEAREST


def test_every_parameter_of_its_own_learns(batch):
    model = make().train()
    labels = dict(depth=batch['depth'], valid=batch['valid'], seed=batch['index'])
    optimizer = torch.optim.SGD(model.own.parameters(), 1e-3)
    for _ in range(2):  # the refinement's last convolution starts at 0
        optimizer.zero_grad()
        found = run_batch(model, batch, labels)
        (weighted_loss(*found[:3], dict(silog=1, gradient=.5)) + found.extra.mean()).backward()
        optimizer.step()
    for name, p in model.own.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_it_learns_from_a_stack_and_with_the_right_sign(batch):
    model = make()
    labels = dict(depth=batch['depth'], valid=batch['valid'], seed=batch['index'])
    optimizer, losses = torch.optim.AdamW(model.own.parameters(), 3e-3), []
    for _ in range(40):
        found = run_batch(model.train(), batch, labels)
        assert found.pred.shape == found.target.shape == found.valid.shape
        assert found.extra.shape == (4,)
        losses.append(weighted_loss(*found[:3], dict(silog=1, gradient=.5)) + found.extra.mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < .6*losses[0]
    with torch.no_grad(): pred = predict_batch(model.eval(), batch)
    for p, d, v in zip(pred, batch['depth'], batch['valid']):
        assert spearmanr(p[v], d[v]).statistic > .5


def test_what_a_picture_adds_to_the_loss_does_not_depend_on_its_batch(batch):
    model, labels = make(), {k: batch[k] for k in ('depth', 'valid')}
    with torch.no_grad():
        whole = run_batch(model, batch, labels)
        part = {k: v[2:3] for k, v in batch.items()}
        alone = run_batch(model, part, {k: v[2:3] for k, v in labels.items()})
        hidden = run_batch(model, batch, labels | dict(valid=torch.zeros_like(batch['valid'])))
    assert torch.allclose(whole.extra[2:3], alone.extra, rtol=1e-4)
    assert torch.equal(hidden.extra, torch.zeros(4)) and not hidden.target.any()


# --- the prior


def test_least_squares_find_scale_and_shift_of_inverse_depth():
    depth = torch.rand(2, 1, 12, 16)*4 + 1
    unsure = torch.ones_like(depth)
    assert torch.allclose(fit_prior(5/depth - 3, depth, unsure), depth, rtol=1e-3)
    assert torch.allclose(fit_prior(.2*depth + 7, depth, unsure, True), depth, rtol=1e-3)
    over = fit_prior(-1/depth, depth, unsure)  # one that is turned over keeps its mean
    assert over.flatten(1).std(1).max() < 1e-4 and over.min() > 1
    flat = fit_prior(torch.full_like(depth, 2.), depth, unsure)
    assert flat.isfinite().all() and flat.flatten(1).std(1).max() < 1e-4


def test_pixels_whose_slices_disagree_count_less():
    truth = torch.rand(1, 1, 20, 20)*4 + 1
    found, deviation = truth.clone(), torch.full_like(truth, .05)
    found[..., :8], deviation[..., :8] = 8., 4.  # a bare wall
    weighed, plain = (fit_prior(2/truth, found, d) for d in (deviation, torch.ones_like(truth)))
    assert (weighed - truth).abs().mean() < .2*(plain - truth).abs().mean()


def test_the_gradient_reaches_the_depth_that_the_prior_is_fitted_to():
    depth = (torch.rand(1, 1, 6, 6)*4 + 1).requires_grad_()
    fit_prior(torch.rand(1, 1, 6, 6), depth, torch.ones(1, 1, 6, 6)).mean().backward()
    assert depth.grad.abs().sum() > 0


@pytest.mark.parametrize('predicts', ['metric', 'disparity', 'depth'])
def test_any_kind_of_prior(predicts):
    model = make()
    model.prior.predicts = predicts
    with torch.no_grad():
        seen, plain = seen_by_prior(model.prior, picture()), model.prior(picture())[:, None]
        assert torch.allclose(seen, 1/plain if predicts == 'metric' else plain)
        depth = model(picture(), **stack())
    assert depth.isfinite().all() and depth.min() > 0


def test_another_prior_by_name_and_by_folder(tmp_path):
    glpn = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=8,
                num_attention_heads=[1, 1, 2, 2])
    model = create_model('hybriddepth', 'none', prior='glpn-nyu', prior_config=glpn, **SMALL)
    assert model.prior.name == 'glpn-nyu' and model.config['prior'] == 'glpn-nyu'
    create_model('tiny', 'none', size=(64, 96)).save(tmp_path/'prior')
    other = create_model('hybriddepth', prior=tmp_path/'prior', **SMALL)
    assert other.config['prior'] == 'tiny' and other.prior.config['size'] == [64, 96]
    for one in (model, other):
        again = load_model(one.save(tmp_path/one.prior.name))
        with torch.no_grad():
            assert torch.equal(again(picture(), **stack()), one(picture(), **stack()))


# --- files


def test_a_saved_folder_opens_again(tmp_path):
    model = make()
    with torch.no_grad():
        for p in model.parameters(): p.mul_(1.05)
        for m in model.modules():
            if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.add_(.01)
    folder = model.save(tmp_path/'a')
    assert sorted(p.name for p in folder.iterdir()) == ['model.json', 'model.safetensors', 'prior']
    again = load_model(folder)
    with torch.no_grad():
        assert torch.equal(again(picture(), **stack()), model(picture(), **stack()))
    assert again.name == 'hybriddepth' and again.config == model.config
    assert not any(p.requires_grad for p in again.prior.parameters())


def test_incomplete_and_foreign_folders(tmp_path):
    folder = make().save(tmp_path/'a')
    with pytest.raises(ValueError, match='tensors do not fit FocusNetwork'):
        create_model('hybriddepth', folder, size=(48, 64), widths=(8, 8, 12))
    with pytest.raises(ValueError, match='prior_config is for random weights'):
        create_model('hybriddepth', folder, prior_config=dict(size=(64, 96)), **SMALL)
    cut = (folder/'model.safetensors').read_bytes()[:1000]
    (folder/'model.safetensors').write_bytes(cut)
    with pytest.raises(ValueError, match='not a readable safetensors'): load_model(folder)
    (folder/'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='no weights at'): load_model(folder)
    (folder/'prior'/'model.json').unlink()
    with pytest.raises(FileNotFoundError, match='prior: no model.json'): load_model(folder)


# --- what cannot be


@pytest.mark.parametrize('change, says', [
    (dict(focal=torch.rand(2, 1, 3, 48, 64)), 'expected .B,N,3,H,W. with two or more slices'),
    (dict(focal=torch.rand(2, 5, 3, 24, 32)), r'focal of shape \(2, 5, 3, 24, 32\)'),
    (dict(focal=torch.rand(3, 5, 3, 48, 64)), r'for rgb \(2, 3, 48, 64\)'),
    (dict(focal=torch.rand(2, 3, 48, 64)), r'focal of shape \(2, 3, 48, 64\)'),
    (dict(focus=torch.ones(2, 4)), r'focus of shape \(2, 4\), expected \(2, 5\)')])
def test_stacks_that_do_not_fit(change, says):
    with pytest.raises(ValueError, match=says): make()(picture(), **stack() | change)


def test_a_batch_without_a_stack_is_named(batch):
    plain = {k: v for k, v in batch.items() if k not in ('focal', 'focus')}
    with pytest.raises(ValueError, match='hybriddepth needs focal, focus beside the picture'):
        predict_batch(make(), plain)


def test_a_prior_that_needs_more_is_refused(monkeypatch, tmp_path):
    folder = make().save(tmp_path/'a')
    with pytest.raises(ValueError, match='its prior hybriddepth needs rgb, focal, focus'):
        hybriddepth(prior=folder)


def test_features_of_a_model_with_a_stack_are_not_kept(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'set', scenes=1, views=1))
    model = make()
    freeze(model, 'encoder')
    with pytest.raises(CacheError, match='look at the picture alone; hybriddepth needs focal'):
        FeatureCache(model, Pairs(data, (48, 64)), tmp_path)
