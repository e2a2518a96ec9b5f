import pytest
import torch

pytest.importorskip('diffusers')
from diffusers import MarigoldDepthPipeline
from small import MARIGOLD

from synthdepth.models import create_model, encoder_key, load_model, picture_noise
from synthdepth.models.features import frozen_stage

NAMES = 'marigold', 'marigold-e2e'


def make(name, **config):
    torch.manual_seed(0)
    return create_model(name, 'none', **MARIGOLD | dict(processing_resolution=32) | config)


def labels(n):
    depth = torch.rand(n, 30, 41, generator=torch.Generator().manual_seed(1)) + 1
    return dict(depth=depth, valid=depth > 1.02, seed=torch.arange(n))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('lora', [0, 2])
def test_saved_folder_opens_here_and_with_diffusers(name, lora, tmp_path):
    model, rgb = make(name, lora=lora), torch.rand(2, 3, 30, 41)
    if lora:
        with torch.no_grad():
            for n, p in model.unet.named_parameters():
                if 'lora_B' in n: p.normal_(std=.1)
    expected = model(rgb)
    assert expected.shape == (2, 30, 41) and expected.dtype == torch.float32
    assert torch.allclose(model(rgb[1:])[0], expected[1], atol=1e-5)
    again = load_model(model.save(tmp_path))
    assert torch.allclose(again(rgb), expected, atol=1e-5)
    pipe = MarigoldDepthPipeline.from_pretrained(tmp_path)
    latents = model.encode(rgb)[0]
    noise = picture_noise(torch.zeros(2, dtype=torch.int64), tuple(latents.shape[1:]))
    if name == 'marigold-e2e': noise = torch.zeros_like(noise)
    for k in range(2):
        theirs = pipe(rgb[k:k + 1], latents=noise[k:k + 1], processing_resolution=32,
                      output_type='pt').prediction
        assert torch.allclose(theirs[0, 0], expected[k], atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('lora', [0, 2])
def test_loss_reaches_only_what_trains(name, lora):
    model, rgb = make(name, lora=lora).train(), torch.rand(2, 3, 30, 41)
    found = model(rgb, labels=labels(2))
    assert found.pred.shape == found.target.shape == found.valid.shape and found.valid.any()
    alone = model(rgb[:1], labels=labels(1))
    assert not model.vae.training
    assert torch.allclose(found.pred[:1], alone.pred, atol=1e-4)
    (found.pred - found.target)[found.valid].square().mean().backward()
    fixed = {id(p) for p in model.fixed_parameters()}
    assert all((p.grad is None) for p in model.parameters() if id(p) in fixed)
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_features_are_the_latents_and_their_key_that_of_the_autoencoder():
    model = make('marigold')
    assert frozen_stage(model) == 'encoder'
    before = encoder_key(model)
    with torch.no_grad(): next(model.unet.parameters()).add_(1)
    assert encoder_key(model) == before
    with torch.no_grad(): next(model.vae.parameters()).add_(1)
    assert encoder_key(model) != before


def test_leading_spacing_is_never_used_for_one_step():
    model = make('marigold', steps=1, scheduler=dict(timestep_spacing='leading'))
    model.scheduler.set_timesteps(1)
    assert model.scheduler.timesteps.tolist() == [999]


def test_ensemble_and_bad_settings():
    rgb = torch.rand(1, 3, 30, 41)
    model = make('marigold', ensemble=3)
    assert torch.equal(model(rgb), model(rgb))
    with pytest.raises(ValueError, match='expected 1 step'): make('marigold-e2e', steps=4)
    with pytest.raises(ValueError, match='from 1'): make('marigold', steps=0)


def test_an_encoder_that_is_fixed_is_frozen_already(tmp_path):
    from synthdepth.models import freeze, unfreeze
    from synthdepth.training import make_recipe
    from synthdepth.training.freezing import apply_freezing
    model = make('marigold-e2e')
    before = sum(p.requires_grad for p in model.parameters())
    assert freeze(model, 'encoder') == 0 and before == sum(
        p.requires_grad for p in model.parameters())
    assert apply_freezing(model, make_recipe(frozen='encoder'), 1) == sum(
        p.numel() for p in model.unet.parameters())
    with pytest.raises(ValueError, match='nothing to unfreeze'): unfreeze(model, 'encoder')
    with pytest.raises(ValueError, match="no parameter group 'neck'"): freeze(model, 'neck')


@pytest.mark.parametrize('flip', [False, True])
def test_latents_go_through_the_feature_cache(flip, tmp_path):
    from toy import write_synthdepth

    from synthdepth.data import Pairs, open_data
    from synthdepth.models import FeatureCache, feature_bytes
    data = open_data(write_synthdepth(tmp_path/'toy', scenes=3, views=1, size=(48, 64)))
    pairs = Pairs(data, size=(48, 64), cache=True)
    model = make('marigold-e2e', processing_resolution=0)
    cache = FeatureCache(model, pairs, tmp_path/'cache', flip=flip, dtype=torch.float32)
    side = 2  # pixels of a cell of the small autoencoder; 8 of the real one
    assert cache.shapes[0].shape == (4, 48//side, 64//side)
    with torch.no_grad(): fresh = model(pairs[1]['rgb'][None])
    kept = [x[None] for x in cache[1]['features']]
    with torch.no_grad(): assert torch.allclose(model(kept, size=(48, 64)), fresh, atol=1e-5)
    numbers = 4*(48//side)*(64//side)
    assert cache.bytes == 3*(1 + flip)*numbers*4
    assert feature_bytes(model, 1, (48, 64)) == numbers*2  # of half precision
    assert 4*(480//8)*(640//8)*2 == 38_400  # 38 kB a picture of 480x640 for the real one


def test_training_on_cached_latents_is_training(tmp_path):
    from toy import write_synthdepth

    from synthdepth.training import finetune, make_recipe
    folder = write_synthdepth(tmp_path/'toy', scenes=10, views=1, size=(32, 48))
    logs = []
    for cached in (False, 'float32'):
        recipe = make_recipe('corrected', epochs=2, batch_size=4, size=(32, 48), flip=False,
                             jitter=0., frozen='encoder', cache_features=cached, lr=1e-4)
        model = make('marigold-e2e', processing_resolution=0)
        logs.append(finetune(model, folder, recipe, tmp_path/f'run-{cached}', progress=False))
    a, b = (log.train_loss[1:].to_numpy() for log in logs)
    assert abs(a - b).max() < 1e-3*abs(a).max()


def test_adapters_need_attention(tmp_path):
    unet = dict(MARIGOLD['unet'], down_block_types=['DownBlock2D']*2,
                up_block_types=['UpBlock2D']*2, mid_block_type=None)
    with pytest.raises(ValueError, match='lora is 2, but its UNet2DConditionModel has no att') as e:
        make('marigold-e2e', unet=unet, lora=2)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('damage, says', [
    ('unet cut', 'damaged or cut short'), ('text cut', 'damaged or cut short'),
    ('pickle', r'its weights are a pickle \(diffusion_pytorch_model.bin\)'),
    ('no vae', 'it lacks vae'), ('other', 'holds a StableDiffusionPipeline, expected a Marigold'),
    ('empty', 'it lacks model_index.json, unet'), ('no config', 'damaged or cut short')])
def test_folders_that_cannot_be_opened(damage, says, tmp_path):
    import shutil
    folder = tmp_path/'x'
    make('marigold').save(folder)
    (folder/'model.json').unlink()
    file = folder/'unet'/'diffusion_pytorch_model.safetensors'
    if damage == 'unet cut': file.write_bytes(file.read_bytes()[:3000])
    if damage == 'text cut':
        (folder/'text_encoder'/'model.safetensors').write_bytes(b'x'*40)
    if damage == 'pickle': file.rename(file.with_suffix('.bin'))
    if damage == 'no vae': shutil.rmtree(folder/'vae')
    if damage == 'other':
        (folder/'model_index.json').write_text('{"_class_name": "StableDiffusionPipeline"}')
    if damage == 'empty':
        shutil.rmtree(folder)
        folder.mkdir()
    if damage == 'no config': (folder/'unet'/'config.json').unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=says) as e:
        create_model('marigold', folder, accept_licence=True)
    assert '\n' not in str(e.value) and str(folder) in str(e.value)


def test_licences_of_the_versions(tmp_path, monkeypatch, capsys):
    from synthdepth.models.hub import LicenceError, say_once
    monkeypatch.delenv('SYNTHDEPTH_ACCEPT_LICENCE', raising=False)
    say_once.cache_clear()
    first, second = (make('marigold').save(tmp_path/f'marigold-depth-v1-{k}') for k in (0, 1))
    for folder in (first, second): (folder/'model.json').unlink()
    with pytest.raises(LicenceError, match=r'OpenRAIL\+\+-M .*accept_licence=True'):
        create_model('marigold', second)
    model = create_model('marigold', second, accept_licence=True)
    assert model.origin['accept_licence'] and 'OpenRAIL' in model.origin['licence']
    assert load_model(model.save(tmp_path/'mine')).origin == model.origin
    assert create_model('marigold', first).origin['licence'] == 'Apache-2.0'
    assert len(capsys.readouterr().out.strip().splitlines()) == 2
