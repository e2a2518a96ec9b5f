"Features of a frozen encoder, kept on disk: the same losses as without, and never stale."
import pytest
import torch
from toy import write_synthdepth

import synthdepth.data.cache as cache
from synthdepth.data import CacheError, Pairs, loader, open_data
from synthdepth.models import FeatureCache, create_model, encoder_key, feature_bytes, feature_loader
from synthdepth.models import freeze, predict_batch, read_features, turn, unfreeze
from synthdepth.metrics import silog_loss

BEIT = dict(model_type='beit', image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32, out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
            use_relative_position_bias=True,
            drop_path_rate=.3, hidden_dropout_prob=.2)
ZOE = dict(backbone_config=BEIT, neck_hidden_sizes=[8, 16, 16, 32], fusion_hidden_size=16,
           bottleneck_features=16,
           num_relative_features=8, bin_embedding_dim=16, num_attractors=[4, 2, 2, 1],
           bin_configurations=[dict(n_bins=8, min_depth=.001, max_depth=10., name='nyu')])
# core: ZoeDepth with its neck frozen too
CONFIGS = dict(tiny={}, zoedepth=ZOE, core=ZOE, fastdepth={})


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    return Pairs(open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=4,
                                            views=2)), (64, 96), cache=True)


def make(name):
    torch.manual_seed(0)
    registered = 'zoedepth' if name == 'core' else name
    model = create_model('tiny') if name == 'tiny' else create_model(registered, 'none',
                                                                     **CONFIGS[name])
    if name == 'fastdepth': calibrate(model)
    if registered == 'zoedepth': model.processor.size = dict(height=64, width=96)
    if name == 'core': enliven(model)
    freeze(model, ['encoder', 'neck'] if name == 'core' else 'encoder')
    return model


@torch.no_grad()
def enliven(model):
    "Weights that keep the scale of what goes through, unlike transformers' random ones."
    for p in model.parameters():
        if p.ndim > 1: p.normal_(std=p[0].numel()**-.5)


def calibrate(model):
    "Running statistics of a picture, so that random weights give depths above 0 and finite."
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for m in norms: m.momentum = 1.
    with torch.no_grad(): model.train()(torch.rand(4, 3, 64, 96))
    for m in norms: m.momentum = .1
    torch.nn.init.constant_(model.last[1].bias, 2)
    model.eval()


each_model = pytest.mark.parametrize('name', CONFIGS)


def compare(build, dtype, pairs, folder, optimizer=torch.optim.AdamW, lr=1e-4):
    "Largest relative difference of the losses of three epochs with and without the cache."
    kept = FeatureCache(build(), pairs, folder, dtype=dtype, batch_size=3)
    curves = []
    for batches in (loader(pairs, batch_size=4, shuffle=True, seed=2),
                    feature_loader(kept, 4, shuffle=True, seed=2)):
        model, losses, indices = build().train(), [], []
        steps = optimizer([p for p in model.parameters() if p.requires_grad], lr)
        for _ in range(3):
            for batch in batches:
                loss = silog_loss(predict_batch(model, batch), batch['depth'], batch['valid'])
                steps.zero_grad()
                loss.backward()
                steps.step()
                losses.append(loss.item())
                indices += batch['index'].tolist()
        curves.append((torch.tensor(losses), indices))
    (plain, order), (cached, same) = curves
    assert order == same and len(set(plain.tolist())) > 3
    return (cached/plain - 1).abs().max()


@each_model
def test_losses_in_single_precision(name, pairs, tmp_path):
    assert compare(lambda: make(name), torch.float32, pairs, tmp_path) < 1e-5


def test_losses_are_those_without_the_cache(pairs, tmp_path):
    assert 0 < compare(lambda: make('tiny'), torch.float16, pairs, tmp_path) < 1e-3


def test_losses_of_a_zoedepth_with_lively_weights(pairs, tmp_path):
    def build():
        model = make('zoedepth')
        enliven(model)
        return model
    assert 0 < compare(build, torch.float16, pairs, tmp_path) < 1e-3


