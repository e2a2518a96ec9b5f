"Depth Anything and its relatives, at the size of a thumb: the library's numbers, and their traps."
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F
from small import BEIT, DEPTH_ANYTHING, DPT, DPT_BEIT, DPT_HYBRID, WIDTHS, damage
from toy import write_synthdepth
from transformers import AutoImageProcessor, AutoModelForDepthEstimation, DPTImageProcessor

from synthdepth.data import open_data
from synthdepth.evaluation import predict
from synthdepth.models import create_model, freeze, load_model
from synthdepth.models.dpt import ROWS
from synthdepth.models.hub import LicenceError
from synthdepth.training import finetune, make_recipe

SMALL = {
    'depth-anything-v2-small': DEPTH_ANYTHING, 'depth-anything-v2-base': DEPTH_ANYTHING,
    'depth-anything-v2-small-metric-indoor': DEPTH_ANYTHING,
    'distill-any-depth-small': DEPTH_ANYTHING, 'dpt-large': DPT, 'dpt-beit-base': DPT_BEIT,
    'dpt-beit-large-512': DPT_BEIT, 'dpt-hybrid': DPT_HYBRID}
METRIC = 'depth-anything-v2-small-metric-indoor'


def make(name, size=(70, 70), **more):
    "Random weights, stretched a little so that the map varies over the picture."
    torch.manual_seed(0)
    size = (64, 64) if name.startswith('dpt') else size
    model = create_model(name, 'none', size=size, **SMALL[name], **more)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1: p.normal_(std=1.5/p[0].numel()**.5)
    return model


def smooth(h, w, n=1):
    rgb = torch.rand(n, 3, 7, 9, generator=torch.Generator().manual_seed(3))
    return F.interpolate(rgb, (h, w), mode='bilinear')


each = pytest.mark.parametrize('name', SMALL)


@each
def test_size_range_and_independence_of_the_batch(name):
    model, rgb = make(name), smooth(53, 81, n=3)
    with torch.no_grad(): depth = model(rgb)
    assert depth.shape == (3, 53, 81) and depth.dtype == torch.float32 and depth.isfinite().all()
    assert depth.min() > 0 if model.predicts == 'metric' else depth.min() >= 0
    with torch.no_grad(): alone = model(rgb[1:2])[0]
    assert (alone - depth[1]).abs().max() < 1e-4*depth.max()
    assert model.predicts == ROWS[name].predicts


@each
@pytest.mark.parametrize('size', [(53, 81), (96, 60)])
def test_equal_to_the_library_on_floats(name, size, tmp_path):
    model, rgb = make(name), smooth(*size)
    model.save(tmp_path/'saved')
    net = AutoModelForDepthEstimation.from_pretrained(tmp_path/'saved').eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path/'saved')
    with torch.no_grad():
        out = net(**processor(rgb[0], do_rescale=False, return_tensors='pt'))
        theirs = processor.post_process_depth_estimation(out, [size])[0]['predicted_depth']
        ours = model(rgb)[0]
    assert ours.std() > 1e-4
    assert torch.allclose(ours, theirs.clamp(min=ours.min()), rtol=1e-3, atol=1e-4)


