"""MoGe-2 against a stand-in: the library itself could not be installed where this was written.

The stand-in has the interface of moge.model.v2.MoGeModel and moge.utils.geometry_torch as read at
the commit that `synthdepth.models.moge.COMMIT` names; its cells stand in the notebook.
"""
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scipy.optimize import least_squares
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from small import MOGE
from toy import write_synthdepth

from synthdepth.data import Pairs, open_data
from synthdepth.metrics import silog_loss
from synthdepth.models import create_model, freeze, load_model, model_names
from synthdepth.training import finetune, make_recipe

NOTEBOOK = Path(__file__).resolve().parents[1]/'nbs'/'3_models'/'16_moge.ipynb'
NAMES = 'moge-2-small', 'moge-2-base', 'moge-2-large'


def stand_in() -> tuple[dict[str, ModuleType], type]:
    "The notebook's cells as modules of the library's names, and its network."
    cells = (''.join(c['source']) for c in json.loads(NOTEBOOK.read_text())['cells'])
    found = dict(torch=torch, nn=nn, F=F, partial=partial, least_squares=least_squares)
    exec('\n\n'.join(s for s in cells if s.startswith('# stand-in')), found)
    modules = {name: ModuleType(name) for name in found['STAND_IN']}
    for name, module in modules.items(): vars(module).update(found['STAND_IN'][name])
    return modules, found['MoGeModel']


@pytest.fixture(autouse=True)
def library(monkeypatch):
    "The notebook's stand-in, where the library would be."
    modules, network = stand_in()
    for name, module in modules.items(): monkeypatch.setitem(sys.modules, name, module)
    return network


def make(name='moge-2-small', **more):
    torch.manual_seed(0)
    return create_model(name, 'none', **{**MOGE, 'tokens': 12, **more})


def smooth(h, w, n=1):
    rgb = torch.rand(n, 3, 7, 9, generator=torch.Generator().manual_seed(3))
    return F.interpolate(rgb, (h, w), mode='bilinear')


@pytest.mark.parametrize('name', NAMES)
def test_size_range_and_independence_of_the_batch(name):
    model, rgb = make(name), smooth(53, 81, n=3)
    with torch.no_grad(): depth = model(rgb)
    assert depth.shape == (3, 53, 81) and depth.dtype == torch.float32 and depth.isfinite().all()
    assert depth.min() > 0 and model.predicts == 'metric' and model.needs == ('rgb',)
    for i in range(3):
        with torch.no_grad(): assert (model(rgb[i:i + 1])[0]/depth[i] - 1).abs().max() < 1e-3
    assert name in model_names() and model.loss == ''


@pytest.mark.parametrize('size', [(53, 81), (90, 40)])
@pytest.mark.parametrize('remap', ['exp', 'linear'])
def test_equal_to_the_librarys_own_road(size, remap, tmp_path, library):
    model, rgb = make(remap_output=remap), smooth(*size, n=2)
    with torch.no_grad(): model.net.points_head.leave[-1].bias[2] = 1.
    model.save(tmp_path)
    theirs = library.from_pretrained(tmp_path/'model.pt')
    with torch.no_grad(): ours, expected = model(rgb), theirs.infer(rgb, 12)
    assert expected.min() > 1e-3 and ours.std()/ours.mean() > 1e-3
    assert (ours/expected - 1).abs().max() < 1e-4


def test_as_many_tokens_as_it_was_trained_with():
    assert make(tokens=None, num_tokens_range=[20, 30]).tokens == 30
    assert make(tokens=48).encode(smooth(60, 80))[0].shape[-2:] == (6, 8)


