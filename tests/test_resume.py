import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_resume import toy  # noqa: F401  registers the model 'toy'
from toy import write_synthdepth

from synthdepth.signals import Interrupted, Watch
from synthdepth.training import FinetuneError, finetune, list_checkpoints
from synthdepth.training import make_recipe, read_state
from synthdepth.training.checkpoints import checkpoint_name, prune
from synthdepth.models import create_model

HERE = Path(__file__).parent
FAST = dict(epochs=4, batch_size=2, height=48, width=64, lr=3e-3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=10, views=2)


def train(folder, out, minutes=10., progress=False, **changes):
    model = create_model('toy')
    finetune(model, folder, make_recipe('corrected', **FAST | changes), out, progress=progress,
             minutes=minutes)
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory): return train(folder, tmp_path_factory.mktemp('whole')/'run')


def signal_after(n, number, monkeypatch):
    "Send this process a signal in the n-th optimiser step."
    import synthdepth.training.finetuning as module
    real, calls = module.train_step, []
    def step(*args):
        calls.append(1)
        if len(calls) == n: os.kill(os.getpid(), number)
        return real(*args)
    monkeypatch.setattr(module, 'train_step', step)


def test_twenty_kills_change_nothing(tmp_path):
    env = os.environ | dict(OMP_NUM_THREADS='1')
    subprocess.run([sys.executable, HERE/'bench_resume.py', '20', tmp_path/'rows.json'], check=True,
                   env=env)
    rows = json.loads((tmp_path/'rows.json').read_text())
    assert len(rows['run']) == 20 and all(rows['same_weights']) and all(rows['same_log'])
    within = sum('step' in name for name in rows['found'])
    assert within >= 3, 'most kills should find a checkpoint within an epoch'


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGUSR2'])
def test_signal_writes_a_checkpoint_and_stops(folder, tmp_path, monkeypatch, whole, name):
    before = signal.getsignal(getattr(signal, name))
    with monkeypatch.context() as m:
        signal_after(11, getattr(signal, name), m)
        with pytest.raises(Interrupted, match=f'stopped by {name} in epoch 2, step 3'):
            train(folder, tmp_path/'run')
    assert signal.getsignal(getattr(signal, name)) is before
    assert [p.name for p in list_checkpoints(tmp_path/'run')] == ['epoch_001',
                                                                  'epoch_001_step_000003']
    assert json.loads((tmp_path/'run'/'status.json').read_text())['state'] == 'interrupted'
    assert torch.equal(train(folder, tmp_path/'run'), whole)


def test_the_status_says_job_and_starts(folder, tmp_path, monkeypatch):
    def said():
        status = json.loads((tmp_path/'run'/'status.json').read_text())
        return status['state'], status['job'], status['starts']
    monkeypatch.delenv('SLURM_JOB_ID', raising=False)
    for n, job in enumerate((None, '15', '12_3'), 1):
        if n == 2: monkeypatch.setenv('SLURM_JOB_ID', '15')
        if n == 3:
            monkeypatch.setenv('SLURM_ARRAY_JOB_ID', '12')
            monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '3')
        with monkeypatch.context() as m:
            signal_after(3, signal.SIGTERM, m)
            with pytest.raises(Interrupted): train(folder, tmp_path/'run')
        assert said() == ('interrupted', job, n)
    train(folder, tmp_path/'run')
    assert said() == ('finished', '12_3', 4)


def test_signal_while_validating_loses_no_step(folder, tmp_path, monkeypatch, whole):
    import synthdepth.training.steps as module
    real, calls = module.evaluate_batch, []
    def score(*args):
        calls.append(1)
        if len(calls) == 2: os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)
    with monkeypatch.context() as m:
        m.setattr(module, 'evaluate_batch', score)
        with pytest.raises(Interrupted): train(folder, tmp_path/'run')
    assert [p.name for p in list_checkpoints(tmp_path/'run')] == ['epoch_000_step_000008']
    assert torch.equal(train(folder, tmp_path/'run'), whole)


