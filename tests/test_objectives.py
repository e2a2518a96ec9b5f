"What a model predicts decides what it is trained towards and how it is scored."
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from toy import write_synthdepth

from synthdepth.data import open_data
from synthdepth.evaluation import predict
from synthdepth.metrics import OBJECTIVES, evaluate_batch, objective_for, objective_loss, parse_loss
from synthdepth.metrics import gradient_loss, ssi_loss, standardise
from synthdepth.models import Comparison, DepthModel, create_model, freeze, load_weights
from synthdepth.models import picture_noise, register, unfreeze, weight_file
from synthdepth.models.registry import _builders
from synthdepth.training import FinetuneError, batch_loss, finetune, list_checkpoints
from synthdepth.training import make_optimizer, make_recipe

SMALL = dict(epochs=8, batch_size=4, lr=1e-3, size=(48, 64), flip=False, jitter=0.)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=10, views=1)


def relative(predicts):
    "Tiny, whose depth is taken for something else: as disparity it begins turned over."
    model = create_model('tiny')
    model.predicts = predicts
    return model


def rank(model, folder, invert):
    "Median rank correlation of prediction and target."
    found = []
    for s in open_data(folder):
        pred = predict(model, torch.tensor(s.rgb).permute(2, 0, 1)[None]/255)[0].cpu().numpy()
        target = 1/s.depth[s.valid] if invert else s.depth[s.valid]
        found.append(spearmanr(pred[s.valid], target).statistic)
    return np.median(found)


def test_a_model_of_disparity_learns_the_right_sign(folder, tmp_path):
    model = relative('disparity')
    before = rank(model, folder, invert=True)
    log = finetune(model, folder, make_recipe('corrected', **SMALL), tmp_path/'run', progress=False)
    assert before < 0 < .3 < rank(model, folder, invert=True)
    assert log.train_loss.iloc[-1] < .8*log.train_loss[1]
    about = json.loads((tmp_path/'run'/'run.json').read_text())
    assert about['objective'] == dict(loss='ssi + 0.5 gradient', target='disparity')
    assert about['protocol']['name'] == 'affine_disparity'
    assert log.d1[1:].between(0, 1).all()


def test_a_model_of_relative_depth_keeps_its_sign(folder, tmp_path):
    model = relative('depth')
    finetune(model, folder, make_recipe('corrected', **SMALL | dict(epochs=2)), tmp_path/'run',
             progress=False)
    assert rank(model, folder, invert=False) > .3
    protocol = json.loads((tmp_path/'run'/'run.json').read_text())['protocol']
    assert protocol['name'] == 'affine_depth'


@pytest.mark.parametrize('predicts, loss, message', [
    ('disparity', 'silog', 'the model predicts disparity; expected ssi or affine_l1 alone'),
    ('depth', 'silog + ssi', 'the model predicts depth; expected ssi or affine_l1 alone'),
    ('metric', 'ssi + 0.5 gradient', 'the model predicts metric; expected silog'),
    ('metric', 'log_gradient', 'the model predicts metric; expected silog'),
    ('depth', 'ssi + log_gradient', 'the model predicts depth; expected ssi or affine_l1 alone')])
def test_a_loss_that_does_not_fit_is_refused_before_anything_is_made(folder, tmp_path, predicts,
                                                                     loss, message):
    recipe = make_recipe('corrected', **SMALL | dict(loss=loss))
    with pytest.raises(FinetuneError, match=message):
        finetune(relative(predicts), folder, recipe, tmp_path/'run', progress=False)
    assert not (tmp_path/'run'/'run.json').exists()


@pytest.mark.parametrize('text', [
    'huber', 'silog + silog', '0 silog', '-1 silog', '', 'ssi +', 'ssi ssi'])
def test_what_is_no_loss_is_refused(text):
    with pytest.raises(ValueError, match='expected some of silog, ssi, gradient'): parse_loss(text)
    if text:
        with pytest.raises(FinetuneError, match='expected some of silog'): make_recipe(loss=text)


