import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors import SafetensorError
from toy import write_synthdepth

from synthdepth.data import open_data
from synthdepth.training import RECIPES, FinetuneError, list_checkpoints, finetune, make_recipe
from synthdepth.training import load_checkpoint, make_splits
from synthdepth.models import create_model, load_model
from synthdepth.runner import notebook_path

ROOT = Path(__file__).resolve().parents[1]
FINETUNE = str(notebook_path('finetune'))
QUICK = dict(epochs=3, batch_size=4, height=64, width=64, lr=1e-3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=10, views=2)


def fresh():
    torch.manual_seed(1)
    return create_model('tiny', 'none')


def name_of(run): return json.loads((run/'run.json').read_text())['name']


def weights_of(model): return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def test_published_recipe_has_the_published_values():
    r = RECIPES['published']
    assert (r.lr, r.weight_decay, r.batch_size, r.epochs) == (1e-4, 1e-4, 2, 20)
    assert (r.t_max, r.clip, r.patience) == (20, 1., 5)
    assert (r.select, r.split, r.size) == ('train', 'images', (256, 256))
    assert (r.variance_focus, r.precision) == (.15, 'fp16')


def test_learns_logs_and_leaves_a_complete_run_folder(folder, tmp_path):
    model = fresh()
    before = weights_of(model)
    log = finetune(model, folder, make_recipe('corrected', **QUICK), tmp_path/'run', progress=False)
    assert list(log.epoch) == [0, 1, 2, 3]
    assert log.valid_loss.iloc[-1] < log.valid_loss.iloc[0]
    assert not torch.equal(before, weights_of(model))
    about = json.loads((tmp_path/'run'/'run.json').read_text())
    assert about['asked']['recipe']['epochs'] == 3
    assert torch.__version__.startswith(about['versions']['torch'])
    splits = about['asked']['scenes']
    assert not set(splits['train']) & set(splits['test'])
    assert not set(splits['train']) & set(splits['valid'])
    again = load_model(tmp_path/'run'/'model')
    assert torch.equal(weights_of(again), weights_of(model))
    files = [p for p in (tmp_path/'run').rglob('*') if p.is_file()]
    assert [p.stat().st_size for p in files if p.name == '.lock'] == [0]
    suffixes = {p.suffix for p in files if p.name != '.lock'}
    assert suffixes <= {'.json', '.csv', '.safetensors'}, 'nothing that unpickles'


def test_best_weights_are_those_of_the_best_validation_epoch(folder, tmp_path):
    model = fresh()
    log = finetune(model, folder, make_recipe('corrected', **QUICK | dict(epochs=4, lr=3e-2)),
                   tmp_path/'run', progress=False)
    best = int(log[log.epoch > 0].set_index('epoch').valid_loss.idxmin())
    kept = fresh()
    load_checkpoint(next(p for p in list_checkpoints(tmp_path/'run')
                         if p.name == f'epoch_{best:03d}'), kept, run=name_of(tmp_path/'run'))
    assert torch.equal(weights_of(kept), weights_of(model))


def test_early_stopping(folder, tmp_path):
    recipe = make_recipe('corrected', **QUICK | dict(epochs=9, lr=1e-9, patience=2))
    log = finetune(fresh(), folder, recipe, tmp_path/'run', progress=False)
    best = int(log[log.epoch > 0].set_index('epoch').valid_loss.idxmin())
    assert log.epoch.iloc[-1] == min(9, best + 2)


def test_resumed_run_is_bit_identical(folder, tmp_path):
    recipe = make_recipe('corrected', **QUICK)
    whole = fresh()
    finetune(whole, folder, recipe, tmp_path/'whole', progress=False)
    shutil.copytree(tmp_path/'whole', tmp_path/'part')
    for p in list_checkpoints(tmp_path/'part')[1:]: shutil.rmtree(p)
    shutil.rmtree(tmp_path/'part'/'model')
    resumed = fresh()
    finetune(resumed, folder, recipe, tmp_path/'part', progress=False)
    assert torch.equal(weights_of(resumed), weights_of(whole))


def test_killed_training_goes_on(folder, tmp_path):
    code = f'''
import torch
from synthdepth.training import finetune, make_recipe
from synthdepth.models import create_model
torch.manual_seed(1); torch.set_num_threads(1)
recipe = make_recipe('corrected', **{QUICK!r})
out = {str(tmp_path/"run")!r}
finetune(create_model('tiny', 'none'), {str(folder)!r}, recipe, out, progress=False)
'''
    (tmp_path/'go.py').write_text(code)
    run = [sys.executable, tmp_path/'go.py']
    for n in (1, 2):
        p = subprocess.Popen(run)
        while p.poll() is None and len(list_checkpoints(tmp_path/'run')) < n: time.sleep(.02)
        p.send_signal(signal.SIGKILL)
        p.wait()
    subprocess.run(run, check=True)
    kept, left = load_model(tmp_path/'run'), load_model(tmp_path/'run'/'model')
    assert kept.state_dict().keys() == left.state_dict().keys()
    assert not [p for p in (tmp_path/'run').rglob('*.part')]


