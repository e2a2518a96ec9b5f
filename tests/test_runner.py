import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import nbformat
import pytest
from toy import write_synthdepth

from synthdepth.training import Recipe, list_checkpoints, list_runs
from synthdepth.models import load_model
from synthdepth.runner import RESUME, notebook_path, parameters_of

ROOT = Path(__file__).resolve().parents[1]
FINETUNE = str(notebook_path('finetune'))
RECIPE = {f.name for f in fields(Recipe)} | {'height', 'width'}  # all are given to `make_recipe`


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=10, views=2)


def begin(notebook, copy, **parameters):
    command = [sys.executable, '-m', 'synthdepth.runner', str(notebook), str(copy)]
    for k, v in parameters.items(): command += ['-p', k, v if isinstance(v, str) else json.dumps(v)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True,
                            env=os.environ | dict(OMP_NUM_THREADS='1'))


def train(folder, tmp_path, epochs, **parameters):
    small = dict(model='tiny', height=64, width=64, batch_size=4, recipe='corrected', progress=.01,
                 minutes=0.)
    return begin(FINETUNE, tmp_path/'copy.ipynb', data=str(folder), out=str(tmp_path/'run'),
                 epochs=epochs,
                 **small | parameters)


def test_signal_leaves_checkpoint_and_notebook_and_asks_to_be_resumed(folder, tmp_path):
    p = train(folder, tmp_path, 30, patience=99)
    while p.poll() is None and len(list_checkpoints(tmp_path/'run')) < 2: time.sleep(.05)
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=120)
    assert p.returncode == RESUME == 75, err[-2000:]
    assert re.search(r'Stopped: stopped by SIGTERM in epoch \d+, step \d+; run the same again', err)
    lines = [x for x in out.splitlines() if x]
    assert any(re.match(r'epoch \d+/30  loss \d', x) for x in lines) and all(x.isprintable()
                                                                             for x in lines)
    kept = nbformat.read(tmp_path/'copy.ipynb', 4)
    printed = ''.join(o.get('text', '') for c in kept.cells for o in c.get('outputs', []))
    assert 'epoch 1/30' in printed, 'the saved notebook has its outputs'
    assert list_runs(tmp_path).loc['run', 'state'] == 'interrupted'
    position = list_checkpoints(tmp_path/'run')[-1].name
    p = train(folder, tmp_path, 30, patience=99)
    while p.poll() is None and list_checkpoints(tmp_path/'run')[-1].name == position:
        time.sleep(.05)
    p.send_signal(signal.SIGUSR1)
    out, err = p.communicate(timeout=120)
    assert p.returncode == RESUME and 'SIGUSR1' in err
    epoch, step = [int(x) for x in re.findall(r'\d+', position + '_0')[:2]]
    assert f'from epoch {epoch+1}, step {step}' in out


def test_run_to_the_end_exits_with_0(folder, tmp_path):
    p = begin(FINETUNE, tmp_path/'copy.ipynb', data=str(folder), out=str(tmp_path/'run'), epochs=1,
              model='tiny',
              height=64, width=64, batch_size=4)
    out, err = p.communicate(timeout=120)
    assert err == '' and p.returncode == 0
    lines = [x for x in out.splitlines() if x]
    assert lines[0].startswith('tiny on 1 ') and lines[-1].startswith('epoch 1 done  train_loss')
    assert all(map(str.isprintable, lines))
    assert load_model(tmp_path/'run'/'model')
    row = list_runs(tmp_path).loc['run']
    assert (row.recipe, row.model, row.state, row.epochs, row.best_epoch) == ('corrected', 'tiny',
                                                                              'finished', '1/1', 1)


def test_mistakes_exit_with_1(folder, tmp_path):
    p = train(folder, tmp_path, 1, learning_rate=.1)
    err = p.communicate(timeout=120)[1]
    assert p.returncode == 1
    assert err.splitlines()[-1].startswith('unknown parameter learning_rate; known: recipe, data')


