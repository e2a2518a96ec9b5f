"Depth Pro at the size of a thumb: the library's numbers, the camera, and what it is trained on."
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch.nn import functional as F
from small import DEPTH_PRO, VIT, damage
from toy import write_synthdepth
from transformers import AutoImageProcessor, AutoModelForDepthEstimation
from transformers.models.depth_pro.modeling_depth_pro import merge_patches, split_to_patches

from synthdepth.data import CacheError, Pairs, open_data
from synthdepth.models import FeatureCache, create_model, encoder_key, feature_loader, freeze
from synthdepth.models import load_model, run_batch
from synthdepth.models.features import frozen_stage
from synthdepth.models.hub import LicenceError
from synthdepth.training import finetune, make_recipe

NAN = float('nan')


def make(**more):
    torch.manual_seed(0)
    return create_model('depth-pro', 'none', **{**DEPTH_PRO, **more})


def smooth(h, w, n=1):
    rgb = torch.rand(n, 3, 7, 9, generator=torch.Generator().manual_seed(3))
    return F.interpolate(rgb, (h, w), mode='bilinear')


def cameras(*fx): return torch.tensor([[f, f, 20., 20.] for f in fx])


def labels(n, h=48, w=64):
    depth = torch.rand(n, h, w, generator=torch.Generator().manual_seed(1))*3 + 1
    return dict(depth=depth, valid=depth > 1.1, seed=torch.arange(n))


def l1(found): return (found.pred - found.target)[found.valid].abs().mean()


def test_size_range_and_independence_of_the_batch():
    model, rgb = make(), smooth(53, 81, n=3)
    camera = cameras(60., NAN, 90.)
    with torch.no_grad(): depth = model(rgb, intrinsics=camera)
    assert depth.shape == (3, 53, 81) and depth.dtype == torch.float32 and depth.isfinite().all()
    assert depth.min() > 0 and model.predicts == 'metric' and model.loss == 'l1'
    for i in range(3):
        with torch.no_grad(): alone = model(rgb[i:i + 1], intrinsics=camera[i:i + 1])[0]
        assert (alone/depth[i] - 1).abs().max() < 1e-4


@pytest.mark.parametrize('guesses', [True, False])
@pytest.mark.parametrize('size', [(53, 81), (200, 90)])
def test_equal_to_the_library_on_floats(size, guesses, tmp_path):
    model, rgb = make(use_fov_model=guesses), smooth(*size)
    model.save(tmp_path)
    net = AutoModelForDepthEstimation.from_pretrained(tmp_path).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        out = net(**processor(rgb[0], do_rescale=False, return_tensors='pt'))
        theirs = processor.post_process_depth_estimation(out, [size])[0]
        # without the guess the library takes canonical inverse depth as it is: f_px equals width
        ours = model(rgb, intrinsics=cameras(NAN if guesses else size[1]))[0]
    assert ours.std()/ours.mean() > 1e-3
    assert (ours/theirs['predicted_depth'] - 1).abs().max() < 1e-4
    if not guesses: return
    with torch.no_grad(): told = model(rgb, intrinsics=cameras(theirs['focal_length']))[0]
    assert (told/ours - 1).abs().max() < 1e-4


def test_a_known_camera_scales_depth_by_its_focal_length():
    model, rgb = make(), smooth(48, 64)
    with torch.no_grad():
        depth = {f: model(rgb, intrinsics=cameras(f)) for f in (25., 50., 100.)}
        canonical = 1/model(rgb, intrinsics=cameras(64.))
        guessed, unknown = model(rgb), model(rgb, intrinsics=cameras(NAN))
    assert torch.allclose(depth[50.], 2*depth[25.]) and torch.allclose(depth[100.], 4*depth[25.])
    assert torch.allclose(depth[50.], 50/(64*canonical), rtol=1e-5)  # D = f_px/(w C)
    assert torch.equal(guessed, unknown) and not torch.allclose(unknown, depth[50.], rtol=.01)


def test_the_picture_of_a_longer_lens_in_the_middle_is_as_deep():
    "The same pixels with another width and focal length: f_px/w counts, not f_px."
    model, rgb = make(), smooth(48, 64)
    twice = F.interpolate(rgb, (96, 128), mode='nearest')
    with torch.no_grad():
        a = model(rgb, intrinsics=cameras(50.))
        b = model(twice, intrinsics=cameras(100.))
    assert abs(a.median()/b.median() - 1) < .05