def test_damaged_checkpoint_is_passed_over(folder, tmp_path, capsys):
    recipe = make_recipe('corrected', **QUICK)
    finetune(fresh(), folder, recipe, tmp_path/'run', progress=False)
    shutil.rmtree(tmp_path/'run'/'model')
    last = list_checkpoints(tmp_path/'run')[-1]
    data = (last/'model.safetensors').read_bytes()
    (last/'model.safetensors').write_bytes(data[:len(data)//2])
    finetune(fresh(), folder, recipe, tmp_path/'run', progress=False)
    assert 'cannot be read' in capsys.readouterr().out


def test_run_of_another_recipe_is_refused(folder, tmp_path):
    finetune(fresh(), folder, make_recipe('corrected', **QUICK | dict(epochs=1)), tmp_path/'run',
             progress=False)
    with pytest.raises(FinetuneError, match='recipe.lr: 0.001 there, 0.5 asked for'):
        finetune(fresh(), folder, make_recipe('corrected', **QUICK | dict(epochs=1, lr=.5)),
                 tmp_path/'run', progress=False)


def test_frozen_encoder_does_not_move(folder, tmp_path):
    model = fresh()
    groups = {k: [p.detach().clone() for p in v] for k, v in model.parameter_groups().items()}
    finetune(model, folder, make_recipe('corrected', **QUICK | dict(epochs=1, frozen='encoder')),
             tmp_path/'run', progress=False)
    for name, params in model.parameter_groups().items():
        same = all(torch.equal(a, b) for a, b in zip(groups[name], params))
        assert same == name.startswith('encoder'), name


def test_everything_frozen_is_an_error(folder, tmp_path):
    with pytest.raises(FinetuneError, match='nothing to train'):
        finetune(fresh(), folder, make_recipe('corrected', **QUICK | dict(frozen='all')),
                 tmp_path/'run', progress=False)


def test_unknown_group_is_an_error(folder, tmp_path):
    with pytest.raises(ValueError, match='backbone'):
        finetune(fresh(), folder, make_recipe('corrected', **QUICK | dict(frozen='backbone')),
                 tmp_path/'run', progress=False)


def test_steps_that_are_not_finite_end_the_run(folder, tmp_path, monkeypatch):
    import synthdepth.training.steps as module
    monkeypatch.setattr(module, 'weighted_loss', lambda pred, *args: pred.mean()*np.nan)
    with pytest.raises(FinetuneError, match='not finite|finite loss'):
        finetune(fresh(), folder, make_recipe('corrected', **QUICK | dict(batch_size=1)),
                 tmp_path/'run', progress=False)


def test_weights_that_do_not_change_are_an_error(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, 'step', lambda self, *args, **kw: None)
    with pytest.raises(FinetuneError, match='did not change'):
        finetune(fresh(), folder, make_recipe('corrected', **QUICK | dict(epochs=1)),
                 tmp_path/'run', progress=False)


def test_full_disk_keeps_the_previous_checkpoint(folder, tmp_path, monkeypatch):
    import synthdepth.training.checkpoints as module
    real, calls = module.save_file, []
    def full(*args, **kw):
        calls.append(1)
        if len(calls) > 3: raise SafetensorError('No space left on device')
        return real(*args, **kw)
    monkeypatch.setattr(module, 'save_file', full)
    with pytest.raises(FinetuneError, match='No space left on device; the previous one is kept'):
        finetune(fresh(), folder, make_recipe('corrected', **QUICK), tmp_path/'run', progress=False)
    assert [p.name for p in list_checkpoints(tmp_path/'run')] == ['epoch_001']


def test_published_split_is_over_images(folder):
    data = open_data(folder)
    assert len(make_splits(data, RECIPES['published'])['train']) == 16
    by_scene = make_splits(data, RECIPES['corrected'])
    assert not set(by_scene['train'].scenes) & set(by_scene['test'].scenes)
    assert replace(RECIPES['corrected'], split='images').split == 'images'


def papermill(tmp_path, *parameters):
    "papermill on the training notebook, as the README says."
    command = [sys.executable, '-m', 'papermill', FINETUNE, str(tmp_path/'out.ipynb'), '-k',
               'python3',
               '--no-progress-bar', *parameters]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | dict(OMP_NUM_THREADS='1'))


def test_headless_run(folder, tmp_path):
    p = papermill(tmp_path, '-p', 'recipe', 'corrected', '-p', 'data', str(folder), '-p', 'model',
                  'tiny', '-p', 'epochs', '1',
                  '-p', 'height', '64', '-p', 'width', '64', '-p', 'out', str(tmp_path/'run'))
    assert p.returncode == 0, p.stderr[-2000:]
    assert 'unknown parameter' not in p.stderr
    assert load_model(tmp_path/'run'/'model') and (tmp_path/'run'/'loss.png').stat().st_size > 1000


def test_every_hyper_parameter_is_a_parameter_of_the_notebook():
    "papermill warns of those that are not in the cell, and a reader would not know of them."
    from papermill import inspect_notebook
    from synthdepth.training import RUN, Recipe
    hyper = {f.name for f in fields(Recipe)} - {'name'} | {'height', 'width'}
    assert set(inspect_notebook(FINETUNE)) == hyper | set(RUN)


def test_size_is_height_and_width():
    assert make_recipe('corrected', size=[48, 64]).size == (48, 64)
    assert make_recipe('corrected', size=[48, 64], width=96).size == (48, 96)
    with pytest.raises(FinetuneError, match='unknown parameter sizes'):
        make_recipe('corrected', sizes=None)


@pytest.mark.parametrize('parameters, message', [
    (['-p', 'learning_rate', '0.1'], 'unknown parameter learning_rate'),
    (['-p', 'recipe', 'perfect'], 'unknown recipe'),
    (['-p', 'model', 'gpt'], "no model 'gpt'"),
    (['-p', 'data', '/nowhere/at/all'], 'no dataset folder at /nowhere/at/all')])
def test_headless_mistakes(tmp_path, parameters, message):
    p = papermill(tmp_path, *parameters)
    assert p.returncode != 0
    last = [x for x in p.stderr.strip().splitlines() if x][-1]
    assert last.startswith('FinetuneError: ') and message in last


def test_finetuned_zoedepth_opens_in_the_transformers_pipeline(folder, tmp_path):
    from test_models import as_batch, make, photo
    from transformers import pipeline
    model = make('zoedepth')
    model.processor.size = dict(height=96, width=128)
    finetune(model, folder,
             make_recipe('corrected', epochs=2, batch_size=4, height=64, width=64, lr=1e-4),
             tmp_path/'run',
             progress=False)
    image = photo(48, 64)
    theirs = pipeline('depth-estimation',
                      model=str(tmp_path/'run'/'model'))(image)['predicted_depth'].squeeze()
    with torch.no_grad(): ours = load_model(tmp_path/'run'/'model')(as_batch(image))[0]
    assert torch.allclose(ours, theirs, rtol=1e-3)


def toy_run(folder, out, **options):
    from bench_resume import toy  # noqa: F401  registers the model 'toy'
    model = create_model('toy', dropout=0.)
    recipe = make_recipe('corrected',
                         **dict(epochs=2, batch_size=4, height=48, width=64, lr=3e-3) | options)
    return finetune(model, folder, recipe, out, progress=False), model


def test_precision_follows_the_card(monkeypatch):
    from synthdepth.training import choose_precision
    assert [choose_precision(p) for p in ('auto', 'fp32', 'fp16', 'bf16')] == ['no', 'no', 'no',
                                                                               'bf16']
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for capability, expected in {(7, 0): 'fp16', (7, 5): 'fp16', (8, 0): 'bf16',
                                 (9, 0): 'bf16'}.items():
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda c=capability: c)
        assert choose_precision() == expected
        assert choose_precision('fp32') == 'no'
        assert choose_precision('fp16') == 'fp16'


