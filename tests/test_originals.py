"The authors' own files: small random networks under the authors' names, opened like theirs."
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_dpt import DEPTH_ANYTHING, make, smooth
from small import ROUTED, ZOEDEPTH
from test_models import pictures

from synthdepth.models import create_model, load_model

# What `transformers`' own converters say, from its names back to the authors'.
BEIT = [
    (r'^backbone\.encoder\.layer\.', 'core.core.pretrained.model.blocks.'),
    (r'^backbone\.embeddings\.patch_embeddings\.projection',
     'core.core.pretrained.model.patch_embed.proj'),
    (r'^backbone\.embeddings\.cls_token', 'core.core.pretrained.model.cls_token'),
    (r'layernorm_before', 'norm1'), (r'layernorm_after', 'norm2'),
    (r'attention\.output\.dense', 'attn.proj'), (r'intermediate\.dense', 'mlp.fc1'),
    (r'output\.dense', 'mlp.fc2'), (r'lambda_', 'gamma_'),
    (r'attention\.attention\.relative_position_bias\.', 'attn.'),
    (r'attention\.attention\.(query|key|value)', r'attn.\1')]
DECODER = [
    (r'^neck\.reassemble_stage\.readout_projects\.(\d)',
     lambda m: f'core.core.pretrained.act_postprocess{int(m[1]) + 1}.0.project'),
    (r'^neck\.reassemble_stage\.layers\.(\d)\.projection',
     lambda m: f'core.core.pretrained.act_postprocess{int(m[1]) + 1}.3'),
    (r'^neck\.reassemble_stage\.layers\.(\d)\.resize',
     lambda m: f'core.core.pretrained.act_postprocess{int(m[1]) + 1}.4'),
    (r'^neck\.convs\.(\d)', lambda m: f'core.core.scratch.layer{int(m[1]) + 1}_rn'),
    (r'^neck\.fusion_stage\.layers\.(\d)', lambda m: f'core.core.scratch.refinenet{4 - int(m[1])}'),
    (r'residual_layer(\d)\.convolution(\d)', r'resConfUnit\1.conv\2'),
    (r'(refinenet\d)\.projection', r'\1.out_conv'),
    (r'^relative_head\.conv(\d)', lambda m: f'core.core.scratch.output_conv.{2*int(m[1]) - 2}')]
HEAD = [
    (r'^metric_head\.', ''),
    (r'^((?:seed|projectors|attractors).*)\.conv(\d)', lambda m: f'{m[1]}._net.{2*int(m[2]) - 2}'),
    (r'mlp_classifier\.linear(\d)', lambda m: f'mlp_classifier.{2*int(m[1]) - 2}'),
    (r'transformer_encoder\.(\d)', r'transformer_encoder.layers.\1')]
ANYTHING = [
    (r'^backbone\.encoder\.layer\.', 'pretrained.blocks.'),
    (r'^backbone\.embeddings\.patch_embeddings\.projection', 'pretrained.patch_embed.proj'),
    (r'^backbone\.embeddings\.position_embeddings', 'pretrained.pos_embed'),
    (r'^backbone\.embeddings\.', 'pretrained.'), (r'^backbone\.layernorm', 'pretrained.norm'),
    (r'layer_scale(\d)\.lambda1', r'ls\1.gamma'), (r'attention\.output\.dense', 'attn.proj'),
    (r'attention\.attention\.', 'attn.'),
    (r'^neck\.reassemble_stage\.layers\.(\d)\.projection', r'depth_head.projects.\1'),
    (r'^neck\.reassemble_stage\.layers\.(\d)\.resize', r'depth_head.resize_layers.\1'),
    (r'^neck\.convs\.(\d)', lambda m: f'depth_head.scratch.layer{int(m[1]) + 1}_rn'),
    (r'^neck\.fusion_stage\.layers\.(\d)',
     lambda m: f'depth_head.scratch.refinenet{4 - int(m[1])}'),
    (r'residual_layer(\d)\.convolution(\d)', r'resConfUnit\1.conv\2'),
    (r'(refinenet\d)\.projection', r'\1.out_conv'),
    (r'^head\.conv1', 'depth_head.scratch.output_conv1'),
    (r'^head\.conv(\d)', lambda m: f'depth_head.scratch.output_conv2.{2*int(m[1]) - 4}')]