def test_the_target_is_canonical_and_the_guess_gets_no_gradient():
    model, rgb = make().train(), smooth(48, 64, n=2)
    known, told = labels(2), cameras(32., NAN)
    found = model(rgb, labels=known, intrinsics=told)
    assert found.pred.shape == found.target.shape == found.valid.shape == (2, 48, 64)
    assert torch.allclose(found.target[0], .5/torch.where(known['valid'][0], known['depth'][0], 1.))
    with torch.no_grad():
        share = model.focal(model.neck(model.encode(rgb), (48, 64)), (48, 64), told)
        assert torch.allclose(1/found.pred[0], model(rgb, intrinsics=cameras(64., 64.))[0])
    assert torch.allclose(found.target[1, 5], share[1, 0]/known['depth'][1, 5].where(
        known['valid'][1, 5], torch.ones(())))
    assert not found.target.requires_grad
    l1(found).backward()
    fixed = {id(p) for p in model.fixed_parameters()}
    without = {n for n, p in model.named_parameters() if id(p) not in fixed and p.grad is None}
    assert fixed and all(p.grad is None for p in model.parameters() if id(p) in fixed)
    unused = 'net.fusion_stage.intermediate.0.residual_layer1'  # there, but never run
    assert {n for n in without if not n.startswith(unused)} == set()


def test_features_between_the_stages_and_groups():
    model, rgb, camera = make(), smooth(48, 64, n=2), cameras(40., NAN)
    with torch.no_grad():
        expected, features = model(rgb, intrinsics=camera), model.encode(rgb)
        assert torch.equal(model(features, size=(48, 64), intrinsics=camera), expected)
        kept = [f.clone() for f in features]
        fused = model.neck(features, (48, 64))
        assert all(torch.equal(a, b) for a, b in zip(features, kept))
        assert torch.equal(model(fused, size=(48, 64), stage='neck', intrinsics=camera), expected)
    groups = model.parameter_groups()
    assert list(groups) == ['fixed', 'encoder.0', 'encoder.1', 'encoder.2', 'neck', 'decoder']
    assert sum(map(len, groups.values())) == len(list(model.parameters())) and all(groups.values())
    assert {len(f) for f in [*features, *fused]} == {2}
    freeze(model, 'encoder')
    l1(model.train()(rgb, labels=labels(2), intrinsics=camera)).backward()
    assert any(p.grad is not None for p in groups['neck'])
    assert not any(p.grad is not None for g in groups for p in groups[g] if g[:7] == 'encoder')
    assert not model.net.fov_model.training and model.net.head.training


@pytest.mark.parametrize('size', [None, 64])
def test_saved_and_opened_again_it_is_the_same(size, tmp_path):
    model, rgb = make(size=size), smooth(48, 64)
    again = load_model(model.save(tmp_path))
    with torch.no_grad(): assert torch.equal(again(rgb), model(rgb))
    assert again.name == 'depth-pro' and again.size == size
    # the library opens the same folder, at the size it was made for
    assert AutoModelForDepthEstimation.from_pretrained(tmp_path).config.patch_size == 32
    with torch.no_grad(): other = create_model('depth-pro', tmp_path, size=128)(rgb)
    assert torch.allclose(other, model(rgb)) == (size is None)