def notebook(path, *sources):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s)
                                                   for s in sources]), path)
    return path


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGUSR2'])
def test_cell_that_does_not_train_is_stopped_too(tmp_path, name):
    book = notebook(tmp_path/'slow.ipynb', 'print("before")', 'import time, pathlib',
                    f'pathlib.Path({str(tmp_path/"there")!r}).write_text(""); time.sleep(300)')
    p = begin(book, tmp_path/'copy.ipynb')
    while p.poll() is None and not (tmp_path/'there').exists(): time.sleep(.02)
    time.sleep(.3)
    p.send_signal(getattr(signal, name))
    err = p.communicate(timeout=120)[1]
    assert p.returncode == RESUME, err[-2000:]
    assert 'before' in (tmp_path/'copy.ipynb').read_text()


def test_failing_cell_after_no_signal_is_a_mistake(tmp_path):
    p = begin(notebook(tmp_path/'bad.ipynb', 'raise KeyError("gone")'), tmp_path/'copy.ipynb')
    err = p.communicate(timeout=120)[1]
    assert p.returncode == 1 and "KeyError: 'gone'" in err


def test_signal_before_there_is_a_kernel(tmp_path):
    book, there = notebook(tmp_path/'slow.ipynb', 'print("ran")'), tmp_path/'there'
    code = f'''
import pathlib, sys, time, papermill
from synthdepth.runner import run_notebook_command
def late(*args, **options):
    pathlib.Path({str(there)!r}).write_text("")
    time.sleep(300)
papermill.execute_notebook = late
sys.exit(run_notebook_command([{str(book)!r}, {str(tmp_path/"copy.ipynb")!r}]))
'''
    p = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while p.poll() is None and not there.exists(): time.sleep(.02)
    p.send_signal(signal.SIGUSR1)
    assert 'Stopped: stopped by SIGUSR1' in p.communicate(timeout=120)[1] and p.returncode == RESUME


def test_signal_that_a_cell_kept_to_itself(tmp_path):
    "The next cell does not run."
    there = tmp_path/'there'
    book = notebook(tmp_path/'deaf.ipynb', f"""import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(there)!r}).write_text("")
time.sleep(2)""", 'print("went on")')
    p = begin(book, tmp_path/'copy.ipynb')
    while p.poll() is None and not there.exists(): time.sleep(.02)
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=120)
    assert p.returncode == RESUME and 'stopped by SIGTERM' in err and 'went on' not in out


def test_kernel_that_dies_is_a_mistake_in_one_line(tmp_path):
    p = begin(notebook(tmp_path/'dies.ipynb', 'import os; os.kill(os.getpid(), 9)'),
              tmp_path/'copy.ipynb')
    err = p.communicate(timeout=120)[1]
    assert p.returncode == 1
    said = 'KernelDied: the kernel died, perhaps for want of memory'
    assert err.splitlines()[-1].startswith(said)


def test_list_of_runs_survives_what_is_broken(tmp_path):
    (tmp_path/'a').mkdir()
    (tmp_path/'a'/'run.json').write_text('{"asked":')
    (tmp_path/'b').mkdir()
    asked = dict(recipe=dict(name='corrected', epochs=3), model='tiny', data=dict(train='x'))
    (tmp_path/'b'/'run.json').write_text(json.dumps(dict(asked=asked)))
    dead = subprocess.Popen(['true'])
    dead.wait()
    status = dict(state='running', epoch=0, step=0, time=0, host=platform.node(), pid=dead.pid)
    (tmp_path/'b'/'status.json').write_text(json.dumps(status))
    assert list_runs(tmp_path).state.to_dict() == {'a': 'unreadable', 'b': 'killed'}
    with pytest.raises(FileNotFoundError, match='none: found no such folder'):
        list_runs(tmp_path/'b'/'none')


@pytest.mark.parametrize('said, state', [('RUNNING', 'running'), ('PENDING', 'requeued'),
                                         ('', 'killed'), ('COMPLETING', 'completing'),
                                         (None, 'silent')])