def test_the_shift_is_held_fixed():
    "Of the prediction's derivatives only those of z and of the scale are left."
    model, rgb = make(remap_output='linear'), smooth(24, 32)
    points = (torch.rand(1, 3, 24, 32) + 1).requires_grad_()
    log_scale = torch.full((1, 1), .7, requires_grad=True)
    model.net.points_head.forward = lambda levels: [points]
    model.net.scale_head.forward = lambda token: log_scale
    depth = model(rgb)
    depth.sum().backward()
    assert torch.allclose(points.grad[0, 2], log_scale.exp().expand(24, 32))
    assert not points.grad[0, :2].any()
    assert torch.allclose(log_scale.grad, depth.sum().detach())


def test_what_is_not_finite_is_left_to_the_loss():
    model = make(remap_output='linear')
    points = torch.rand(1, 3, 24, 32) + 1
    points[:, :, 3] = torch.nan
    model.net.points_head.forward = lambda levels: [points]
    with torch.no_grad(): depth = model(smooth(24, 32))
    assert depth[0, 3].isnan().all() and depth[0, 4:].isfinite().all()


def test_a_known_wall():
    "Points moved by -0.3 and shrunk by 4, with a mask over nonsense."
    model, rgb = make(remap_output='linear'), smooth(24, 32)
    view_plane = sys.modules['moge.utils.geometry_torch'].normalized_view_plane_uv
    z = 1 + torch.linspace(0, 1, 32).expand(24, 32)
    points = torch.cat([view_plane(32, 24, 32/24)*z[..., None]*1.3, z[..., None] - .3], -1)
    points[:6] = torch.rand(6, 32, 3)
    mask = torch.full((24, 32), 9.)
    mask[:6] = -9.
    model.net.points_head.forward = lambda levels: [points.permute(2, 0, 1)[None]]
    model.net.mask_head.forward = lambda levels: [mask[None, None]]
    model.net.scale_head.forward = lambda token: torch.tensor([[4.]]).log()
    with torch.no_grad(): depth = model(rgb)[0]
    assert torch.allclose(depth[6:], 4*z[6:], rtol=1e-3)


def test_features_between_the_stages_and_groups():
    model, rgb = make(), smooth(48, 64, n=2)
    with torch.no_grad():
        expected, features = model(rgb), model.encode(rgb)
        assert torch.equal(model(features, size=(48, 64)), expected)
        fused = model.neck(features, (48, 64))
        assert torch.equal(model(fused, size=(48, 64), stage='neck'), expected)
    assert {len(f) for f in [*features, *fused]} == {2}
    groups = model.parameter_groups()
    assert list(groups) == ['fixed', 'encoder.0', 'encoder.1', 'encoder.2', 'neck', 'decoder']
    assert sum(map(len, groups.values())) == len(list(model.parameters())) and all(groups.values())
    encoder = {id(p) for p in model.net.encoder.parameters()}
    assert encoder == {id(p) for g in groups if g[:7] == 'encoder' for p in groups[g]}
    model.train()(rgb).log().var().backward()
    assert all((p.grad is None) == (g == 'fixed') for g in groups for p in groups[g])
    model.zero_grad(set_to_none=True)
    freeze(model, 'encoder')
    model(rgb).log().var().backward()
    assert all(p.grad is None for p in model.net.encoder.parameters())
    assert not model.net.mask_head.training and not model.net.encoder.backbone.blocks[1].training
    assert model.net.points_head.training


@pytest.mark.parametrize('mask', [True, False])
def test_saved_and_opened_again_it_is_the_same(mask, tmp_path):
    more = {} if mask else dict(mask_head=None, normal_head=None)
    model, rgb = make('moge-2-base', **more), smooth(48, 64)
    again = load_model(model.save(tmp_path))
    with torch.no_grad(): assert torch.equal(again(rgb), model(rgb))
    assert again.name == 'moge-2-base' and again.tokens == 12
    assert ('fixed' in again.parameter_groups()) == mask
    with torch.no_grad():
        file = create_model('moge-2-base', tmp_path/'model.pt', tokens=12)
        assert torch.equal(file(rgb), model(rgb))


def test_bfloat16_is_finite_and_float32():
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        depth = make()(smooth(48, 64))
    assert depth.dtype == torch.float32 and depth.isfinite().all()