def back(state, rules):
    found = {}
    for key, x in state.items():
        for old, new in rules: key = re.sub(old, new, key)
        found[key] = x
    return found


def joined(state, joint):
    "Query, key and value of a layer as one tensor each."
    for key in [k for k in state if re.search(r'attn\.query\.(weight|bias)$', k)]:
        three = [state.pop(key.replace('query', part)) for part in ('query', 'key', 'value')]
        state[key.replace(*joint)] = torch.cat(three)
    return state


def zoe_file(name, folder, path, wrapped=True):
    "What a saved ZoeDepth is in the authors' file."
    state = back(load_file(folder/'model.safetensors'), [*BEIT, *DECODER, *HEAD])
    for key in [k for k in state if k.endswith('.attn.query.weight')]:
        layer = key.removesuffix('query.weight')
        three = [state.pop(f'{layer}{part}.weight') for part in ('query', 'key', 'value')]
        state[f'{layer}qkv.weight'] = torch.cat(three)
        for part in ('query', 'value'):
            state[f'{layer}{part[0]}_bias'] = state.pop(f'{layer}{part}.bias')
        state[f'{layer}relative_position_index'] = torch.zeros(3, 3, dtype=torch.int64)
    for key in [k for k in state if '.self_attn.query.' in k]:
        three = [state.pop(key.replace('query', part)) for part in ('query', 'key', 'value')]
        state[key.replace('query.', 'in_proj_')] = torch.cat(three)
    for end in ('fc_norm.weight', 'head.bias'):
        state[f'core.core.pretrained.model.{end}'] = torch.ones(4)
    log = 'conditional_log_binomial'
    for place in ([log] if name != 'zoedepth-nk' else [f'{log}.nyu', f'{log}.kitti']):
        state[f'{place}.log_binomial_transform.k_idx'] = torch.ones(1, 4, 1, 1)
        state[f'{place}.log_binomial_transform.K_minus_1'] = torch.ones(1, 1, 1, 1)
    torch.save(dict(model=state, optimizer=None, epoch=4) if wrapped else state, path)
    return state


ZOES = {'zoedepth-n': ZOEDEPTH, 'zoedepth-k': ZOEDEPTH,
        'zoedepth-nk': ROUTED}


def random_zoe(name):
    torch.manual_seed(0)
    model = create_model(name, 'none', **ZOES[name])
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1: p.normal_(std=2/p[0].numel()**.5)
    return model


@pytest.mark.parametrize('name', ZOES)
def test_zoedepth_of_its_authors(name, tmp_path):
    model, rgb = random_zoe(name), pictures(2, 96, 128)
    state = zoe_file(name, model.save(tmp_path/'hf'), tmp_path/'ZoeD_M12.pt')
    authors = {k.split('.')[0] for k in state}
    assert {'core', 'conv2', 'seed_projector', 'projectors', 'attractors'} <= authors
    assert 'core.core.pretrained.model.blocks.3.attn.qkv.weight' in state
    assert 'core.core.scratch.refinenet4.resConfUnit1.conv1.weight' in state
    again = create_model(name, tmp_path/'ZoeD_M12.pt', **ZOES[name])
    with torch.no_grad():
        assert torch.equal(again(rgb), model(rgb)) and model(rgb).std() > .01
        assert torch.equal(load_model(again.save(tmp_path/'saved'))(rgb), model(rgb))
    assert again.origin['source'] == 'ZoeD_M12.pt' and again.origin['licence'] == 'MIT'