def test_losses_are_float32_whatever_the_precision(folder, tmp_path, monkeypatch):
    import synthdepth.training.steps as module
    real, seen = module.weighted_loss, set()
    def loss(pred, *args):
        seen.add(pred.dtype)
        return real(pred, *args)
    monkeypatch.setattr(module, 'weighted_loss', loss)
    log, _ = toy_run(folder, tmp_path/'run', precision='bf16')
    assert seen == {torch.float32}
    assert json.loads((tmp_path/'run'/'run.json').read_text())['precision'] == 'bf16'
    plain, _ = toy_run(folder, tmp_path/'plain')
    a, b = log.train_loss[1:], plain.train_loss[1:]
    assert not np.array_equal(a, b) and np.allclose(a, b, rtol=.02)


def test_accumulated_gradient_is_the_mean_over_the_parts(folder, tmp_path, monkeypatch):
    import synthdepth.training.finetuning as module
    from synthdepth.metrics import silog_loss
    real, seen = module.train_step, []
    def step(net, parts, optimizer, recipe, accelerator):
        if not seen:
            losses = [silog_loss(net(b['rgb']), b['depth'], b['valid'], recipe.variance_focus)
                      for b, *_ in parts]
            grads = torch.autograd.grad(sum(loss*n for loss, (*_, n) in zip(losses, parts))/4,
                                        list(net.parameters()))
            seen.append((len(parts), torch.cat([g.flatten() for g in grads])))
            out = real(net, parts, optimizer, recipe, accelerator)
            seen.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
            return out
        return real(net, parts, optimizer, recipe, accelerator)
    monkeypatch.setattr(module, 'train_step', step)
    toy_run(folder, tmp_path/'run', accumulate=2, clip=1e9, epochs=1)
    (parts, expected), found = seen
    assert parts == 2 and torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_gradual_unfreezing(folder, tmp_path):
    model = fresh()
    start = {k: [p.detach().clone() for p in v] for k, v in model.parameter_groups().items()}
    n = len(start) - 1
    recipe = make_recipe('corrected', **QUICK | dict(frozen='encoder', unfreeze=[[2, 1], [3, 2]]))
    log = finetune(model, folder, recipe, tmp_path/'run', progress=False)
    sizes = {k: sum(p.numel() for p in v) for k, v in start.items()}
    last_first = [sizes['decoder'], sizes[f'encoder.{n-1}'], sizes[f'encoder.{n-2}']]
    assert list(log.trainable[1:]) == list(np.cumsum(last_first))
    last = fresh()
    load_checkpoint(list_checkpoints(tmp_path/'run')[-1], last, run=name_of(tmp_path/'run'))
    moved = {k for k, v in last.parameter_groups().items()
             if not all(torch.equal(a, b) for a, b in zip(v, start[k]))}
    assert moved == {'decoder', f'encoder.{n-1}', f'encoder.{n-2}'}