def test_training_lowers_its_objective_and_learns_the_right_sign(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'toy', scenes=4, views=1, size=(48, 64)))
    parts = [Pairs(data, (48, 64))[i] for i in range(4)]
    rgb, depth, valid = (torch.stack([p[k] for p in parts]) for k in ('rgb', 'depth', 'valid'))
    model = make(tokens=48).train()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(60):
        losses.append(silog_loss(model(rgb), depth, valid))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[19] < losses[0] and losses[-1] < .7*losses[0]
    with torch.no_grad(): pred = model.eval()(rgb)
    assert min(spearmanr(p[v], d[v]).statistic for p, d, v in zip(pred, depth, valid)) > .3


def test_a_run_on_kept_features(tmp_path):
    folder = write_synthdepth(tmp_path/'toy', scenes=5, views=1, size=(48, 64))
    recipe = make_recipe('corrected', epochs=3, batch_size=2, lr=3e-3, size=(48, 64), jitter=0.,
                         frozen='encoder', cache_features='float32')
    log = finetune(make(), folder, recipe, tmp_path/'run', progress=False)
    assert log.train_loss.iloc[-1] < log.train_loss[1]
    assert load_model(tmp_path/'run').tokens == 12


# what it refuses


def test_without_the_library_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'moge.model.v2', None)
    with pytest.raises(ImportError, match=r'index: pip install git\+https://github.com/micro') as e:
        create_model('moge-2-small')
    assert '\n' not in str(e.value)


def test_offline_it_says_what_it_wants_and_how_to_fetch_it(monkeypatch):
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    for name, wanted in (('moge-2-large', 'Ruicheng/moge-2-vitl'),
                         ('moge-2-small', 'Ruicheng/moge-2-vits-normal')):
        with pytest.raises(FileNotFoundError, match=f'hf download {wanted} model.pt') as e:
            create_model(name)
        assert '\n' not in str(e.value)


@pytest.mark.parametrize('damage, message', [
    ('truncated', 'damaged, cut short'), ('object', 'more than tensors'),
    ('lacking', 'lacks 2 tensors, first points_head.leave.4.bias'),
    ('other', 'another architecture, expected MoGe of version 2'),
    ('shapes', 'another architecture'),
    ('weights alone', 'expected model_config and model'), ('a list', 'holds list, expected'),
    ('empty', 'not a complete checkpoint: no model.pt'), ('settings', 'brings its own settings'),
    ('no scale', 'no scale_head, expected one that')])
def test_what_is_no_checkpoint_of_it_is_refused_in_one_line(damage, message, tmp_path):
    make().save(tmp_path)
    file, more = tmp_path/'model.pt', {}
    found = torch.load(file, weights_only=True)
    changed = found | dict(model_config=dict(found['model_config']))
    if damage == 'lacking':
        changed['model'] = {k: v for k, v in found['model'].items() if 'points_head.leave' not in k}
    if damage == 'other': changed['model_config'] = dict(encoder='dinov2_vitl14', dim_upsample=[2])
    if damage == 'shapes':
        changed['model'] = found['model'] | {'encoder.backbone.cls_token': torch.zeros(1, 1, 3)}
    if damage == 'no scale': changed['model_config'].pop('scale_head')
    torch.save(dict(object=Path, **changed) if damage == 'object' else changed, file)
    if damage == 'weights alone': torch.save(found['model'], file)
    if damage == 'a list': torch.save([1, 2], file)
    if damage == 'truncated': file.write_bytes(file.read_bytes()[:5000])
    if damage == 'empty': file.unlink()
    if damage == 'settings': more = dict(remap_output='exp')
    with pytest.raises((ValueError, FileNotFoundError), match=message) as e:
        create_model('moge-2-small', tmp_path, **more)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('tokens', [0, -3, 2.5, True])
def test_what_is_no_number_of_tokens(tokens):
    with pytest.raises(ValueError, match='expected a whole number above 0'): make(tokens=tokens)
