import pytest
import torch

pytest.importorskip('diffusers')
from diffusers import MarigoldDepthPipeline

from synthdepth.models import create_model, encoder_key, load_model, picture_noise
from synthdepth.models.features import frozen_stage

SMALL = dict(
    unet=dict(block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4,
              cross_attention_dim=8, attention_head_dim=4,
              down_block_types=['CrossAttnDownBlock2D', 'DownBlock2D'],
              up_block_types=['UpBlock2D', 'CrossAttnUpBlock2D']),
    vae=dict(block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4,
             down_block_types=['DownEncoderBlock2D']*2, up_block_types=['UpDecoderBlock2D']*2),
    text=dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
              vocab_size=8, eos_token_id=1, bos_token_id=0))
NAMES = 'marigold', 'marigold-e2e'


def make(name, **config):
    torch.manual_seed(0)
    return create_model(name, 'none', **{'processing_resolution': 32, **SMALL, **config})


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
