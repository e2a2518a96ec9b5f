"Stopped by a signal, from the first moment on: always 75, and the same command goes on."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from toy import write_synthdepth

from synthdepth.files import hold
from synthdepth.runner import notebook_path


ROOT = Path(__file__).resolve().parents[1]
NAMES = ('SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGUSR2')
LIGHT = {'synthdepth', 'typer', 'click', 'rich', 'shellingham', 'typing_extensions', 'markdown_it',
         'mdurl', 'pygments', 'annotated_doc', 'colorama', 'lazy_loader',
         'packaging'}  # pure Python


def test_the_command_line_needs_the_standard_library_and_typer_alone(tmp_path):
    "Where nothing may be executed, compiled libraries cannot be loaded."
    code = f'''if True:
        import sys
        known, before = {LIGHT!r} | set(sys.stdlib_module_names), set(sys.modules)
        class Guard:
            def find_spec(self, name, path=None, target=None):
                if name.partition('.')[0] not in known: raise ImportError(f'{{name}} is blocked')
        sys.meta_path.insert(0, Guard())
        import synthdepth.cli, synthdepth.runner, synthdepth.signals
        from synthdepth.__main__ import main
        sys.argv = ['synthdepth', '--help']
        main()'''
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path,
                       env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert p.returncode == 0 and 'finetune' in p.stdout, p.stderr[-2000:]


def listens(pid: int) -> bool:
    "Has the process a handler of its own for SIGTERM?"
    try: lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    except OSError: return False
    caught = next(line.split()[1] for line in lines if line.startswith('SigCgt'))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def listening():
    if not Path('/proc/self/status').exists(): pytest.skip('handlers are looked up in /proc')


def stopped(command: list, name: str, when, cwd: Path) -> tuple[int, str, str]:
    """Exit code and output of a command whose processes all get a signal, as SLURM sends it: some
    seconds after its first line, or when a function says so."""
    p = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=cwd,
                         env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    while p.poll() is None and not listens(p.pid): time.sleep(.002)
    if callable(when):
        while p.poll() is None and not when(): time.sleep(.02)
    else: time.sleep(when)
    assert p.poll() is None, p.communicate()
    os.killpg(p.pid, getattr(signal, name))
    return p.wait(120), *p.communicate()


RENDER = ['-m', 'synthdepth', 'render', 'set', '--scenes', 4, '--height', 48, '--width', 64,
          '--spp', 2, '--seed', 5, '--set', 'views=2', '--set', 'objects=[4,8]']


@pytest.mark.parametrize('name, workers, delays', [
    ('SIGTERM', 1, (.02, .3, 1.)), ('SIGTERM', 2, (.02, .3, 1.)), ('SIGINT', 2, (.02,)),
    ('SIGUSR1', 2, (.02,)), ('SIGUSR2', 1, (.02,))])
def test_render(listening, tmp_path, name, workers, delays):
    "While it imports, while workers start, and at work; each time in one line, and at once."
    command = [*RENDER, '--workers', workers]
    for delay in delays:
        code, out, err = stopped(command, name, delay, tmp_path)
        assert code == 75 and out == '', err
        assert err.startswith(f'stopped by {name}') and len(err.splitlines()) == 1
    begun = tmp_path/'set'/'.render'
    moments = (lambda: (begun/'generator.json').exists(), lambda: any(begun.glob('scene_*')))
    for moment in moments:
        shutil.rmtree(tmp_path/'set', ignore_errors=True)  # an earlier call may have come so far
        code, out, err = stopped(command, name, moment, tmp_path)
        assert code == 75 and len(err.splitlines()) == 1, err
        there = len(list(begun.glob('scene_*')))
        assert err.startswith(f'stopped by {name}: {there} of 4 scenes are in set; the same')
    assert not list((tmp_path/'set').rglob('*.part'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=10, views=2)


def finetune_command(data: Path, **changes) -> list:
    small = dict(epochs=99, size=[48, 64], batch_size=4, patience=99, workers=1)
    options = [x for k, v in (small | changes).items() for x in ('--set', f'{k}={v}')]
    return ['-m', 'synthdepth', 'finetune', data, 'run', *options]


@pytest.mark.parametrize('name', NAMES)
def test_finetune_that_imports(listening, data, tmp_path, name):
    for delay in (.02, .5):
        code, out, err = stopped(finetune_command(data), name, delay, tmp_path)
        assert code == 75 and err.startswith(f'stopped by {name}') and len(err.splitlines()) == 1


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1'])
def test_finetune(listening, data, tmp_path, name):
    "While the kernel starts and imports, and in training with a reader."
    run = tmp_path/'run'
    for moment in ((run/'.lock').exists, lambda: any((run/'checkpoints').glob('epoch_*'))):
        code, out, err = stopped(finetune_command(data), name, moment, tmp_path)
        assert code == 75 and f'stopped by {name}' in err.splitlines()[-1], err
    assert 'run the same again to go on from there' in err
    assert json.loads((run/'status.json').read_text())['state'] == 'interrupted'


@pytest.mark.parametrize('name', NAMES)
def test_runner(listening, tmp_path, name):
    cell = dict(cell_type='code', execution_count=None, id='a', metadata={}, outputs=[],
                source='import time; open("there", "w"); time.sleep(300)')
    book = dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)
    (tmp_path/'book.ipynb').write_text(json.dumps(book))
    command = ['-m', 'synthdepth.runner', 'book.ipynb', 'copy.ipynb']
    for when in (.02, .3, (tmp_path/'there').exists):
        code, out, err = stopped(command, name, when, tmp_path)
        assert code == 75 and f'stopped by {name}' in err, err