# AdamW's first steps take the sign of gradients near 0: it would measure that
SGD = dict(optimizer=torch.optim.SGD, lr=1e-6)


def test_losses_of_a_trained_fastdepth(real, pairs, tmp_path):
    def build():
        model = create_model('fastdepth', next((real/'fastdepth').glob('*.onnx')))
        freeze(model)
        return model
    assert 0 < compare(build, torch.float16, pairs, tmp_path, **SGD) < 1e-3


@each_model
def test_size_is_predicted(name, pairs, tmp_path):
    model = make(name)
    for flip in (False, True):
        kept = FeatureCache(model, pairs, tmp_path/str(flip), flip=flip)
        on_disk = sum(p.stat().st_size for p in (tmp_path/str(flip)).glob('*/*.npy'))
        assert kept.bytes == feature_bytes(model, len(pairs), (64, 96), flip=flip, stage=kept.stage)
        assert 0 <= on_disk - kept.bytes < 8*200


@each_model
def test_mirrored(name, pairs, tmp_path):
    model = make(name)
    kept = FeatureCache(model, pairs, tmp_path, flip=True, dtype=torch.float32)
    flips = torch.tensor([True, False, True])
    batch = next(iter(feature_loader(kept, 3, flips=lambda index: flips[index])))
    plain = turn(next(iter(loader(pairs, batch_size=3))), flips)
    with torch.no_grad():
        assert torch.allclose(predict_batch(model, batch), predict_batch(model, plain), rtol=1e-4,
                              atol=1e-5)
    assert all(torch.equal(batch[k], plain[k]) for k in ('depth', 'valid', 'intrinsics', 'index'))
    source = pairs[0]
    assert torch.equal(plain['rgb'][0], source['rgb'].flip(-1))
    assert plain['intrinsics'][0, 2] == 96 - source['intrinsics'][2]
    with pytest.raises(CacheError, match='flip=True'):
        read_features(FeatureCache(model, pairs, tmp_path), [0], torch.tensor([True]))


@each_model
def test_only_a_frozen_encoder(name, pairs, tmp_path):
    model = make(name)
    unfreeze(model, 'encoder.1')
    with pytest.raises(CacheError, match=r'trainable here: encoder\.1$'):
        FeatureCache(model, pairs, tmp_path)
    assert not list(tmp_path.iterdir())


def counted(monkeypatch, model):
    calls, encode = [], type(model).encode
    monkeypatch.setattr(type(model), 'encode',
                        lambda self, rgb: calls.append(len(rgb)) or encode(self, rgb))
    return calls