@pytest.mark.parametrize('name', ['tiny', 'zoedepth', 'fastdepth'])
def test_schedules_of_every_model(name, folder):
    """Frozen, nothing frozen, gradual, layer-wise: one real step in each epoch moves what should
    move, also with checkpointing."""
    from test_features import make
    from synthdepth.models import unfreeze
    from synthdepth.training import apply_freezing, make_optimizer, recompute_activations
    from synthdepth.training import start_accelerator, train_step
    names = list(make(name).parameter_groups())
    n = sum(k.startswith('encoder') for k in names)
    rest = set(names[n:])
    assert rest == ({'neck', 'decoder'} if name == 'zoedepth' else {'decoder'})
    x = dict(rgb=torch.rand(2, 3, 64, 96), depth=torch.rand(2, 64, 96) + 1,
             valid=torch.ones(2, 64, 96, dtype=torch.bool))
    for changes, live in ((dict(frozen='encoder'), [set()]*3), (dict(), [set(range(n))]*3),
                          *([(dict(frozen='encoder,neck'), [set()]*3)] if 'neck' in rest else []),
                          (dict(frozen='encoder', unfreeze=[[2, 1], [3, 3]]),
                           [set(), {n-1}, {n-1, n-2, n-3}])):
        model = make(name)
        unfreeze(model)
        groups = model.parameter_groups()
        recipe = make_recipe('corrected', epochs=3, layer_decay=.5, **changes)
        optimizer = make_optimizer(model, recipe, torch.device('cpu'))
        accelerator = start_accelerator(recipe)
        recompute_activations(model, accelerator)
        trained = rest - set(recipe.frozen.split(','))
        assert len(optimizer.param_groups) == len(trained) + max(map(len, live))
        for epoch, layers in enumerate(live, 1):
            before = {k: [p.detach().clone() for p in ps] for k, ps in groups.items()}
            trainable = apply_freezing(model, recipe, epoch)
            expected = trained | {f'encoder.{i}' for i in layers}
            assert trainable == sum(p.numel() for k in expected for p in groups[k])
            assert train_step(model, [(x, [2], 2)], optimizer, recipe, accelerator)[1]
            moved = {k for k, ps in groups.items()
                     if not all(torch.equal(a, b) for a, b in zip(ps, before[k]))}
            assert moved == expected, (changes, epoch)