def test_a_tensor_too_few_or_too_many_is_named(tmp_path):
    name, file = 'zoedepth-n', tmp_path/'ZoeD_M12_N.pt'
    state = zoe_file(name, random_zoe(name).save(tmp_path/'hf'), file, wrapped=False)
    lost = 'attractors.2._net.0.weight'
    torch.save({k: v for k, v in state.items() if k != lost}, file)
    with pytest.raises(ValueError, match='lacks 1 tensors, first metric_head.attractors.2.conv1'):
        create_model(name, file, **ZOEDEPTH)
    torch.save(state | {'core.prep.extra': torch.ones(1)}, file)
    with pytest.raises(ValueError, match='1 tensors that the model lacks, first core.prep.extra'):
        create_model(name, file, **ZOEDEPTH)
    torch.save(state | {lost: torch.ones(5, 16, 1, 1)}, file)
    with pytest.raises(ValueError, match='of other shapes') as e:
        create_model(name, file, **ZOEDEPTH)
    assert '\n' not in str(e.value)
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(ValueError, match='ZoeD_M12_N.pt is damaged or cut short'):
        create_model(name, file, **ZOEDEPTH)


def anything_file(folder, path):
    "What a saved Depth Anything is in its authors' file."
    state = joined(back(load_file(folder/'model.safetensors'), ANYTHING), ('query.', 'qkv.'))
    torch.save(state, path) if path.suffix == '.pth' else save_file(state, path)
    return state


@pytest.mark.parametrize('name, file', [
    ('depth-anything-v2-small', 'depth_anything_v2_vits.pth'),
    ('distill-any-depth-small', 'model.safetensors'),
    ('distill-any-depth-base', 'model.safetensors'),
    ('distill-any-depth-large', 'model.safetensors'),
    ('depth-anything-v2-small-metric-indoor', 'depth_anything_v2_metric_hypersim_vits.pth')])
def test_depth_anything_of_its_authors(name, file, tmp_path, capsys):
    model, rgb = make('depth-anything-v2-small'), smooth(53, 81, n=2)
    if 'metric' in name: model = make(name)
    (tmp_path/'theirs').mkdir()
    state = anything_file(model.save(tmp_path/'hf'), tmp_path/'theirs'/file)
    assert 'pretrained.blocks.3.attn.qkv.bias' in state
    assert 'depth_head.scratch.output_conv2.2.weight' in state
    again = create_model(name, tmp_path/'theirs'/file, size=(70, 70), **DEPTH_ANYTHING)
    with torch.no_grad():
        assert torch.equal(again(rgb), model(rgb)) and model(rgb).std() > 1e-4
        saved = load_model(again.save(tmp_path/'saved'))
        assert torch.equal(saved(rgb), model(rgb))
    assert saved.origin == again.origin and again.origin['source'] == file
    distilled = name in ('distill-any-depth-base', 'distill-any-depth-large')
    assert ('CC-BY-NC-4.0' in again.origin.get('licence_note', '')) == distilled


def test_blocks_in_chunks_and_a_lost_norm(tmp_path):
    "The large original keeps its blocks in chunks; the last norm is on the way to depth."
    model = make('depth-anything-v2-small')
    state = anything_file(model.save(tmp_path/'hf'), tmp_path/'x.safetensors')
    chunked = {re.sub(r'blocks\.(\d)', r'blocks.0.\1', k): v for k, v in state.items()}
    save_file(chunked, tmp_path/'x.safetensors')
    again = create_model('distill-any-depth-large', tmp_path/'x.safetensors', size=(70, 70),
                         **DEPTH_ANYTHING)
    with torch.no_grad(): assert torch.equal(again(smooth(48, 64)), model(smooth(48, 64)))
    del chunked['pretrained.norm.weight']
    save_file(chunked, tmp_path/'x.safetensors')
    with pytest.raises(ValueError, match='lacks 1 tensors, first backbone.layernorm.weight'):
        create_model('distill-any-depth-large', tmp_path/'x.safetensors', **DEPTH_ANYTHING)


def test_base_is_fetched_from_the_repository_of_originals(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match='xingyang1/Distill-Any-Depth base/model.safe') as e:
        create_model('distill-any-depth-base')
    assert '\n' not in str(e.value) and 'weights=DIR/base/model.safetensors' in str(e.value)