def test_half_precision_on_disk_becomes_float32(tmp_path):
    model, rgb = make(), smooth(48, 64)
    model.save(tmp_path)
    state = {k: v.half() for k, v in load_file(tmp_path/'model.safetensors').items()}
    save_file(state, tmp_path/'model.safetensors', metadata=dict(format='pt'))
    config = json.loads((tmp_path/'config.json').read_text())
    key = 'dtype' if 'dtype' in config else 'torch_dtype'
    (tmp_path/'config.json').write_text(json.dumps({**config, key: 'float16'}))
    again = load_model(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    with torch.no_grad(): assert (again(rgb)/model(rgb) - 1).abs().max() < .05


def reassembled(config, scale, size):
    "A ramp of tokens through the patches of one scale, as the encoder takes and joins them."
    ratio = config.scaled_images_ratios[scale]
    side, patch = int(size*ratio), round(size*config.scaled_images_ratios[0])
    ramp = (torch.arange(side) + 0.).expand(1, 1, side, side)
    parts = split_to_patches(ramp, patch, config.scaled_images_overlap_ratios[scale])[..., ::2, ::2]
    cut = int(config.merge_padding_value*patch//config.patch_size/ratio)
    row = merge_patches(parts, 1, cut)[0, 0, 0]
    return row.tolist() == ramp[0, 0, 0, ::2].tolist()


@pytest.mark.parametrize('size, fits', [(64, True), (128, True), (96, False)])
def test_legal_sizes_are_those_whose_patches_fit_together(size, fits):
    config = make().net.config
    assert all(reassembled(config, k, size) for k in range(3)) == fits
    if fits:
        model = make(size=size)
        assert model.encode(smooth(48, 64))[0].shape[-1] == size//8
        return
    with pytest.raises(ValueError, match='size is 96, expected a multiple of 64 pixels'):
        make(size=size)


@pytest.mark.parametrize('size', [0, -64, 64.5, (64, 64), '64'])
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match='expected a multiple of 64'): make(size=size)


def test_another_size_is_what_the_library_does_with_smaller_patches():
    "As a network whose positions were interpolated before and not on the way."
    model, rgb = make(size=64, use_fov_model=False), smooth(64, 64)
    half = {**DEPTH_PRO, 'patch_size': 16, 'merge_padding_value': 1, 'use_fov_model': False}
    for k in ('image_model_config', 'patch_model_config', 'fov_model_config'):
        half[k] = VIT | dict(image_size=16)
    other = make(**half)
    state = model.net.state_dict()
    for k in ('patch_encoder', 'image_encoder'):
        embeddings = getattr(model.net.depth_pro.encoder, k).model.embeddings
        key = f'depth_pro.encoder.{k}.model.embeddings.position_embeddings'
        blank = torch.zeros(1, 65, 16)
        state[key] = embeddings.interpolate_pos_encoding(blank, 16, 16).detach()
    other.net.load_state_dict(state)
    camera = cameras(64.)
    with torch.no_grad():
        assert torch.allclose(model(rgb, intrinsics=camera), other(rgb, intrinsics=camera),
                              rtol=1e-4)


def test_bfloat16_is_finite_and_float32():
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        depth = make()(smooth(48, 64), intrinsics=cameras(NAN))
    assert depth.dtype == torch.float32 and depth.isfinite().all()


def train(model, steps, rgb, known, camera, lr=1e-3):
    "The losses of some steps."
    optimizer, losses = torch.optim.AdamW(model.train().parameters(), lr=lr), []
    for _ in range(steps):
        losses.append(l1(model(rgb, labels=known, intrinsics=camera)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return [x.item() for x in losses]


def test_twenty_steps_lower_its_objective():
    losses = train(make(size=64), 20, smooth(48, 64, n=2), labels(2), cameras(50., NAN))
    assert losses[-1] < .8*losses[0]


def test_learns_the_right_sign(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'toy', scenes=2, views=1, size=(48, 64)))
    parts = [Pairs(data, (48, 64))[i] for i in range(2)]
    rgb, depth, valid, camera = (torch.stack([p[k] for p in parts])
                                 for k in ('rgb', 'depth', 'valid', 'intrinsics'))
    model = make(size=64)
    train(model, 25, rgb, dict(depth=depth, valid=valid, seed=torch.arange(2)), camera)
    with torch.no_grad(): pred = model.eval()(rgb, intrinsics=camera)
    found = [spearmanr(p[v], d[v]).statistic for p, d, v in zip(pred, depth, valid)]
    assert min(found) > .3


# features that are kept


def test_kept_features_serve_with_any_camera(tmp_path):
    model = make()
    data = open_data(write_synthdepth(tmp_path/'toy', scenes=2, views=1, size=(48, 64)))
    pairs = Pairs(data, (48, 64))
    with pytest.raises(CacheError, match='trainable here: encoder.0'): frozen_stage(model)
    freeze(model, 'encoder')
    assert frozen_stage(model) == 'encoder'
    cache = FeatureCache(model, pairs, tmp_path/'cache', dtype=torch.float32)
    batch = next(iter(feature_loader(cache, 2)))
    with torch.no_grad():
        kept = run_batch(model, batch)
        fresh = model(torch.stack([p['rgb'] for p in pairs]),
                      intrinsics=torch.stack([p['intrinsics'] for p in pairs]))
    assert torch.allclose(kept, fresh, rtol=1e-4)
    with torch.no_grad(): further = run_batch(model, batch | dict(intrinsics=2*batch['intrinsics']))
    assert torch.allclose(further, 2*kept, rtol=1e-4)
    freeze(model, 'neck')
    assert frozen_stage(model) == 'neck'


def test_a_run_hands_over_the_camera_of_each_crop(tmp_path, monkeypatch):
    folder = write_synthdepth(tmp_path/'toy', scenes=3, views=1, size=(48, 64))
    model, seen = make(size=64), []
    focal = type(model).focal

    def watched(self, features, size, intrinsics):
        seen.extend(intrinsics[:, 0].tolist())
        return focal(self, features, size, intrinsics)

    monkeypatch.setattr(type(model), 'focal', watched)
    recipe = make_recipe('corrected', epochs=1, batch_size=1, lr=1e-4, size=(48, 64), crop=.5)
    finetune(model, folder, recipe, tmp_path/'run', progress=False)
    told = open_data(folder)[0].capture.intrinsics.fx
    assert any(abs(f - told) < .1 for f in seen)  # in validation
    assert any(f > 1.01*told for f in seen) and min(seen) > .99*told  # a crop is a longer lens


def test_the_size_and_the_guess_are_part_of_the_key():
    key = encoder_key(make())
    assert encoder_key(make(size=64)) != key == encoder_key(make())
    model = make()
    with torch.no_grad(): next(model.net.fov_model.parameters()).add_(1)
    assert encoder_key(model) != key


def test_a_run_on_kept_features(tmp_path):
    folder = write_synthdepth(tmp_path/'toy', scenes=5, views=1, size=(48, 64))
    recipe = make_recipe('corrected', epochs=3, batch_size=2, lr=1e-3, size=(48, 64), jitter=0.,
                         frozen='encoder', cache_features='float32')
    log = finetune(make(size=64), folder, recipe, tmp_path/'run', progress=False)
    assert log.train_loss.iloc[-1] < log.train_loss[1]
    assert load_model(tmp_path/'run').size == 64


# what it refuses


def test_a_camera_is_asked_for_where_nothing_guesses_it():
    model, rgb = make(use_fov_model=False), smooth(48, 64, n=2)
    assert 'fixed' not in model.parameter_groups()
    for camera, n in ((None, 2), (cameras(50., NAN), 1), (cameras(0., -3.), 2)):
        with pytest.raises(ValueError, match=f'{n} of 2 pictures have no known focal length.*exp'):
            model(rgb, intrinsics=camera)
    with torch.no_grad(): model(rgb, intrinsics=cameras(50., 60.))


def test_the_licence_must_be_accepted_once(tmp_path, capsys):
    saved = make().save(tmp_path/'theirs')
    load_model(saved)  # random weights of our own, nobody's licence
    (saved/'model.json').unlink()  # as a download is
    with pytest.raises(LicenceError, match='AMLR.*accept_licence=True'):
        create_model('depth-pro', saved)
    mine = create_model('depth-pro', saved, accept_licence=True, size=64)
    assert 'AMLR' in capsys.readouterr().out
    mine.save(tmp_path/'mine')
    assert load_model(tmp_path/'mine').size == 64
    card = json.loads((tmp_path/'mine'/'model.json').read_text())
    assert card['config'] == dict(size=64) and card['origin']['accept_licence'] is True


@pytest.mark.parametrize('how, message', [
    ('truncated', 'damaged or cut short'), ('pickle', 'not a complete checkpoint'),
    ('renamed', 'lacks 1 tensors, first'), ('other', "holds a 'dpt' model, expected depth_pro"),
    ('empty', 'not a complete checkpoint'), ('settings', 'brings its own settings')])
def test_what_is_no_checkpoint_of_it_is_refused(how, message, tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHDEPTH_ACCEPT_LICENCE', '1')
    folder, more = tmp_path/'x', {}
    make().save(folder)
    damage(folder, how, 'head.layers.4.weight')
    if how == 'other':
        config = json.loads((folder/'config.json').read_text())
        (folder/'config.json').write_text(json.dumps({**config, 'model_type': 'dpt'}))
    if how == 'settings': more = dict(fusion_hidden_size=8)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as e:
        create_model('depth-pro', folder, **more)
    assert str(folder) in str(e.value) or how == 'settings'


def test_offline_it_says_what_it_wants_and_how_to_fetch_it(monkeypatch):
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match='hf download apple/DepthPro-hf'):
        create_model('depth-pro', accept_licence=True)


def test_the_released_network_has_952_million_parameters():
    with torch.device('meta'): model = create_model('depth-pro', 'none')
    assert round(sum(p.numel() for p in model.parameters())/1e6) == 952
    assert len(model.encoder_layers()) == 25
    assert dict(model.processor.size)['height'] == 1536