def test_readers_leave_signals_to_the_training(listening, data, tmp_path):
    "SLURM sends them to every process of a step; a reader that died would end the run with 1."
    command = [sys.executable, *map(str, finetune_command(data, size=[96, 128], keep=99))]
    p = subprocess.Popen(command, cwd=tmp_path, stdout=-3, stderr=subprocess.PIPE, text=True,
                         env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    kernel_and_its_own, begun = [], tmp_path/'run'/'checkpoints'/'epoch_001'
    while p.poll() is None and not (begun.exists() and len(kernel_and_its_own) == 3):
        kernel_and_its_own = psutil.Process(p.pid).children(recursive=True)
    for process in kernel_and_its_own[::-1]: process.send_signal(signal.SIGTERM)
    p.send_signal(signal.SIGTERM)
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 75, err
    assert 'run the same again to go on from there' in err


WAITS = '''
import sys, time
from synthdepth import files
files.LOCK_SECONDS = .3
import synthdepth.runner
synthdepth.runner.LOCK_SECONDS = .3
'''
CLI = WAITS + 'from synthdepth.__main__ import main; main()'
RUNNER = WAITS + 'sys.exit(synthdepth.runner.run_notebook_command())'


def test_a_second_process_is_refused_before_the_copy_is_opened(data, tmp_path):
    "By a command and by the runner, whoever has the lock; the parent's death does not free it."
    run, copy = tmp_path/'run', tmp_path/'run'/'finetune.ipynb'
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')

    def refused():
        kept = copy.read_bytes() if copy.exists() else None
        book = notebook_path('finetune')
        command = [*finetune_command(data)[2:]]
        for code, arguments in ((CLI, command),
                                (RUNNER, [book, copy, '-p', 'out', 'run', '-p', 'data', data])):
            p = subprocess.run([sys.executable, '-c', code, *map(str, arguments)], cwd=tmp_path,
                               capture_output=True, text=True, env=environment)
            assert p.returncode == 1 and 'another process is training into run' in p.stderr
            assert len(p.stderr.splitlines()) == 1, p.stderr
        return copy.exists() is (kept is not None) and (kept is None or copy.read_bytes() == kept)

    run.mkdir()
    with hold(run): assert refused(), 'a notebook holds it'
    p = subprocess.Popen([sys.executable, *map(str, finetune_command(data))], cwd=tmp_path,
                         env=environment, stdout=-3, stderr=-3)
    while p.poll() is None and not any((run/'checkpoints').glob('epoch_*')): time.sleep(.05)
    kernel = psutil.Process(p.pid).children()[0]
    kernel.suspend()  # so that it does not notice that its parent is gone
    try:
        before = copy.read_bytes()
        assert refused(), 'a command holds it'
        p.kill()
        p.wait()
        assert refused() and copy.read_bytes() == before, 'its kernel holds it'
    finally: kernel.kill()


def test_a_file_system_without_locks_warns_once(data, tmp_path):
    "The command says it; the kernel, which is given what there is of a lock, does not again."
    (tmp_path/'sitecustomize.py').write_text(
        'import errno, fcntl, os\n'
        'def flock(*args): raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))\n'
        'fcntl.flock = flock\n')
    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    p = subprocess.run([sys.executable, *map(str, finetune_command(data, epochs=1))], text=True,
                       capture_output=True, cwd=tmp_path,
                       env=os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS='1'))
    assert p.returncode == 0, p.stderr
    assert p.stderr.count('no lock: Function not implemented') == 1
    assert 'no lock' not in (tmp_path/'run'/'finetune.ipynb').read_text()
