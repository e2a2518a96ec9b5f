"CLIP with learned sentences and depths, at the size of a thumb."
import json
from copy import deepcopy

import pytest
import torch
from scipy.stats import spearmanr
from small import CLIP
from toy import write_synthdepth
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPTextModelWithProjection
from transformers import CLIPVisionModelWithProjection
from transformers.utils import logging

from synthdepth.data import Pairs, loader, open_data
from synthdepth.metrics import objective_for, silog_loss
from synthdepth.models import FeatureCache, create_model, encoder_key, freeze, load_model
from synthdepth.models import predict_batch, unfreeze
from synthdepth.models.clip_depth import CONTEXT, WORDS, random_clip
from synthdepth.training import finetune, make_optimizer, make_recipe


@pytest.fixture(autouse=True)
def quiet(one_thread): logging.set_verbosity_error()


def make(**more):
    torch.manual_seed(0)
    return create_model('clip-depth', 'none', clip=CLIP, **more)


def picture(b=2, h=64, w=64):
    return torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def checkpoint(tmp_path):
    "CLIP alone, as the library saves it."
    torch.manual_seed(0)
    for part in random_clip(**CLIP): part.save_pretrained(tmp_path/'theirs')
    return tmp_path/'theirs'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=4, views=1))


def steps(model, batch, n, features=None):
    "AdamW with larger steps for the bins; the losses."
    own, losses, size = model.own, [], tuple(batch['depth'].shape[-2:])
    optimizer = torch.optim.AdamW([dict(params=own.prompts.parameters(), lr=3e-3),
                                   dict(params=own.bank.parameters(), lr=3e-2)])
    for _ in range(n):
        pred = model.train()(batch['rgb']) if features is None else model(features, size=size)
        losses.append(silog_loss(pred, batch['depth'], batch['valid']))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    model.eval()
    return [x.item() for x in losses]


# --- the library's own road


def test_sentences_are_those_of_the_library(checkpoint):
    model, tokenizer = create_model('clip-depth', checkpoint), AutoTokenizer.from_pretrained(
        checkpoint)
    sentences = [f'{CONTEXT} {word}' for word in WORDS]
    asked = tokenizer(sentences, padding='max_length', max_length=77, return_tensors='pt')
    net = CLIPTextModelWithProjection.from_pretrained(checkpoint)
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(net(**asked).text_embeds, dim=-1)
        assert torch.allclose(model.own.prompts(model.net), theirs, atol=1e-5)
    assert theirs.std(0).max() > .01  # they differ


@pytest.mark.parametrize('eos', [2, 513])
def test_both_ways_in_which_the_library_finds_the_end(checkpoint, eos):
    config = json.loads((checkpoint/'config.json').read_text())
    config['text_config']['eos_token_id'] = eos  # 2 in OpenAI's own checkpoints
    (checkpoint/'config.json').write_text(json.dumps(config))
    model, net = create_model('clip-depth', checkpoint), CLIPModel.from_pretrained(checkpoint)
    asked = model.tokenizer([f'{CONTEXT} {word}' for word in WORDS], padding=True,
                            return_tensors='pt')
    with torch.no_grad():
        theirs = net(**asked, pixel_values=picture(1)).text_embeds
        assert torch.allclose(model.own.prompts(model.net), theirs, atol=1e-5)