def test_made_once_and_whenever_something_changed(pairs, tmp_path, monkeypatch):
    model = make('tiny')
    calls = counted(monkeypatch, model)

    def computed(model=model, pairs=pairs, **options):
        before = sum(calls)
        FeatureCache(model, pairs, tmp_path, **options)
        return sum(calls) - before > 1  # one picture is always asked for its shapes
    assert computed() and not computed()
    with torch.no_grad(): model.decoder.lateral[0].weight.mul_(2)
    assert not computed()  # the decoder is not part of it
    assert computed(flip=True) and computed(dtype=torch.float32) and not computed()
    assert computed(pairs=Pairs(pairs.data, (64, 64), cache=True))
    assert computed(pairs=Pairs(pairs.data.subset([1, 2]), (64, 96), cache=True))
    weight = next(model.encoder.parameters())
    with torch.no_grad(): weight[0, 0, 0, 0] += 1e-3
    assert computed() and not computed()
    norms = [m for m in model.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    norms[0].running_var[0] *= 1.01
    assert computed() and not computed()


def test_a_frozen_neck_is_not_computed_again(pairs, tmp_path, monkeypatch):
    model = make('core')
    kept = FeatureCache(model, pairs, tmp_path, dtype=torch.float32)
    with torch.no_grad(): fresh = model(pairs[3]['rgb'][None])
    monkeypatch.setattr(type(model), 'neck', lambda *_: pytest.fail('the neck ran'))
    batch = next(iter(feature_loader(kept, 4)))
    assert kept.stage == 'neck' and 'features' not in batch
    assert len(batch['neck']) == len(kept[3]['neck']) == 7
    assert torch.allclose(predict_batch(model, batch)[3], fresh[0], rtol=1e-4)
    predict_batch(model, batch).mean().backward()
    trained = {name for name, params in model.parameter_groups().items()
               if any(p.grad is not None for p in params)}
    assert trained == {'decoder'}


def test_a_neck_is_kept_only_while_frozen(pairs, tmp_path):
    model = make('core')
    before = encoder_key(model, 'neck')
    with torch.no_grad(): model.net.neck.fusion_stage.layers[0].projection.bias += 1e-3
    assert encoder_key(model, 'neck') != before and encoder_key(model) == encoder_key(make('core'))
    assert FeatureCache(model, pairs, tmp_path).stage == 'neck'
    unfreeze(model, 'neck')
    assert FeatureCache(model, pairs, tmp_path).stage == 'encoder'
    model.train()
    encoder = [m for layer in model.encoder_layers() for m in layer]
    assert model.net.neck.training and not any(m.training for m in encoder)


def test_settings_are_part_of_the_key():
    model = make('zoedepth')
    before = encoder_key(model)
    model.processor.size = dict(height=96, width=96)
    assert encoder_key(model) != before
    before = encoder_key(model, 'neck')
    model.net.config.readout_type = 'ignore'  # neither a weight nor a module tells
    assert encoder_key(model, 'neck') != before


def test_training_mode_comes_back_and_dropout_is_off(pairs, tmp_path):
    model = make('zoedepth').train()
    kept = FeatureCache(model, pairs, tmp_path, dtype=torch.float32)
    assert model.training and model.net.neck.training
    with torch.no_grad(): fresh = model.encode(pairs[3]['rgb'][None])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5)
               for a, b in zip(read_features(kept, [3]), fresh))


@pytest.mark.parametrize('value', [1e5, 1e-8])
def test_too_large_or_small_for_half_precision(value, pairs, tmp_path):
    model = make('fastdepth')
    encode = model.encode
    model.encode = lambda rgb: [f*0 + value for f in encode(rgb)]
    message = f'up to {value:.3g} lose too much as torch.float16; pass dtype=torch.float32'
    with pytest.raises(CacheError, match=message.replace('+', '.')):
        FeatureCache(model, pairs, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(CacheError, match='bfloat16'):
        FeatureCache(model, pairs, tmp_path, dtype=torch.bfloat16)
    assert (read_features(FeatureCache(model, pairs, tmp_path, dtype=torch.float32), [1])[0]
            == torch.tensor(value)).all()


def test_no_room(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, 'SPARE', 10**18)
    with pytest.raises(CacheError, match='features of 8 captures of set needs'):
        FeatureCache(make('tiny'), pairs, tmp_path)


def test_pictures_need_not_be_cached(pairs, tmp_path):
    plain = Pairs(pairs.data, (64, 96))
    kept = FeatureCache(make('tiny'), plain, tmp_path)
    assert torch.equal(kept[2]['depth'], pairs[2]['depth']) and len(list(tmp_path.iterdir())) == 2
    assert torch.equal(kept[2]['features'][0], read_features(kept, [2])[0][0])


def test_a_model_takes_features_or_pictures(pairs):
    model, rgb = make('tiny'), pairs.__getitems__([0, 1])['rgb']
    with torch.no_grad():
        assert torch.equal(model(model.encode(rgb), size=(64, 96)), model(rgb))
        half = model([f.half() for f in model.encode(rgb)], size=(64, 96))
        assert (half/model(rgb) - 1).abs().max() < .02


def test_the_gpu_benchmark_runs(capsys):
    from bench_gpu import main
    main(dry=True)
    rows = [line.split('|') for line in capsys.readouterr().out.splitlines()
            if line.startswith('| 64')]
    assert [row[2].strip() for row in rows] == ['frozen', 'trained']
    assert all(float(row[4]) > 0 for row in rows)