def test_a_batch_system_is_asked_about_runs_elsewhere(tmp_path, said, state):
    "With an answer nobody waits for two hours; runs of this machine are looked up here."
    asked, heard = dict(recipe=dict(name='corrected', epochs=3), model='tiny',
                        data=dict(train='x')), []
    for name, host, job in (('a', 'elsewhere', '7_1'), ('b', 'elsewhere', None),
                            ('c', platform.node(), '8')):
        (tmp_path/name).mkdir()
        (tmp_path/name/'run.json').write_text(json.dumps(dict(asked=asked)))
        status = dict(state='running', epoch=0, step=0, time=0, host=host, pid=99999999, job=job)
        (tmp_path/name/'status.json').write_text(json.dumps(status))

    def queued(job):
        heard.append(job)
        return said
    found = list_runs(tmp_path, queued).state.to_dict()
    assert found == dict(a=state, b='silent', c='killed') and heard == ['7_1']


def test_runs_behind_a_link_are_listed(tmp_path):
    (tmp_path/'disk'/'run').mkdir(parents=True)
    asked = dict(recipe=dict(name='corrected', epochs=3), model='tiny', data=dict(train='x'))
    (tmp_path/'disk'/'run'/'run.json').write_text(json.dumps(dict(asked=asked)))
    (tmp_path/'here').mkdir()
    (tmp_path/'here'/'linked').symlink_to(tmp_path/'disk')
    (tmp_path/'here'/'circle').symlink_to(tmp_path/'here')
    assert list(list_runs(tmp_path/'here').index) == ['linked/run']


def with_parameters(path):
    "A notebook that says what it was given."
    book = notebook(path, "n = 1\nname = ''\nother = None", 'print([n, name, other])')
    cells = nbformat.read(book, 4)
    cells.cells[0].metadata.tags = ['parameters']
    nbformat.write(cells, book)
    return book


@pytest.mark.parametrize('name', ['lr=1e-3', 'run{1}', '{n}', 'a b', 'ü#%', "it's", '1e-3', '{'])
def test_any_path_is_a_path(tmp_path, name):
    "papermill fills parameters into paths; a folder may be called like a number."
    (tmp_path/name).mkdir()
    book = with_parameters(tmp_path/name/'book.ipynb')
    out = tmp_path/name/'out'/'copy.ipynb'
    p = begin(book, out, n=2, name=name)
    said, err = p.communicate(timeout=120)
    assert p.returncode == 0, err
    assert said.strip() == str([2, name, None]) and 'unknown parameter' not in err
    assert out.exists()


def test_unknown_parameters_are_refused_before_anything_runs(tmp_path):
    p = begin(with_parameters(tmp_path/'book.ipynb'), tmp_path/'copy.ipynb', m=3)
    assert 'unknown parameter m; known: n, name, other' in p.communicate(timeout=60)[1]
    assert p.returncode == 1 and not (tmp_path/'copy.ipynb').exists()


def test_a_copy_that_cannot_be_written_is_said_first(tmp_path):
    (tmp_path/'file').write_text('')
    p = begin(with_parameters(tmp_path/'book.ipynb'), tmp_path/'file'/'copy.ipynb')
    said, err = p.communicate(timeout=60)
    assert p.returncode == 1 and 'cannot write into' in err and said == ''


@pytest.mark.parametrize('name', ['finetune', 'evaluate'])
def test_every_parameter_of_a_notebook_is_read(name):
    "A parameter that no cell mentions is taken and ignored."
    book = nbformat.read(notebook_path(name), 4)
    rest = '\n'.join(c.source for c in book.cells[1:] if c.cell_type == 'code'
                     and 'parameters' not in c.metadata.get('tags', ()))
    for parameter in parameters_of(notebook_path(name)):
        read = parameter in RECIPE or re.search(rf'\b{parameter}\b', rest)
        assert read, f'{name}: nobody reads {parameter}'


@pytest.mark.parametrize('name', ['finetune', 'evaluate'])
def test_papermill_itself_cannot_pass_an_unknown_parameter(tmp_path, name):
    papermill = pytest.importorskip('papermill')
    with pytest.raises(papermill.PapermillExecutionError, match='unknown parameter tilte'):
        papermill.execute_notebook(notebook_path(name), str(tmp_path/'copy.ipynb'),
                                   dict(tilte='x'), progress_bar=False)