@pytest.mark.parametrize('size', [(64, 64), (48, 88), (96, 64)])
def test_patches_are_those_of_the_library(checkpoint, size):
    model, rgb = create_model('clip-depth', checkpoint, size=size), picture(2, *size)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    net = CLIPVisionModelWithProjection.from_pretrained(checkpoint)
    seen = processor(rgb, do_rescale=False, do_resize=False, do_center_crop=False,
                     return_tensors='pt').pixel_values
    with torch.no_grad():
        out = net(seen, interpolate_pos_encoding=True)
        tokens = net.visual_projection(net.vision_model.post_layernorm(out.last_hidden_state))
        whole, patches = model.encode(rgb)
    tokens = torch.nn.functional.normalize(tokens, dim=-1)
    assert torch.allclose(whole, tokens[:, 0], atol=1e-5)
    assert torch.allclose(patches.flatten(2).mT, tokens[:, 1:], atol=1e-5)
    ours = torch.nn.functional.normalize(out.image_embeds, dim=-1)
    assert torch.allclose(whole, ours, atol=1e-5)
    assert patches.shape[2:] == (size[0]//8, size[1]//8)


# --- the contract


@pytest.mark.parametrize('size', [(64, 64), (53, 81), (96, 60), (7, 5)])
def test_size_range_and_independence_of_the_batch(size):
    model, rgb = make(), picture(3, *size)
    with torch.no_grad(): depth, alone = model(rgb), model(rgb[1:2])[0]
    assert depth.shape == (3, *size) and depth.dtype == torch.float32
    assert depth.isfinite().all() and depth.min() > 0 and depth[1].std() > 0
    assert (alone - depth[1]).abs().max() < 1e-4*depth.max()
    assert model.predicts == 'metric' and model.needs == ('rgb',)
    assert str(objective_for('metric', '', model.loss)) == 'silog'


def test_it_works_at_the_size_it_is_told():
    rgb = picture(1, 120, 160)
    with torch.no_grad():
        assert make().encode(rgb)[1].shape[2:] == (7, 9)
        assert make(size=(120, 160)).encode(rgb)[1].shape[2:] == (15, 20)


def test_its_size_is_known_without_its_weights():
    with torch.device('meta'): model = create_model('clip-depth', 'none')
    count = {k: sum(p.numel() for p in ps) for k, ps in model.parameter_groups().items()}
    words = 49408 - 514  # that the random one's vocabulary lacks, 512 numbers each
    assert count['fixed'] + 512*words == 149_620_737  # ViT-B/16, as OpenAI published it
    assert count['neck'] == 512*12 and count['decoder'] == 16*(512 + 7)


def test_depth_is_above_0_whatever_the_bins_become():
    model = make()
    with torch.no_grad():
        model.own.bank.log_depth.fill_(-20.)
        assert model(picture()).min() > 0


def test_features_between_the_stages():
    model, rgb = make(), picture()
    with torch.no_grad():
        whole, features = model(rgb), model.encode(rgb)
        neck = model.neck(features, (64, 64))
        assert all(len(f) == 2 for f in [*features, *neck])
        assert torch.equal(model(features, size=(64, 64)), whole)
        assert torch.equal(model(neck, size=(64, 64), stage='neck'), whole)


def test_only_prompts_keys_and_bins_train():
    model = make()
    groups = model.parameter_groups()
    assert list(groups) == ['fixed', 'neck', 'decoder']
    ids = [id(p) for params in groups.values() for p in params]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in groups['fixed']} == {id(p) for p in model.net.parameters()}
    assert [p.shape for p in groups['neck']] == [model.own.prompts.context.shape]
    assert [p.shape for p in groups['decoder']] == [(16, 24), (16, 7)]
    freeze(model, 'all')
    unfreeze(model, 'all')
    assert not any(p.requires_grad for p in groups['fixed'])
    model.train()
    assert not any(m.training for m in model.net.modules()) and model.own.bank.training
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = make_optimizer(model, make_recipe('corrected', lr=1e-2), torch.device('cpu'))
    model(picture()).var().backward()
    assert all(p.grad.abs().sum() > 0 for p in [*groups['neck'], *groups['decoder']])
    optimizer.step()
    same = {k for k, v in model.state_dict().items() if torch.equal(v, before[k])}
    assert same == {k for k in before if k.startswith('net.')}
    assert freeze(model, 'encoder') == 0  # all of it is fixed


