"What a model predicts decides what it is trained towards and how it is scored."
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from toy import write_synthdepth

from synthdepth.data import open_data
from synthdepth.evaluation import predict
from synthdepth.metrics import OBJECTIVES, objective_for, objective_loss, parse_loss
from synthdepth.metrics import gradient_loss, ssi_loss, standardise
from synthdepth.models import create_model
from synthdepth.training import FinetuneError, finetune, make_recipe

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
    ('disparity', 'silog', 'the model predicts disparity; expected ssi and no silog'),
    ('depth', 'silog + ssi', 'the model predicts depth; expected ssi and no silog'),
    ('metric', 'ssi + 0.5 gradient', 'the model predicts metric; expected silog')])
def test_a_loss_that_does_not_fit_is_refused_before_anything_is_made(folder, tmp_path, predicts,
                                                                     loss, message):
    recipe = make_recipe('corrected', **SMALL | dict(loss=loss))
    with pytest.raises(FinetuneError, match=message):
        finetune(relative(predicts), folder, recipe, tmp_path/'run', progress=False)
    assert not (tmp_path/'run'/'run.json').exists()


@pytest.mark.parametrize('text', [
    'l1', 'silog + silog', '0 silog', '-1 silog', '', 'ssi +', 'ssi ssi'])
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