@each
def test_saved_and_opened_again_it_is_the_same(name, tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHDEPTH_ACCEPT_LICENCE', '1')
    model, rgb = make(name), smooth(48, 64)
    model.save(tmp_path/'saved')
    again = load_model(tmp_path/'saved')
    with torch.no_grad(): assert torch.equal(again(rgb), model(rgb))
    assert again.predicts == model.predicts and again.name == name


@each
def test_features_between_the_stages_and_groups(name):
    model, rgb = make(name), smooth(48, 64, n=2)
    with torch.no_grad():
        features = model.encode(rgb)
        assert torch.equal(model(features, size=(48, 64)), model(rgb))
        neck = model.neck(features, (48, 64))
        assert torch.equal(model(neck, size=(48, 64), stage='neck'), model(rgb))
    groups = model.parameter_groups()
    assert [len(f) for f in features] == [2]*4
    assert sum(len(ps) for ps in groups.values()) == len(list(model.parameters()))
    assert len([g for g in groups if g.startswith('encoder')]) == 5
    freeze(model, 'encoder')
    model(rgb).mean().backward()
    assert any(p.grad is not None for p in groups['neck'])
    assert not any(p.grad is not None for p in groups['encoder.3'])


def test_an_enlargement_does_not_overshoot_below_zero():
    model = make('depth-anything-v2-small')
    edge = torch.zeros(1, 70, 70)
    edge[..., 30:40] = 5.
    model.net.head.forward = lambda *features: edge
    with torch.no_grad(): low = model(smooth(141, 211))
    assert F.interpolate(edge[None], (141, 211), mode='bicubic').min() < -.1
    assert low.min() == 0
    model.predicts = 'metric'
    with torch.no_grad(): assert model(smooth(141, 211)).min() > 0


def test_a_head_with_random_weights_is_alive():
    for name in ('depth-anything-v2-small', 'dpt-large'):
        torch.manual_seed(0)
        model = create_model(name, 'none', size=(70, 70), **SMALL[name])
        assert model(smooth(48, 64)).min() > 0


def test_version_two_takes_spaced_features():
    taken = {size: ROWS[f'depth-anything-v2-{size}'].shape['backbone_config']['out_indices']
             for size in ('small', 'base', 'large')}
    assert taken == dict(small=[3, 6, 9, 12], base=[3, 6, 9, 12], large=[5, 12, 18, 24])


def test_metres_on_top_of_a_relative_network(tmp_path):
    relative = make('depth-anything-v2-small')
    relative.save(tmp_path/'relative')
    metric = create_model('depth-anything-v2-small', tmp_path/'relative', max_depth=30)
    assert metric.predicts == 'metric'
    old, new = relative.net.backbone.state_dict(), metric.net.backbone.state_dict()
    assert all(torch.equal(x, new[k]) for k, x in old.items())
    with torch.no_grad(): assert 0 < metric(smooth(48, 64)).max() <= 30
    metric.save(tmp_path/'metric')
    again = load_model(tmp_path/'metric')
    with torch.no_grad(): assert torch.equal(again(smooth(48, 64)), metric(smooth(48, 64)))
    with pytest.raises(ValueError, match='expected whole metres'):
        create_model('depth-anything-v2-small', tmp_path/'relative', max_depth=-1)


def test_another_range_begins_with_a_new_head_and_dpt_has_none():
    model = create_model(METRIC, 'none', max_depth=50, **SMALL[METRIC])
    assert model.net.config.max_depth == 50 and model.predicts == 'metric'
    with pytest.raises(ValueError, match='only Depth Anything and Distill-Any-Depth'):
        create_model('dpt-large', 'none', max_depth=10, **SMALL['dpt-large'])


def test_a_restricted_licence_must_be_accepted_once(tmp_path, capsys):
    saved = make('depth-anything-v2-base').save(tmp_path/'theirs')
    load_model(saved)  # random weights of our own, nobody's licence
    (saved/'model.json').unlink()  # as a download is
    with pytest.raises(LicenceError, match='CC-BY-NC-4.0 .* accept_licence=True'):
        create_model('depth-anything-v2-base', tmp_path/'theirs')
    mine = create_model('depth-anything-v2-base', tmp_path/'theirs', accept_licence=True)
    assert 'CC-BY-NC-4.0' in capsys.readouterr().out
    mine.save(tmp_path/'mine')
    load_model(tmp_path/'mine')  # does not ask again
    assert '"accept_licence": true' in (tmp_path/'mine'/'model.json').read_text()


@pytest.mark.parametrize('how, message', [
    ('truncated', 'damaged or cut short'),
    ('pickle', r'its weights are a pickle \(pytorch_model.bin\)'),
    ('renamed', 'lacks 1 tensors, first'), ('other', "holds a 'dpt' model"),
    ('empty', 'not a complete checkpoint'), ('settings', 'brings its own settings')])
def test_what_is_no_checkpoint_of_it_is_refused_in_one_line(how, message, tmp_path):
    name, folder, more = 'depth-anything-v2-small', tmp_path/'x', {}
    make('dpt-beit-base' if how == 'other' else name).save(folder)
    damage(folder, how, 'head.conv3.weight')
    if how == 'settings': more = dict(fusion_hidden_size=8)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as e:
        create_model(name, folder, **more)
    assert str(folder) in str(e.value) or how == 'settings'


def test_offline_it_says_what_it_wants_and_how_to_fetch_it(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(FileNotFoundError, match='hf download depth-anything/Depth-Anything-V2-S'):
        create_model('depth-anything-v2-small')


@pytest.mark.parametrize('name', ['depth-anything-v2-small', METRIC])
def test_learns_the_right_sign(name, tmp_path):
    folder = write_synthdepth(tmp_path/'toy', scenes=10, views=1, size=(48, 64))
    torch.manual_seed(0)
    model = create_model(name, 'none', size=(70, 70), **SMALL[name])
    recipe = make_recipe('corrected', epochs=25, batch_size=4, lr=2e-3, size=(48, 64), flip=False,
                         jitter=0., patience=25)
    log = finetune(model, folder, recipe, tmp_path/'run', progress=False)
    found = []
    for s in open_data(folder):
        pred = predict(model, torch.tensor(s.rgb).permute(2, 0, 1)[None]/255)[0]
        target = s.depth[s.valid] if model.predicts == 'metric' else 1/s.depth[s.valid]
        found.append(spearmanr(pred[s.valid], target).statistic)
    assert np.median(found) > .2
    assert log.train_loss.iloc[-1] < .9*log.train_loss[1]


def test_a_size_of_its_own():
    model = make('depth-anything-v2-small', size=(42, 56))
    assert isinstance(model.processor, DPTImageProcessor)
    assert model.patches((48, 64)) == (3, 4)


def test_a_beit_of_512_works_at_its_own_size():
    rows = {side: ROWS[f'dpt-beit-large-{side}'] for side in (384, 512)}
    for side, row in rows.items():
        assert row.shape['backbone_config']['out_features'] == ['stage6', 'stage12', 'stage18',
                                                                'stage24']
        thin = dict(BEIT, image_size=side)
        model = create_model(f'dpt-beit-large-{side}', 'none', backbone_config=thin, **WIDTHS)
        assert (model.processor.size['height'], model.processor.size['width']) == (side, side)
        assert not model.processor.keep_aspect_ratio
