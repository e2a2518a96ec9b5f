"What a process may use, what it tells its children, and consoles and homes that bear little."
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from synthdepth import machine
from synthdepth.machine import check_writable, usable_cores

ROOT = Path(__file__).resolve().parents[1]


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root/name.replace('__', '/').replace('_dot_', '.')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def eight(monkeypatch):
    "A process that may use eight cores of 128."
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 128)
    monkeypatch.delenv('SLURM_CPUS_PER_TASK', raising=False)


@pytest.mark.parametrize(
    'text, cores', [('max 100000', 8), ('200000 100000', 2), ('150000 100000', 2),
                    ('50000 100000', 1), ('9900000 100000', 8)])
def test_quota_of_version_2(eight, tmp_path, text, cores):
    root = tree(tmp_path, proc__self__cgroup='0::/a/b\n', sys__fs__cgroup__a__cpu_dot_max=text)
    assert usable_cores(root) == cores


def test_quota_of_version_1_in_a_container(eight, tmp_path):
    "The group's path is that of the host; in the container its files are at the root."
    mount = 'sys__fs__cgroup__cpu,cpuacct__cpu_dot_cfs_'
    files = {f'{mount}quota_us': '400000\n', f'{mount}period_us': '100000\n'}
    root = tree(tmp_path, proc__self__cgroup='5:memory:/x\n4:cpu,cpuacct:/docker/f00\n', **files)
    assert usable_cores(root) == 4
    tree(root, **{f'{mount}quota_us': '-1\n'})
    assert usable_cores(root) == 8


def test_the_narrowest_of_nested_groups_holds(eight, tmp_path):
    root = tree(tmp_path, proc__self__cgroup='0::/a/b\n',
                sys__fs__cgroup__a__cpu_dot_max='300000 100000',
                sys__fs__cgroup__a__b__cpu_dot_max='600000 100000')
    assert usable_cores(root) == 3


def test_slurm_and_machines_that_tell_nothing(eight, tmp_path, monkeypatch):
    assert usable_cores(tmp_path) == 8
    monkeypatch.setenv('SLURM_CPUS_PER_TASK', '4')
    assert usable_cores(tmp_path) == 4
    monkeypatch.setenv('SLURM_CPUS_PER_TASK', '64')
    assert usable_cores(tmp_path) == 8


GB = 2**30


@pytest.fixture
def roomy(monkeypatch):
    "A machine with 500 GB, in no job."
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: SimpleNamespace(available=500*GB))
    monkeypatch.setattr(machine, 'used_memory', lambda: GB)
    for name in [name for name in os.environ if name.startswith('SLURM_')]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize('job, left', [
    ({}, 500), (dict(SLURM_MEM_PER_NODE='8192'), 7), (dict(SLURM_MEM_PER_NODE='0'), 500),
    (dict(SLURM_MEM_PER_CPU='2048', SLURM_CPUS_ON_NODE='6'), 11),
    (dict(SLURM_MEM_PER_NODE='512'), 0), (dict(SLURM_MEM_PER_NODE='much'), 500)])
def test_memory_of_a_job(roomy, tmp_path, monkeypatch, job, left):
    for name, value in job.items(): monkeypatch.setenv(name, value)
    assert machine.free_memory(tmp_path) == left*GB


def test_memory_of_a_job_per_core_that_it_may_use(roomy, eight, tmp_path, monkeypatch):
    monkeypatch.setenv('SLURM_MEM_PER_CPU', '1024')
    assert machine.free_memory(tmp_path) == 7*GB


def test_children_count_as_used():
    before = machine.used_memory()
    code = 'x = bytearray(200*2**20); input()'
    p = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE)
    end = time.monotonic() + 20
    while machine.used_memory() < before + 200*2**20 and time.monotonic() < end: time.sleep(.05)
    assert machine.used_memory() > before + 200*2**20
    p.communicate(b'\n')


def clean(**changes) -> dict:
    return {k: v for k, v in os.environ.items()
            if k not in ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY')} | changes


def test_every_process_waits_passively(tmp_path):
    "A command, the kernel it starts, and a rank of two."
    show = 'import os, torch; print(os.environ["OMP_WAIT_POLICY"], torch.get_num_threads())'
    notebook, copy = tmp_path/'show.ipynb', tmp_path/'copy.ipynb'
    cell = dict(cell_type='code', execution_count=None, id='a', metadata={}, outputs=[],
                source=show)
    notebook.write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
    command = [sys.executable, '-m', 'synthdepth.runner', notebook, copy]
    def said(**environment):
        p = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert p.returncode == 0, p.stderr
        return p.stdout.split()
    assert said(**clean()) == ['passive', str(usable_cores())]
    half = max(1, usable_cores()//2)
    assert said(**clean(LOCAL_WORLD_SIZE='2')) == ['passive', str(half)]
    assert said(**clean(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='active')) == ['active', '1']


def test_another_kernel_of_that_name_is_not_taken(tmp_path):
    "A kernel `python3` that the user has installed belongs to another Python."
    spec = tmp_path/'jupyter'/'kernels'/'python3'/'kernel.json'
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(dict(argv=['/nowhere/python', '{connection_file}'],
                                    display_name='Mine', language='python')))
    code = '''if True:
        from synthdepth.runner import own_kernel
        print(own_kernel().kernel_spec.argv[0])'''
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT,
                       env=os.environ | dict(JUPYTER_PATH=str(tmp_path/'jupyter')))
    assert p.stdout.strip() == sys.executable, p.stderr


def test_kernels_of_headless_runs_keep_no_history(tmp_path):
    notebook, home = tmp_path/'show.ipynb', tmp_path/'ipython'
    show = 'print(get_ipython().history_manager.enabled)'
    cell = dict(cell_type='code', execution_count=None, id='a', metadata={}, outputs=[],
                source=show)
    notebook.write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
    command = [sys.executable, '-m', 'synthdepth.runner', notebook, tmp_path/'copy.ipynb']
    p = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                       env=os.environ | dict(IPYTHONDIR=str(home)))
    assert p.stdout.strip() == 'False', p.stderr
    assert not list(home.rglob('history.sqlite*'))


def test_a_home_that_cannot_be_written_is_replaced(tmp_path):
    code = '''if True:
        import os
        from synthdepth.machine import settle
        settle()
        import matplotlib, IPython.paths
        for place in matplotlib.get_configdir(), IPython.paths.get_ipython_dir(): print(place)'''
    other = {k: v for k, v in os.environ.items() if k not in machine.HOMES}
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT,
                       env=other | dict(HOME='/dev/null/nobody'))
    assert p.returncode == 0 and p.stderr == ''
    assert all('synthdepth-home-' in place for place in p.stdout.split())
    assert not any(Path(place).exists() for place in p.stdout.split()), 'removed at the end'


def test_trying_a_folder_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path/'a'/'b')
    assert not list(tmp_path.iterdir())
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='cannot write into .*file/b: .*choose another folder'):
        check_writable(tmp_path/'file'/'b')


@pytest.mark.parametrize('encoding', ['ascii', 'cp1252', 'utf-8'])
def test_no_console_ends_a_command(encoding):
    code = '''if True:
        from synthdepth.machine import settle
        settle()
        print('0.12 \\u2192 0.10 \\u03b4 \\udcff')'''
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, cwd=ROOT,
                       env=os.environ | dict(PYTHONIOENCODING=encoding))
    assert p.returncode == 0 and p.stdout.startswith(b'0.12 '), p.stderr