def test_layers_learn_at_their_own_rates(folder, tmp_path):
    finetune(fresh(), folder, make_recipe('corrected', **QUICK | dict(epochs=1, layer_decay=.5)),
             tmp_path/'run', progress=False)
    state = json.loads((list_checkpoints(tmp_path/'run')[-1]/'state.json').read_text())
    rates = [g['lr'] for g in state['groups']]
    assert rates == sorted(rates) and np.isclose(rates[-1]/rates[-2], 2) and rates[-1] == 1e-3


@pytest.mark.parametrize('name, changes',
                         [('tiny', dict(frozen='encoder')),
                          ('core', dict(frozen='encoder,neck', lr=1e-4))])
def test_features_computed_once_give_the_same_losses(name, changes, folder, tmp_path, monkeypatch):
    from test_features import make
    monkeypatch.setenv('SYNTHDEPTH_CACHE', str(tmp_path/'cache'))
    options = QUICK | dict(jitter=0.) | changes
    recipes = [make_recipe('corrected', **options, cache_features=kept) for kept in (False, True)]
    logs = [finetune(make(name), folder, r, tmp_path/f'run-{r.cache_features}', progress=False)
            for r in recipes]
    assert logs[0].train_loss[1:].nunique() == 3
    assert np.allclose(logs[0].train_loss[1:], logs[1].train_loss[1:], rtol=1e-3)
    assert np.allclose(logs[0].valid_loss, logs[1].valid_loss, rtol=1e-3)
    assert any((tmp_path/'cache').iterdir())


def test_features_that_lose_too_much_say_what_to_set(folder, tmp_path, monkeypatch):
    from synthdepth.models import Tiny
    monkeypatch.setenv('SYNTHDEPTH_CACHE', str(tmp_path/'cache'))
    encode = Tiny.encode
    monkeypatch.setattr(Tiny, 'encode', lambda self, rgb: [f*1e6 for f in encode(self, rgb)])
    options = QUICK | dict(frozen='encoder', jitter=0., epochs=1)
    with pytest.raises(FinetuneError,
                       match="lose too much as torch.float16; pass cache_features='float32'"):
        finetune(fresh(), folder, make_recipe('corrected', **options, cache_features=True),
                 tmp_path/'half', progress=False)
    recipe = make_recipe('corrected', **options, cache_features='float32')
    assert len(finetune(fresh(), folder, recipe, tmp_path/'single', progress=False)) == 2


def test_activations_computed_twice_change_nothing(folder, tmp_path):
    logs, models = [], [fresh() for _ in range(2)]
    for model, c in zip(models, (False, True)):
        recipe = make_recipe('corrected', **QUICK | dict(epochs=1, checkpointing=c))
        logs.append(finetune(model, folder, recipe, tmp_path/f'run{c}', progress=False))
    assert np.allclose(logs[0].train_loss[1:], logs[1].train_loss[1:], rtol=1e-5)
    same = np.allclose(logs[0].valid_loss, logs[1].valid_loss, rtol=1e-5)
    assert same, 'statistics of batch normalisation counted twice'
    for a, b in zip(models[0].buffers(), models[1].buffers()):
        assert torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-6)
    assert all('forward' not in vars(m)
               for m in toy_run(folder, tmp_path/'toy', checkpointing=True)[1].modules())


def test_memory_layout_changes_nothing(folder, tmp_path):
    logs = [toy_run(folder, tmp_path/f'run{c}', channels_last=c)[0] for c in (False, True)]
    assert np.allclose(logs[0].train_loss[1:], logs[1].train_loss[1:], rtol=1e-4)


@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')),
                    reason='torch.compile needs a C++ compiler')
def test_compiled_model_learns_the_same(folder, tmp_path):
    logs, models = zip(*(toy_run(folder, tmp_path/f'run{c}', compile=c) for c in (False, True)))
    assert np.allclose(logs[0].train_loss[1:], logs[1].train_loss[1:], rtol=1e-3)
    assert models[1]._compiled_call_impl is None


def test_batch_size_found_once(folder, tmp_path, monkeypatch):
    import synthdepth.training.memory as module
    monkeypatch.setattr(module, 'largest_batch', lambda *args: 5)
    log, _ = toy_run(folder, tmp_path/'run', batch_size='auto', epochs=1)
    assert json.loads((tmp_path/'run'/'run.json').read_text())['batch_size'] == 5
    assert log.steps.iloc[-1] == 4
    shutil.rmtree(tmp_path/'run'/'model')
    monkeypatch.setattr(module, 'largest_batch', lambda *args: 3)
    toy_run(folder, tmp_path/'run', batch_size='auto', epochs=1)
    assert json.loads((tmp_path/'run'/'run.json').read_text())['batch_size'] == 5


