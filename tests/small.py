"Every registered model at the size of a thumb, with random weights, and its library's own road."
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForDepthEstimation

from synthdepth.models import DepthModel, create_model

BEIT = dict(model_type='beit', image_size=64, hidden_size=32, intermediate_size=64, patch_size=16,
            num_hidden_layers=4, num_attention_heads=4, use_relative_position_bias=True,
            reshape_hidden_states=False, out_features=['stage1', 'stage2', 'stage3', 'stage4'])
DINO = dict(model_type='dinov2', image_size=70, hidden_size=32, num_hidden_layers=4, patch_size=14,
            num_attention_heads=4, out_indices=[1, 2, 3, 4], reshape_hidden_states=False)
WIDTHS = dict(neck_hidden_sizes=[8, 16, 16, 32], fusion_hidden_size=16)
ZOEDEPTH = dict(backbone_config=BEIT | dict(image_size=384), bottleneck_features=16,
                bin_embedding_dim=16, num_relative_features=8, **WIDTHS)
ROUTED = ZOEDEPTH | dict(
    bottleneck_features=128, num_patch_transformer_layers=4, patch_transformer_hidden_size=128,
    patch_transformer_intermediate_size=32, patch_transformer_num_attention_heads=4,
    fusion_hidden_size=128)
TWO_HEADS = ROUTED | dict(
    bin_configurations=[dict(name='nyu', n_bins=64, min_depth=1e-3, max_depth=10.),
                        dict(name='kitti', n_bins=64, min_depth=1e-3, max_depth=80.)])
DEPTH_ANYTHING = dict(backbone_config=DINO, reassemble_hidden_size=32, **WIDTHS)
DPT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, image_size=64,
           num_attention_heads=4, backbone_out_indices=[0, 1, 2, 3], **WIDTHS)
BIT = dict(model_type='bit', global_padding='same', layer_type='bottleneck', depths=[1, 1, 1],
           out_features=['stage1', 'stage2', 'stage3'], embedding_dynamic_padding=True,
           hidden_sizes=[8, 16, 16], num_groups=2)
DPT_HYBRID = DPT | dict(backbone_config=BIT, backbone_featmap_shape=[1, 16, 4, 4], patch_size=16)
DPT_BEIT = dict(backbone_config=BEIT, **WIDTHS)
GLPN = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=8)
MARIGOLD = dict(
    processing_resolution=64,
    unet=dict(block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4,
              cross_attention_dim=8, attention_head_dim=4,
              down_block_types=['CrossAttnDownBlock2D', 'DownBlock2D'],
              up_block_types=['UpBlock2D', 'CrossAttnUpBlock2D']),
    vae=dict(block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4,
             down_block_types=['DownEncoderBlock2D']*2, up_block_types=['UpDecoderBlock2D']*2),
    text=dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
              vocab_size=8, eos_token_id=1, bos_token_id=0))
TOWER = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             initializer_factor=3.)
CLIP = dict(text_config=TOWER, vision_config=dict(TOWER, image_size=64, patch_size=8),
            projection_dim=24)
VIT = dict(model_type='dinov2', image_size=32, patch_size=2, hidden_size=16, num_hidden_layers=2,
           num_attention_heads=2, use_mask_token=False)
DEPTH_PRO = dict(patch_size=32, merge_padding_value=2, image_model_config=VIT,
                 patch_model_config=VIT, fov_model_config=VIT, fusion_hidden_size=8,
                 num_fov_head_layers=1, intermediate_hook_ids=[1, 0],
                 intermediate_feature_dims=[8, 8], scaled_images_feature_dims=[16, 8, 8])
LEVELS = dict(dim_in=[8]*5, dim_res_blocks=[8]*5)
MOGE = dict(
    encoder=dict(backbone='', intermediate_layers=2, dim_out=8),
    neck=dict(dim_in=[10, 2, 2, 2, 2], dim_res_blocks=[8]*5, dim_out=None),
    points_head=LEVELS | dict(dim_out=[None]*4 + [3]),
    mask_head=LEVELS | dict(dim_out=[None]*4 + [1]),
    normal_head=LEVELS | dict(dim_out=[None]*4 + [3]), scale_head=dict(dims=[16, 1]))
HYBRID = dict(size=(48, 64), widths=(8, 8, 8), prior_config=dict(size=(64, 96)))

_OWN, _SQUARE = dict(size=(70, 70)), dict(size=(64, 64))
SMALL = {  # the beginning of a name -> settings; the longest beginning counts
    'tiny': dict(size=(96, 128)), 'fastdepth': {}, 'zoedepth': ZOEDEPTH, 'zoedepth-nk': ROUTED,
    'depth-anything': DEPTH_ANYTHING | _OWN, 'distill-any-depth': DEPTH_ANYTHING | _OWN,
    'dpt': DPT | _SQUARE, 'dpt-beit': DPT_BEIT | _SQUARE, 'dpt-hybrid': DPT_HYBRID | _SQUARE,
    'glpn': GLPN, 'marigold': MARIGOLD, 'hybriddepth': HYBRID, 'clip-depth': dict(clip=CLIP),
    'depth-pro': DEPTH_PRO | dict(size=64), 'moge-2': MOGE | dict(tokens=12),
    'timm:': dict(size=(96, 128))}


def settings_of(name: str) -> dict:
    "What makes a registered model small."
    return SMALL[max((start for start in SMALL if name.startswith(start)), key=len)]


def small(name: str, **more) -> DepthModel:
    "Random weights, those of networks of attention stretched so that depth varies over a picture."
    torch.manual_seed(0)
    model = create_model(name, 'none', **settings_of(name) | more)
    if name.startswith('zoedepth'):
        model.processor.size = type(model.processor.size)(height=64, width=96)
    if name.startswith(('zoedepth', 'depth-anything', 'distill', 'dpt')):
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1: p.normal_(std=1/p[0].numel()**.5)
    return model


def library_road(model: DepthModel, folder: Path):
    "The same through transformers alone: saved, opened, processed and enlarged by the library."
    model.save(folder)
    net = AutoModelForDepthEstimation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def road(rgb: Tensor) -> Tensor:
        found, sizes = [], [tuple(rgb.shape[-2:])]*2
        for picture in rgb:
            inputs = processor(picture, do_rescale=False, return_tensors='pt')
            more = dict(source_sizes=sizes[:1]) if model.name.startswith('zoe') else {}
            out = net(**inputs)
            found += processor.post_process_depth_estimation(out, target_sizes=sizes[:1], **more)
        lowest = 1e-3 if model.predicts == 'metric' else 0.  # enlarged, theirs falls below
        return torch.stack([x['predicted_depth'].squeeze() for x in found]).clamp(min=lowest)
    return road


def damage(folder: Path, how: str, tensor: str):
    "Spoils a saved folder: 'truncated', 'pickle', 'renamed' (one tensor) or 'empty'."
    file = folder/'model.safetensors'
    if how == 'truncated': file.write_bytes(file.read_bytes()[:5000])
    if how == 'pickle':
        torch.save(load_file(file), folder/'pytorch_model.bin')
        file.unlink()
    if how == 'renamed':
        state = load_file(file)
        state[tensor.replace('weight', 'kernel')] = state.pop(tensor)
        save_file(state, file, metadata=dict(format='pt'))
    if how == 'empty':
        for p in folder.iterdir(): p.unlink()
