"Two processes on the CPU train as one does."
import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
import torch
from bench_losses import ACCELERATE, SCRIPT, TORCHRUN, launch
from bench_resume import toy  # noqa: F401  registers the model 'toy'
from toy import write_synthdepth

from synthdepth.training import list_checkpoints
from synthdepth.models import load_model
from synthdepth.runner import notebook_path

JOBS = dict(toy="('toy', 'none')|{}", accumulated="('toy', 'none')|dict(accumulate=3)",
            unfrozen="('toy', 'none')|dict(frozen='encoder', unfreeze=[[2, 1]], layer_decay=.7)",
            recomputed="('toy', 'none')|dict(checkpointing=True, epochs=2)",
            tiny="('tiny',)|dict(lr=1e-5, epochs=1)")


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The same jobs by one process and by two, on 18 training pictures: the last step of an epoch
    has 2, its second part 1."""
    place = tmp_path_factory.mktemp('runs')
    data = write_synthdepth(place/'set', scenes=11, views=2)
    (place/'train.py').write_text(SCRIPT)
    def jobs(n): return [o.replace('|', f'|{place/f"{job}-{n}"}|') for job, o in JOBS.items()]
    started = [launch(TORCHRUN if n > 1 else [], place/'train.py', data, *jobs(n)) for n in (1, 2)]
    assert [p.wait() for p in started] == [0, 0]
    return place


@pytest.mark.parametrize('job', JOBS)
def test_same_losses_and_weights(runs, job):
    logs = [pd.read_csv(runs/f'{job}-{n}'/'log.csv') for n in (1, 2)]
    assert json.loads((runs/f'{job}-2'/'run.json').read_text())['processes'] == 2
    # Pictures fill up parts that are too small; running variances feel that they are counted.
    borrowed = job == 'accumulated'
    for column in ('train_loss', 'valid_loss', 'abs_rel', 'rmse', 'trainable', 'steps'):
        assert np.allclose(*(log[column] for log in logs), rtol=1e-3 if borrowed else 1e-5,
                           equal_nan=True), column
    one, two = (load_model(runs/f'{job}-{n}'/'model').state_dict() for n in (1, 2))
    assert all(torch.allclose(one[k], two[k], rtol=1e-3, atol=1e-3 if borrowed else 1e-4)
               for k in one if 'num_batches' not in k)


def test_validation_before_training_is_the_same_number(runs):
    "No picture counts twice: before any step the two differ by nothing at all."
    first = [pd.read_csv(runs/f'toy-{n}'/'log.csv').iloc[0].drop('train_loss').dropna()
             for n in (1, 2)]
    assert len(first[0]) > 5 and first[0].equals(first[1])


def test_signal_to_two_processes_and_resume(runs, tmp_path):
    out = tmp_path/'run'
    job = f"('toy', 'none')|{out}|dict(epochs=20)"
    p = launch(TORCHRUN, runs/'train.py', runs/'set', job, stderr=subprocess.DEVNULL)
    while p.poll() is None and not list_checkpoints(out): time.sleep(.05)
    p.send_signal(signal.SIGTERM)
    assert p.wait(60) != 0
    said = json.loads((out/'status.json').read_text())
    assert said['state'] == 'interrupted' and said['message'].startswith('stopped by SIGTERM')
    whole = job.replace(str(out), str(tmp_path/'whole'))
    both = [launch(how, runs/'train.py', runs/'set', j)
            for how, j in ((ACCELERATE, job), (TORCHRUN, whole))]
    assert [p.wait() for p in both] == [0, 0]
    one, two = (load_model(x/'model').state_dict() for x in (out, tmp_path/'whole'))
    same = all(torch.equal(one[k], two[k]) for k in one)
    assert same, 'resumed in two processes, the weights are the same to the bit'


def weights_of(run): return load_model(run/'model').state_dict()


def test_resumed_after_a_block_has_thawed(runs, tmp_path):
    "What trains from the second epoch on is exchanged between processes, though frozen at first."
    script, out = tmp_path/'train.py', tmp_path/'run'
    script.write_text(SCRIPT.replace('minutes=0.', 'minutes=99.'))
    job = f"('toy', 'none')|{out}|dict(frozen='encoder', unfreeze=[[2, 1]], lr=3e-3)"
    assert launch(TORCHRUN, script, runs/'set', job).wait() == 0
    whole = weights_of(out)
    shutil.rmtree(out/'model')
    shutil.rmtree(out/'checkpoints'/'epoch_003')
    assert [p.name for p in list_checkpoints(out)] == ['epoch_002']
    assert launch(TORCHRUN, script, runs/'set', job).wait() == 0
    again = weights_of(out)
    assert all(torch.equal(whole[k], again[k]) for k in whole)


REFUSED = '''
import os, sys
from pathlib import Path
from bench_resume import toy
from synthdepth.training import FinetuneError, finetune, make_recipe
from synthdepth.models import create_model
data, out, said = sys.argv[1:]
recipe = make_recipe('corrected', batch_size=4, height=48, width=64, lr=.5)
try: finetune(create_model('toy', 'none'), data, recipe, out, progress=False)
except FinetuneError as e: Path(f'{said}-{os.environ["RANK"]}').write_text(f'{e}')
'''


def test_a_refusal_reaches_every_process(runs, tmp_path):
    script = tmp_path/'refused.py'
    script.write_text(REFUSED)
    p = launch(TORCHRUN, script, runs/'set', runs/'toy-2', tmp_path/'said')
    assert p.wait(300) == 0
    said = [(tmp_path/f'said-{rank}').read_text() for rank in (0, 1)]
    assert said[0] == said[1] and 'holds a run of another kind' in said[0]
    assert 'recipe.lr: 0.001 there, 0.5 asked for' in said[0]


def test_the_notebook_in_two_processes(tmp_path):
    """Without data: the first process renders, both train, and the record is read in both. The
    first one holds the run folder, and hands it to its kernel; each ends with 0."""
    quick = dict(out=tmp_path/'run', epochs=1, height=48, width=64, batch_size=4)
    options = [x for k, v in quick.items() for x in ('-p', k, v)]
    copy = tmp_path/'copy.ipynb'
    p = launch(TORCHRUN, '-m', 'synthdepth.runner', notebook_path('finetune'), copy,
               *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = p.communicate(timeout=600)
    assert p.returncode == 0, err[-3000:]
    assert 'on 2 cpu in fp32, from epoch 1, step 0' in out
    assert json.loads((tmp_path/'run'/'run.json').read_text())['processes'] == 2