def test_every_picture_varies_by_itself(folder, tmp_path):
    logs = [toy_run(folder, tmp_path/f'{n}', crop=crop, hue=.1, gamma=.1)[0]
            for n, crop in enumerate((.6, .6, 1.))]
    assert logs[0].train_loss[1:].equals(logs[1].train_loss[1:])
    assert not logs[0].train_loss[1:].equals(logs[2].train_loss[1:])


def test_run_begun_before_a_new_option_existed_goes_on(folder, tmp_path):
    toy_run(folder, tmp_path/'run')
    file = tmp_path/'run'/'run.json'
    about = json.loads(file.read_text())
    del about['asked']['recipe']['crop'], about['asked']['recipe']['compile']
    file.write_text(json.dumps(about))
    assert len(toy_run(folder, tmp_path/'run')[0]) == 3
    with pytest.raises(FinetuneError, match='recipe.crop: 1.0 there, 0.5 asked for'):
        toy_run(folder, tmp_path/'run', crop=.5)


def test_tensorboard_is_optional(folder, tmp_path):
    from importlib.util import find_spec
    recipe = make_recipe('corrected', **QUICK | dict(epochs=1))
    def go(): finetune(fresh(), folder, recipe, tmp_path/'run', progress=False, tensorboard=True)
    if not find_spec('tensorboard'):
        with pytest.raises(FinetuneError, match='not installed: pip install tensorboard'): go()
    else:
        go()
        assert list((tmp_path/'run'/'tensorboard').iterdir())


def test_few_bad_steps_are_counted_and_skipped(folder, tmp_path, monkeypatch):
    import synthdepth.training.steps as module
    real, calls = module.weighted_loss, []
    def loss(*args):
        calls.append(1)
        return real(*args)*(np.nan if len(calls) == 3 else 1)
    monkeypatch.setattr(module, 'weighted_loss', loss)
    log, model = toy_run(folder, tmp_path/'run')
    assert list(log.skipped[1:]) == [1, 0] and list(log.nonfinite[1:]) == [1, 0]
    assert np.isfinite(log.train_loss[1:]).all() and torch.isfinite(weights_of(model)).all()


def test_batch_size_by_the_memory_that_is_free(folder, tmp_path, monkeypatch):
    import synthdepth.training.memory as module
    from synthdepth.training import start_accelerator
    recipe = make_recipe('corrected', height=64, width=96, batch_size='auto')
    accelerator, model = start_accelerator(recipe), fresh()
    before = weights_of(model)
    picture = module.kept_bytes(lambda: model.train()(torch.rand(2, 3, 64, 96)))/2
    model.load_state_dict(fresh().state_dict())
    fixed = 3*sum(p.nbytes for p in model.parameters())
    def found(pictures):
        free = SimpleNamespace(available=fixed + 4*picture*pictures)
        monkeypatch.setattr(psutil, 'virtual_memory', lambda: free)
        return module.largest_batch(model, recipe, accelerator, 64)
    assert [found(n) for n in (.1, 1.1, 9.1, 1000)] == [1, 1, 9, 64]
    assert torch.equal(weights_of(model), before)
    assert all(p.grad is None for p in model.parameters())


HOLD = '''
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1] + '/.lock', os.O_RDWR), fcntl.LOCK_EX)
print('held', flush=True)
time.sleep(60)
'''


def test_a_second_process_is_refused(folder, tmp_path, monkeypatch):
    import synthdepth.training.opening as module
    toy_run(folder, tmp_path/'run')
    monkeypatch.setattr(module, 'LOCK_SECONDS', .3)
    command = [sys.executable, '-c', HOLD, tmp_path/'run']
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b'held\n'
    with pytest.raises(FinetuneError, match='another process is training into'):
        toy_run(folder, tmp_path/'run')
    holder.kill()
    holder.wait()
    assert len(toy_run(folder, tmp_path/'run')[0]) == 3


def test_killed_between_the_last_checkpoint_and_the_log(folder, tmp_path):
    log, _ = toy_run(folder, tmp_path/'run')
    shutil.rmtree(tmp_path/'run'/'model')
    (tmp_path/'run'/'log.csv').unlink()
    assert toy_run(folder, tmp_path/'run')[0].equals(log)


# The range: what lies beyond it is neither learnt from nor praised.