def test_the_weighted_sum_is_that_of_its_parts():
    torch.manual_seed(0)
    pred, depth = torch.rand(2, 2, 24, 32) + .5
    valid = torch.rand(2, 24, 32) > .3
    target = torch.where(valid, 1/depth, 0.)
    expected = ssi_loss(pred, target, valid) + .5*gradient_loss(
        standardise(pred, valid), standardise(target, valid), valid)
    found = objective_loss(pred, depth, valid, OBJECTIVES['disparity'])
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    twice = objective_for('disparity', '2 ssi + gradient')
    again = objective_loss(pred, depth, valid, twice)
    assert again.item() == pytest.approx(2*found.item(), rel=1e-6)


@pytest.mark.parametrize('predicts', OBJECTIVES)
def test_a_picture_without_a_valid_pixel_is_no_perfect_one(predicts):
    depth = torch.ones(1, 8, 8)
    loss = objective_loss(torch.rand(1, 8, 8), depth, depth > 2, OBJECTIVES[predicts])
    assert loss.isnan()


# --- comparisons elsewhere than in pixels


class Noisy(DepthModel):
    "Compares a quarter of the picture, under noise; its coder never trains, as that of a latent."
    predicts, loss = 'depth', 'mse'

    def __init__(self):
        super().__init__()
        self.coder = torch.nn.Conv2d(3, 4, 4, 4)
        self.head = torch.nn.Conv2d(4, 1, 1)

    def encoder_layers(self): return []
    def fixed_parameters(self): return list(self.coder.parameters())
    def encode(self, rgb): return [self.coder(rgb)]

    def decode(self, features, size):
        return torch.nn.functional.interpolate(self.head(features[0]), size)[:, 0]

    def compare(self, features, size, labels):
        target = labels['depth'][:, ::4, ::4]
        noise = picture_noise(labels['seed'], target.shape[1:])
        pred = self.head(features[0])[:, 0]
        return Comparison(pred + .1*noise, target, labels['valid'][:, ::4, ::4],
                          extra=noise.mean((1, 2))**2)


@pytest.fixture
def noisy():
    def build(weights=None, **config):
        torch.manual_seed(0)
        model = Noisy()
        return model if weights in (None, 'none') else load_weights(model, weight_file(weights))
    register('noisy')(build)
    yield lambda: create_model('noisy')
    del _builders['noisy']


def a_batch(n=4):
    depth = torch.rand(n, 48, 64, generator=torch.Generator().manual_seed(1)) + 1
    rgb = torch.rand(n, 3, 48, 64, generator=torch.Generator().manual_seed(2))
    return dict(rgb=rgb, depth=depth, valid=depth > 1.2, index=torch.arange(n))


def rows(batch, at): return {k: x[at] for k, x in batch.items()}


def test_the_fixed_group_is_counted_and_never_trains(noisy):
    model = noisy()
    groups = model.parameter_groups()
    assert list(groups) == ['fixed', 'decoder'] and len(groups['fixed']) == 2
    assert not any(p.requires_grad for p in groups['fixed'])
    freeze(model, 'all')
    assert unfreeze(model, 'all') == 5  # weights and bias of the head
    with pytest.raises(ValueError, match="no parameter group 'fixed'"): unfreeze(model, 'fixed')
    assert not model.train().coder.training


def test_a_comparison_is_worked_out_by_its_own_loss(noisy):
    model, batch = noisy(), a_batch()
    found = model(batch['rgb'], labels=dict(rows(batch, slice(4)), seed=batch['index']))
    loss, pred = batch_loss(model, batch, make_recipe('corrected'))
    squares = [((p - t)**2)[v].mean() for p, t, v in zip(found.pred, found.target, found.valid)]
    expected = torch.stack(squares).mean() + found.extra.mean()
    assert pred is None and torch.allclose(loss, expected, rtol=1e-6)


def test_a_loss_of_the_recipe_compares_pixels(noisy):
    model, batch = noisy(), a_batch()
    loss, pred = batch_loss(model, batch, make_recipe('corrected', loss='ssi'))
    assert torch.equal(loss, ssi_loss(pred, batch['depth'], batch['valid']))


