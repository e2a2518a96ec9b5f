"The mean of the last epochs' weights: the same however often a run was stopped; never of less."
import json
import shutil

import pytest
import torch
from bench_resume import toy  # noqa: F401  registers the model 'toy'
from safetensors.torch import load_file, save_file
from test_resume import FAST, signal_after
from toy import write_synthdepth

from synthdepth.models import create_model
from synthdepth.signals import Interrupted
from synthdepth.training import FinetuneError, average_checkpoints, finetune, last_epochs
from synthdepth.training import list_checkpoints, make_recipe, mean_state


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=10, views=2)


def train(folder, run, keep=3, minutes=10.):
    recipe = make_recipe('corrected', **FAST)
    finetune(create_model('toy'), folder, recipe, run, progress=False, keep=keep, minutes=minutes)


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
    train(folder, place := tmp_path_factory.mktemp('whole')/'run')
    return place


def test_it_is_the_mean_of_the_last(run):
    states = [load_file(run/'checkpoints'/f'epoch_00{n}'/'model.safetensors') for n in (2, 3, 4)]
    for key, x in average_checkpoints(run, last=3).state_dict().items():
        if not x.is_floating_point():
            assert torch.equal(x, states[-1][key])
            continue
        assert torch.allclose(x, sum(s[key].double() for s in states).float()/3, atol=1e-7), key
        assert x.dtype == states[0][key].dtype


def test_one_epoch_is_itself_and_the_run_stays_as_it_is(run):
    before = {p: p.stat().st_mtime_ns for p in run.rglob('*') if p.is_file()}
    state = average_checkpoints(run, last=1).state_dict()
    expected = load_file(run/'checkpoints'/'epoch_004'/'model.safetensors')
    assert all(torch.equal(state[key], x) for key, x in expected.items())
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob('*') if p.is_file()}


def test_a_run_that_was_stopped_often_has_the_same_mean(folder, tmp_path, monkeypatch, run):
    for n in (11, 5, 9, 3, 2):  # steps until the next signal; 32 in all
        with monkeypatch.context() as m:
            signal_after(n, 15, m)
            with pytest.raises(Interrupted): train(folder, tmp_path/'run', minutes=0.)
    train(folder, tmp_path/'run', minutes=0.)
    found, whole = (average_checkpoints(r, 3).state_dict() for r in (tmp_path/'run', run))
    assert all(torch.equal(found[key], x) for key, x in whole.items())


def test_running_statistics_and_counts(tmp_path):
    norm = dict(running_var=torch.tensor([1., 3.]), half=torch.tensor([1.], dtype=torch.float16),
                num_batches_tracked=torch.tensor(5))
    for k, name in enumerate(('a', 'b')):
        (tmp_path/name).mkdir()
        save_file({key: x + 4*k for key, x in norm.items()}, tmp_path/name/'model.safetensors')
        state = json.dumps(dict(run='', files={}))
        (tmp_path/name/'state.json').write_text(state)
    found = mean_state([tmp_path/'a', tmp_path/'b'])
    assert found['running_var'].tolist() == [3., 5.] and found['num_batches_tracked'] == 9
    assert found['half'] == 3 and found['half'].dtype == torch.float16


@pytest.mark.parametrize('last', [4, 5, 0])
def test_too_few_are_not_averaged(run, last):
    with pytest.raises(FinetuneError, match=f'epoch_002, epoch_003, .* the last {last} epochs'):
        average_checkpoints(run, last)


def test_an_old_best_epoch_is_none_of_the_last(run, tmp_path):
    shutil.copytree(run, tmp_path/'run')
    (tmp_path/'run/checkpoints/epoch_003').rename(tmp_path/'run/checkpoints/epoch_001')
    with pytest.raises(FinetuneError, match='expected those of the last 2 epochs'):
        last_epochs(tmp_path/'run', 2)


def test_a_damaged_checkpoint_and_an_unfinished_run_are_errors(run, tmp_path):
    shutil.copytree(run, tmp_path/'run')
    file = list_checkpoints(tmp_path/'run')[-2]/'model.safetensors'
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(FinetuneError, match='model.safetensors is damaged or cut short'):
        average_checkpoints(tmp_path/'run', 3)
    shutil.rmtree(tmp_path/'run'/'model')
    with pytest.raises(FinetuneError, match='found no finished run'):
        average_checkpoints(tmp_path/'run', 3)