def write_far(out, scenes=10, factor=1., empty=lambda scene: False):
    "Rooms of 12 to 60 m, or a share of that; some captures without a surface."
    from PIL import Image
    folder = write_synthdepth(out, scenes=scenes, views=1)
    info = json.loads((folder/'dataset.json').read_text())
    info['depth']['metres_per_unit'] = 1/256
    (folder/'dataset.json').write_text(json.dumps(info))
    ramp = np.linspace(12, 60, 48*64).reshape(48, 64)*factor
    for i in range(scenes):
        depth = 0*ramp if empty(i) else ramp
        Image.fromarray((depth*256).round().astype(np.uint16)).save(
            folder/f'depth/depth_{i:05d}.png')
    return folder


@pytest.mark.parametrize('factor, changes, message', [
    (1., {}, 'of the pixels with a depth lie at 10 m or beyond \\(max_depth\\)'),
    (.01, dict(min_depth=1.), 'lie at 1 m or nearer \\(min_depth\\)'),
    (0., {}, 'no pixel has a depth')])
def test_a_split_without_a_usable_pixel_is_refused(tmp_path, factor, changes, message):
    folder = write_far(tmp_path/'far', factor=factor)
    refused = f'none of the 8 pictures of the train split.*{message}'
    with pytest.raises(FinetuneError, match=refused):
        toy_run(folder, tmp_path/'run', **changes)
    if factor != 1.: return
    log, _ = toy_run(folder, tmp_path/'run', max_depth=80., epochs=1)  # nothing was begun
    assert log.valid_loss.iloc[-1] > .011 and np.isfinite(log.abs_rel).all()


def test_a_test_split_without_a_usable_pixel_is_refused(tmp_path):
    splits = make_splits(write_far(tmp_path/'all', factor=.1), make_recipe())
    splits['test'] = open_data(write_far(tmp_path/'far'))
    with pytest.raises(FinetuneError, match='none of the 10 pictures of the test split'):
        toy_run(splits, tmp_path/'run')


def test_pictures_without_a_usable_pixel_do_not_count(tmp_path, capsys):
    "The same losses and scores as without them, and they are counted."
    folder = write_far(tmp_path/'some', scenes=20, factor=.1, empty=lambda i: i % 3 == 0)
    splits = make_splits(folder, make_recipe())
    splits['valid'] = open_data(folder).subset(range(4))
    good = {k: v.subset([i for i in range(len(v)) if v[i].valid.any()]) for k, v in splits.items()}
    from bench_resume import toy  # noqa: F401
    for n, accumulate in ((2, 1), (4, 2)):
        changes = dict(batch_size=n, accumulate=accumulate, height=48, width=64, lr=3e-3, epochs=2)
        logs = [finetune(create_model('toy', dropout=0.), s, make_recipe(**changes),
                         tmp_path/f'run{i}{n}', progress='lines')
                for i, s in enumerate((splits, good))]
        for column in ('train_loss', 'valid_loss', 'abs_rel', 'steps'):
            assert logs[0][column].equals(logs[1][column]), column
    left_out = len(splits['train']) - len(good['train'])
    assert left_out > 0 and list(logs[0].left_out[1:]) == [left_out]*2
    assert list(logs[0].excluded) == [2]*3 and list(logs[1].excluded) == [0]*3
    said = f'train: {left_out} of {len(splits["train"])} pictures have no pixel in the range'
    assert said in capsys.readouterr().out
    about = json.loads((tmp_path/'run02'/'run.json').read_text())
    assert about['pixels']['train'] == dict(pictures=len(good['train']), left_out=left_out,
                                            beyond=0., too_near=0.)


def test_the_share_beyond_the_range_is_said_and_recorded(tmp_path, capsys):
    folder = write_far(tmp_path/'most', factor=.5)  # 6 to 30 m, evenly
    from bench_resume import toy  # noqa: F401
    finetune(create_model('toy', dropout=0.), folder, make_recipe(height=48, width=64, epochs=1),
             tmp_path/'run', progress='lines')
    assert 'train: 83.3% of the pixels with a depth lie at 10 m or beyond (max_depth)' in \
        capsys.readouterr().out
    about = json.loads((tmp_path/'run'/'run.json').read_text())
    assert about['pixels']['valid']['beyond'] == pytest.approx(20/24, abs=1e-3)
    with pytest.warns(UserWarning, match='train: 83.3%'):
        toy_run(folder, tmp_path/'silent', epochs=1)