def test_the_same_context_stands_before_every_word():
    model = make()
    with torch.no_grad():
        before = model.own.prompts(model.net)
        model.own.prompts.context.copy_(model.own.prompts.context.flip(-1))
        after = model.own.prompts(model.net)
    assert ((after - before).norm(dim=-1) > 1e-3).all()
    assert torch.allclose(after.norm(dim=-1), torch.ones(7))


def test_half_precision_and_another_memory_layout():
    model = make().to(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = model(picture())
        with torch.autocast('cpu', dtype=torch.bfloat16): depth = model(picture())
    assert depth.dtype == torch.float32 and depth.isfinite().all() and depth.min() > 0
    assert (depth.log() - exact.log()).abs().mean() < .05


# --- learning


def test_twenty_steps_lower_the_loss(data):
    losses = steps(make(), next(iter(loader(data, None, batch_size=4))), 20)
    assert losses[-1] < .8*losses[0]


def test_it_learns_the_right_sign(data):
    model, batch = make(size=(48, 64)), next(iter(loader(data, None, batch_size=4)))
    steps(model, batch, 60)
    with torch.no_grad(): pred = predict_batch(model, batch)
    for p, d, v in zip(pred, batch['depth'], batch['valid']):
        assert spearmanr(p[v], d[v]).statistic > .3


def test_pictures_choose_their_own_depths(data):
    model, batch = make(size=(48, 64)), next(iter(loader(data, None, batch_size=4)))
    batch = dict(batch, depth=batch['depth']*torch.tensor([.2, 1, 1, 5]).view(4, 1, 1))
    steps(model, batch, 60)
    with torch.no_grad(): bins = model.own.bank(model.encode(batch['rgb'])[0])
    assert bins[0].mean() < bins[1:3].mean() - .5 < bins[3].mean() - 1


def test_kept_features_give_the_same_losses(data, tmp_path):
    model, pairs = make(size=(48, 64)), Pairs(data, (48, 64), cache=True)
    kept = FeatureCache(model, pairs, tmp_path, dtype=torch.float32)
    assert kept.stage == 'encoder' and [s.shape for s in kept.shapes] == [(24,), (6, 8, 24)]
    batch, features = pairs.__getitems__([0, 1, 2, 3]), kept.__getitems__([0, 1, 2, 3])['features']
    plain = steps(model, batch, 5)
    assert steps(make(size=(48, 64)), batch, 5, features) == pytest.approx(plain, rel=1e-3)


def test_what_a_cache_depends_on():
    model = make()
    key, neck = encoder_key(model), encoder_key(model, 'neck')
    with torch.no_grad(): model.own.prompts.context.add_(1)
    assert encoder_key(model) == key and encoder_key(model, 'neck') != neck
    with torch.no_grad(): model.own.bank.keys.add_(1)
    assert encoder_key(model) == key
    with torch.no_grad(): model.net.visual_projection.weight.add_(1)
    assert encoder_key(model) != key != encoder_key(make(size=(48, 64)))


@pytest.mark.parametrize('cached', [False, True])
def test_a_fine_tune_opens_again(data, tmp_path, cached):
    model = make(size=(48, 64))
    recipe = make_recipe('corrected', epochs=2, height=48, width=64, lr=1e-2, precision='fp32',
                         cache_features=cached, **(dict(jitter=0.) if cached else {}))
    log = finetune(model, data, recipe, tmp_path/'run', progress=False)
    assert len(log) == 3
    again = load_model(tmp_path/'run')
    with torch.no_grad(): assert torch.equal(again(picture()), model(picture()))


# --- files


def test_a_saved_folder_opens_again_and_holds_clip_once(tmp_path, monkeypatch):
    model = make(words=('near', 'far'), context='it is', bank=3, size=(48, 80))
    with torch.no_grad():
        for p in model.parameters(): p.mul_(1.05)
    folder = model.save(tmp_path/'a')
    assert sorted(p.name for p in folder.iterdir()) == ['clip', 'model.json', 'model.safetensors']
    assert (folder/'model.safetensors').stat().st_size < 5000
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    again = load_model(folder)
    with torch.no_grad(): assert torch.equal(again(picture()), model(picture()))
    assert again.name == 'clip-depth' and again.config == model.config
    assert not any(p.requires_grad for p in again.net.parameters())
    CLIPModel.from_pretrained(folder/'clip')  # whole in itself
    twice = load_model(again.save(tmp_path/'b'))
    with torch.no_grad(): assert torch.equal(twice(picture()), model(picture()))


def test_a_copy_is_whole():
    model = make()
    with torch.no_grad(): assert torch.equal(deepcopy(model)(picture()), model(picture()))


def test_a_checkpoint_of_clip_starts_with_fresh_prompts(checkpoint):
    model = create_model('clip-depth', checkpoint)
    assert model.config == dict(size=[64, 64], words=list(WORDS), context=CONTEXT, bank=16)
    with torch.no_grad(): assert model(picture()).isfinite().all()


@pytest.mark.parametrize('damage, message', [
    ('truncated', 'damaged or cut short'), ('pickle', 'not a complete checkpoint'),
    ('renamed', 'lacks 1 tensors, first'), ('other', "holds a 'dpt' model, expected clip"),
    ('tower', "holds a 'clip_text_model' model, expected clip"),
    ('empty', 'not a complete checkpoint'), ('vocabulary', 'its tokenizer cannot read'),
    ('settings', 'brings its own settings'), ('tiny', 'holds a tiny model, expected clip-depth')])
def test_what_is_no_clip_is_refused(damage, message, checkpoint):
    from safetensors.torch import load_file, save_file
    file, config, more = checkpoint/'model.safetensors', checkpoint/'config.json', {}
    if damage == 'truncated': file.write_bytes(file.read_bytes()[:5000])
    if damage == 'pickle':
        torch.save(load_file(file), checkpoint/'pytorch_model.bin')
        file.unlink()
    if damage == 'renamed':
        state = load_file(file)
        state['projection'] = state.pop('visual_projection.weight')
        save_file(state, file, metadata=dict(format='pt'))
    if damage in ('other', 'tower'):
        kind = 'dpt' if damage == 'other' else 'clip_text_model'
        config.write_text(json.dumps(dict(model_type=kind)))
    if damage == 'empty':
        for p in checkpoint.iterdir(): p.unlink()
    if damage == 'vocabulary':
        for p in checkpoint.glob('*token*'): p.unlink()
    if damage == 'settings': more = dict(clip=CLIP)
    if damage == 'tiny': create_model('tiny', 'none').save(checkpoint)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as e:
        create_model('clip-depth', checkpoint, **more)
    assert str(e.value).startswith('clip-depth: ')
    assert str(checkpoint) in str(e.value) or damage in ('settings', 'vocabulary')


def test_incomplete_folders(tmp_path):
    folder = make().save(tmp_path/'a')
    with pytest.raises(ValueError, match='tensors do not fit FewShot'):
        create_model('clip-depth', folder, bank=3)
    (folder/'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='no weights at'): load_model(folder)
    (folder/'clip'/'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='clip is not a complete checkpoint'):
        load_model(folder)


def test_offline_it_says_what_it_wants_and_how_to_fetch_it(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(FileNotFoundError, match='hf download openai/clip-vit-base-patch16'):
        create_model('clip-depth')


@pytest.mark.parametrize('settings, message', [
    (dict(words=('far',)), 'two or more distances'), (dict(context=' '), 'of one word or more'),
    (dict(bank=0), 'a bank of 0 rows'), (dict(context='far '*30), 'a sentence of .* at most 77')])
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message): make(**settings)


@pytest.mark.parametrize('rgb', [picture()*255, picture()[0], (picture()*255).byte()])
def test_what_is_no_picture(rgb):
    with pytest.raises(ValueError, match=r'expected floats of shape \(B,3,H,W\) in \[0, 1\]'):
        make()(rgb)