def test_accumulated_and_scheduled_runs_resume_too(folder, tmp_path, monkeypatch):
    options = dict(accumulate=2, frozen='encoder', unfreeze=[[2, 1]], layer_decay=.5)
    expected = train(folder, tmp_path/'whole', **options)
    with monkeypatch.context() as m:
        signal_after(19, signal.SIGTERM, m)
        with pytest.raises(Interrupted): train(folder, tmp_path/'run', **options)
    assert torch.equal(train(folder, tmp_path/'run', **options), expected)


def test_checkpoints_by_the_clock_do_not_pile_up(folder, tmp_path):
    train(folder, tmp_path/'run', minutes=0.)
    names = [p.name for p in list_checkpoints(tmp_path/'run')]
    assert names[-2:] == ['epoch_003', 'epoch_004'] and len(names) <= 3


@pytest.mark.parametrize('keep', [1, 2, 3])
def test_within_an_epoch_the_last_two_checkpoints_take_the_place_of_the_oldest(tmp_path, keep):
    written = [checkpoint_name(epoch, step) for epoch in range(5) for step in (0, 10, 20, 30)][1:]
    for name in written:
        (tmp_path/'checkpoints'/name).mkdir(parents=True)
        (tmp_path/'checkpoints'/name/'state.json').touch()
        prune(tmp_path, name, keep, best='epoch_001')
        if name == 'epoch_004_step_000020': within = [p.name for p in list_checkpoints(tmp_path)]
        if name == 'epoch_004': after = [p.name for p in list_checkpoints(tmp_path)]
    assert after == ['epoch_001', *[f'epoch_{n:03d}' for n in range(5 - keep, 5) if n > 1]]
    steps = ['epoch_004_step_000010', 'epoch_004_step_000020'][-keep:]
    assert within == ['epoch_001', *[f'epoch_{n:03d}' for n in range(6 - keep, 5)], *steps]


def damage(folder, tmp_path, spoil):
    "Spoil the latest of two checkpoints of a run that did not end."
    train(folder, tmp_path/'run')
    shutil.rmtree(tmp_path/'run'/'model')
    spoil(list_checkpoints(tmp_path/'run')[-1])


@pytest.mark.parametrize('file',
                         ['model.safetensors', 'optimizer.safetensors', 'random.safetensors',
                          'state.json'])
def test_truncated_checkpoint_is_passed_over(folder, tmp_path, capsys, whole, file):
    damage(folder, tmp_path, lambda p: (p/file).write_bytes((p/file).read_bytes()[:-20]))
    assert torch.equal(train(folder, tmp_path/'run'), whole)
    said = capsys.readouterr().out
    assert 'epoch_004 cannot be read' in said and 'trying the one before' in said


def test_foreign_checkpoint_is_passed_over(folder, tmp_path, capsys, whole):
    train(folder, tmp_path/'other', lr=.1)
    def swap(p):
        shutil.rmtree(p)
        shutil.copytree(list_checkpoints(tmp_path/'other')[-1], p)
    damage(folder, tmp_path, swap)
    assert torch.equal(train(folder, tmp_path/'run'), whole)
    assert 'epoch_004 belongs to another run' in capsys.readouterr().out


def test_no_usable_checkpoint_is_an_error_and_not_a_new_start(folder, tmp_path):
    train(folder, tmp_path/'run')
    shutil.rmtree(tmp_path/'run'/'model')
    for p in list_checkpoints(tmp_path/'run'): (p/'state.json').write_text('{')
    with pytest.raises(FinetuneError, match='none of the 2 checkpoints'):
        train(folder, tmp_path/'run')