def test_a_crop_without_a_valid_pixel_has_no_loss():
    "Alone it is no step at all; beside others it changes nothing."
    from synthdepth.training import make_optimizer, start_accelerator, train_step
    from bench_resume import toy  # noqa: F401
    recipe = make_recipe(accumulate=2)
    accelerator, found = start_accelerator(recipe), []
    rgb, depth = torch.rand(2, 3, 32, 32), torch.rand(2, 32, 32) + 1
    seen = dict(rgb=rgb, depth=depth, valid=depth > 0)
    blind = dict(rgb=rgb, depth=depth, valid=depth > 9)
    for parts in ([seen], [seen, blind], [blind]):
        torch.manual_seed(0)
        model = create_model('toy', dropout=0.).train()
        optimizer = make_optimizer(model, recipe, torch.device('cpu'))
        before = [p.clone() for p in model.parameters()]
        step = train_step(model, [(x, [2], 2) for x in parts], optimizer, recipe, accelerator)
        found.append((step, all(map(torch.equal, before, model.parameters()))))
    (one, _), (two, _), (none, same) = found
    assert one == two and one[1:] == (True, 2)
    assert np.isnan(none[0]) and none[1:] == (False, 0) and same


@pytest.mark.parametrize('depth', [9., 24., 79.])
def test_validation_uses_the_range_of_the_recipe(tmp_path, depth):
    "Constants of 24 and 79 m once scored the same on 12 to 60 m, since both were clamped to 10 m."
    from synthdepth.training import start_accelerator
    from synthdepth.training.steps import validate
    truth = torch.linspace(12, 60, 48*64).view(1, 48, 64)
    batch = dict(rgb=torch.zeros(1, 3, 48, 64), depth=truth, valid=truth > 0)
    class Constant(torch.nn.Module):
        def forward(self, rgb): return torch.full_like(rgb[:, 0], depth)
    recipe = make_recipe(max_depth=80.)
    scores = validate(Constant(), [batch], recipe, start_accelerator(recipe))
    assert scores['abs_rel'] == pytest.approx(((truth - depth).abs()/truth).mean().item(), rel=1e-5)


def test_the_range_is_recorded_as_a_protocol(tmp_path):
    from synthdepth.metrics import PROTOCOLS, Protocol
    from synthdepth.training import recipe_protocol
    toy_run(write_far(tmp_path/'far'), tmp_path/'run', max_depth=80., epochs=1)
    about = json.loads((tmp_path/'run'/'run.json').read_text())
    protocol = Protocol.from_dict(about['protocol'])
    assert (protocol.min_depth, protocol.max_depth) == (.001, 80.)
    assert protocol == recipe_protocol(make_recipe(max_depth=80.))
    assert recipe_protocol(make_recipe()) == PROTOCOLS['metric']


# Parameters: honoured or refused.

WRONG = dict(
    lr='fast', weight_decay=-1, batch_size=2.5, accumulate=0, epochs='3', t_max=0, clip=0,
    patience=1.5, select='test', split='views', size=[64], min_depth=12., max_depth=-1,
    schedule='linear', warmup=-1, lr_scale=[['encoder', 0]], loss='huber', variance_focus=2,
    frozen=1, unfreeze=[3], layer_decay=0, flip='no', jitter=3,
    saturation=-1, resolution=0, noise=.6,
    hue=-1, gamma=-1, crop=0., precision='fp8', channels_last='False', compile='no',
    checkpointing=1, cache_features='half', max_skipped=7, seed=-1)


@pytest.mark.parametrize('name', sorted({f.name for f in fields(RECIPES['corrected'])} - {'name'}))
def test_no_value_of_a_recipe_is_taken_for_another(name):
    with pytest.raises(FinetuneError): make_recipe(**{name: WRONG[name]})


@pytest.mark.parametrize('wrong', [dict(keep=0), dict(workers=-1), dict(progress='no'),
                                   dict(minutes='ten'), dict(cache=True), dict(tensorboard='no')])
def test_no_option_of_a_run_is_taken_for_another(folder, tmp_path, wrong):
    with pytest.raises(FinetuneError, match=f'{next(iter(wrong))} is'):
        finetune(fresh(), folder, make_recipe(), tmp_path/'run', **dict(progress=False) | wrong)
    assert not (tmp_path/'run').exists()


def test_weights_beside_a_saved_model_are_refused(folder, tmp_path):
    from synthdepth.training import start_model
    fresh().save(tmp_path/'model')
    with pytest.raises(FinetuneError, match='with its own weights'):
        start_model(str(tmp_path/'model'), 'other.safetensors')


def test_an_unwritable_home_names_what_helps(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHDEPTH_CACHE', '/dev/null/cache')
    recipe = make_recipe('corrected', **QUICK | dict(frozen='encoder', jitter=0., epochs=1,
                                                     cache_features=True))
    with pytest.raises(FinetuneError, match='the parameter cache, or in SYNTHDEPTH_CACHE'):
        finetune(fresh(), folder, recipe, tmp_path/'run', progress=False)