def test_what_is_drawn_depends_on_the_picture_alone(noisy):
    model, batch = noisy(), a_batch()
    whole = model(batch['rgb'], labels=dict(batch, seed=batch['index'])).pred
    half = rows(batch, slice(2, 4))
    part = model(half['rgb'], labels=dict(half, seed=half['index'])).pred
    assert torch.allclose(whole[2:], part, atol=1e-6)
    recipe = make_recipe('corrected')
    assert batch_loss(model, batch, recipe)[0] == batch_loss(model, batch, recipe)[0]


def test_a_model_that_draws_resumes_exactly(noisy, folder, tmp_path):
    recipe = make_recipe('corrected', **SMALL | dict(epochs=3))
    straight, stopped = noisy(), noisy()
    log = finetune(straight, folder, recipe, tmp_path/'a', progress=False)
    coder = straight.coder.weight.clone()
    finetune(stopped, folder, recipe, tmp_path/'b', progress=False)
    for part in ('checkpoints/epoch_003', 'model'): shutil.rmtree(tmp_path/'b'/part)
    (tmp_path/'b'/'log.csv').unlink()
    again = noisy()
    resumed = finetune(again, folder, recipe, tmp_path/'b', progress=False)
    assert torch.equal(again.head.weight, straight.head.weight)
    assert resumed.train_loss.iloc[-1] == log.train_loss.iloc[-1]
    assert torch.equal(coder, noisy().coder.weight)


def test_checkpoints_hold_only_what_can_change(noisy, folder, tmp_path):
    recipe = make_recipe('corrected', **SMALL | dict(epochs=1))
    finetune(noisy(), folder, recipe, tmp_path/'run', progress=False)
    kept = load_file(list_checkpoints(tmp_path/'run')[-1]/'model.safetensors')
    assert sorted(kept) == ['head.bias', 'head.weight']
    whole = load_file(tmp_path/'run'/'model'/'model.safetensors')
    assert 'coder.weight' in whole
    asked = json.loads((tmp_path/'run'/'run.json').read_text())['objective']
    assert asked == dict(loss='mse', target='depth')


def test_accumulation_gives_the_same_step(noisy, folder, tmp_path):
    ends = []
    for accumulate in (1, 2):
        recipe = make_recipe('corrected', **SMALL | dict(epochs=1, accumulate=accumulate))
        model = noisy()
        finetune(model, folder, recipe, tmp_path/f'{accumulate}', progress=False)
        ends.append(model.head.weight)
    assert torch.allclose(*ends, atol=1e-6)


# --- what a model needs


def test_a_missing_input_is_named(noisy):
    model = noisy()
    model.needs = ('rgb', 'focal', 'intrinsics')
    with pytest.raises(ValueError, match='noisy needs focal, intrinsics beside the picture'):
        batch_loss(model, a_batch(), make_recipe('corrected'))


# --- learning rates of groups


def test_a_group_learns_at_its_share():
    recipe = make_recipe('corrected', lr_scale=[['encoder', .1]], layer_decay=.5)
    model = create_model('tiny', 'none')
    adam = make_optimizer(model, recipe, torch.device('cpu'))
    scales = [g['scale'] for g in adam.param_groups]
    assert scales[-1] == 1 and scales[-2] == pytest.approx(.05)
    with pytest.raises(ValueError, match="no parameter group 'head'"):
        make_optimizer(model, make_recipe('corrected', lr_scale=[['head', 2]]),
                       torch.device('cpu'))
    with pytest.raises(FinetuneError, match='factor above 0'):
        make_recipe('corrected', lr_scale=[['encoder', -1]])
    with pytest.raises(FinetuneError, match='schedule is'): make_recipe(schedule='linear')


# --- alignment


@pytest.mark.parametrize('predicts', ['depth', 'disparity'])
def test_an_alignment_does_not_turn_a_map_over(predicts):
    depth = a_batch()['depth']
    right = depth if predicts == 'depth' else 1/depth
    protocol = OBJECTIVES[predicts].protocol
    scores = [evaluate_batch(sign*right, depth, None, protocol, predicts)['d1'].mean()
              for sign in (1, -1)]
    constant = evaluate_batch(torch.ones_like(depth), depth, None, protocol, predicts)['d1'].mean()
    assert scores[0] == 1 and scores[1] == constant < .9