def test_run_of_another_recipe_is_refused_half_way(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        signal_after(3, signal.SIGTERM, m)
        with pytest.raises(Interrupted): train(folder, tmp_path/'run')
    with pytest.raises(FinetuneError, match='recipe.accumulate: 1 there, 2 asked for'):
        train(folder, tmp_path/'run', accumulate=2)


def test_nothing_in_a_checkpoint_unpickles(folder, tmp_path):
    train(folder, tmp_path/'run')
    kept = list_checkpoints(tmp_path/'run')[-1]
    assert {p.suffix for p in kept.iterdir()} == {'.safetensors', '.json'}
    assert set(read_state(kept, json.loads((kept/'state.json').read_text())['run'])['files']) == {
        'model.safetensors', 'optimizer.safetensors', 'random.safetensors'}


def test_watch_in_a_thread_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []
    def work():
        with Watch() as watch: seen.append(watch.caught)
    t = threading.Thread(target=work)
    t.start()
    t.join()
    assert seen == [None] and signal.getsignal(signal.SIGTERM) is before


def test_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), Watch():
        for _ in range(2): os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_lines_for_a_log(folder, tmp_path, capsys):
    train(folder, tmp_path/'run', progress=1e-9)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('toy on 1 cpu in fp32, from epoch 1, step 0')
    assert any(x.startswith('epoch 2/4  loss ') and 'left' in x for x in lines)
    assert any(x.startswith('epoch 4 done  train_loss ') for x in lines)
    assert all(x.isprintable() for x in lines) and not np.any(['\r' in x for x in lines])


def test_a_run_whose_data_have_moved_goes_on(tmp_path, monkeypatch, whole):
    "Its data are known by what they show; the old place need not exist, the new one is recorded."
    old, new = write_synthdepth(tmp_path/'old'/'set', scenes=10, views=2), tmp_path/'new place'
    with monkeypatch.context() as m:
        signal_after(11, signal.SIGTERM, m)
        with pytest.raises(Interrupted): train(old, tmp_path/'run')
    old.rename(new)
    assert torch.equal(train(new, tmp_path/'run'), whole)
    about = json.loads((tmp_path/'run'/'run.json').read_text())
    assert set(about['asked']['data'].values()) == {str(new)}


def test_a_run_of_an_older_version_whose_data_have_moved_goes_on(tmp_path, monkeypatch, whole):
    "It has no fingerprint, and its checkpoints carry a name made of the old path, too."
    from synthdepth.training.record import run_name
    import synthdepth.training.record as record
    old, new = write_synthdepth(tmp_path/'old', scenes=10, views=2), tmp_path/'new'
    with monkeypatch.context() as m:
        def plain(asked):
            return {k: v for k, v in asked.items() if k not in ('fingerprint', 'unit')}
        real = record.run_name
        m.setattr(record, 'run_name', lambda asked: real(plain(asked)))
        signal_after(11, signal.SIGTERM, m)
        with pytest.raises(Interrupted): train(old, tmp_path/'run')
    file = tmp_path/'run'/'run.json'
    about = json.loads(file.read_text())
    about['asked'] = plain(about['asked'])
    assert about.pop('name') == run_name(about['asked'])
    file.write_text(json.dumps(about))
    old.rename(new)
    assert torch.equal(train(new, tmp_path/'run'), whole)


def test_other_data_of_the_same_names_are_refused(folder, tmp_path):
    "The same scenes by name, other pictures."
    train(folder, tmp_path/'run', epochs=1)
    other = write_synthdepth(tmp_path/'other', scenes=10, views=2, seed=1)
    for file in ('metadata.jsonl', 'dataset.json'):
        shutil.copy(folder/file, other/file)
    with pytest.raises(FinetuneError, match='fingerprint: .* there'):
        train(other, tmp_path/'run', epochs=1)
    about = json.loads((folder/'dataset.json').read_text())
    about['depth']['metres_per_unit'] = .002
    shutil.copytree(folder, tmp_path/'scaled')
    (tmp_path/'scaled'/'dataset.json').write_text(json.dumps(about))
    with pytest.raises(FinetuneError, match='unit: .*0.001 m.* there, .*0.002 m'):
        train(tmp_path/'scaled', tmp_path/'run', epochs=1)


def test_packed_data_are_the_same_data(folder, tmp_path):
    from synthdepth.data import open_data, pack_dataset
    from synthdepth.training import data_fingerprint
    packed = pack_dataset(folder, tmp_path/'packed')
    assert data_fingerprint(open_data(packed)) == data_fingerprint(open_data(folder))
