"Submissions without a cluster: what is refused, what is written, and what is done here."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy import write_synthdepth

from synthdepth.cluster import ClusterError, cancel, collect, jobs, show_rows, submit

SMALL = ('--set', 'epochs=1', '--set', 'height=64', '--set', 'width=64', '--set', 'batch_size=4')
LAB = dict(name='lab', ask=dict(partition='short', time='2:00:00', memory='4G', cpus=1),
           partitions=dict(short=dict(limit='4:00:00'), long=dict(limit='2-00', gpus=['NV-A30']),
                           many=dict(limit='1-00', gpus=['NV-A30', 'NV-V100-SXM2'])))


@pytest.fixture(scope='module')
def data(tmp_path_factory): return write_synthdepth(tmp_path_factory.mktemp('toy')/'set', scenes=6)


@pytest.fixture
def lab(tmp_path):
    (tmp_path/'lab.json').write_text(json.dumps(LAB))
    return str(tmp_path/'lab.json')


@pytest.fixture
def no_slurm(monkeypatch, tmp_path):
    "A machine on which no command of SLURM is installed."
    here = tmp_path/'bin'
    here.mkdir()
    for name in ('sh', 'bash', 'git', 'uname'):
        if found := shutil.which(name): (here/name).symlink_to(found)
    monkeypatch.setenv('PATH', str(here))


def synthdepth(*arguments, **options):
    return subprocess.run([sys.executable, '-m', 'synthdepth', *map(str, arguments)],
                          capture_output=True, text=True, **options)


WRONG = [
    (dict(partition='shrt'), 'no partition shrt: did you mean short'),
    (dict(gpu='NV-A40'), 'no GPU NV-A40: did you mean NV-A30'),
    (dict(gpu='V100'), 'did you mean NV-V100-SXM2'),
    (dict(gpu='NV-V100-SXM2', partition='long'), 'partition long has no NV-V100-SXM2; many has'),
    (dict(gpu='NV-A30:0'), 'N of 1 or more'),
    (dict(time='5:00:00'), 'above the limit of partition short, 4:00:00'),
    (dict(time='4:00'), 'not longer than the warning before its end, 300 s'),
    (dict(time='soon'), "'soon' is no time"),
    (dict(mem='lots'), "'lots' is no amount of memory"),
    (dict(cpus=0), '--cpus 0: expected 1 or more'),
    (dict(sbatch=('--nodes=2',)), 'a job runs on one node'),
    (dict(on='nowhere'), 'no profile nowhere; known: local, koa'),
]


@pytest.mark.parametrize('wishes, said', WRONG, ids=lambda x: str(x)[:40])
def test_what_the_cluster_lacks_is_said_and_nothing_is_written(data, lab, tmp_path, wishes, said):
    with pytest.raises(ClusterError, match=said):
        submit('finetune', data, tmp_path/'run', dry_run=True, **dict(on=lab) | wishes)
    assert not (tmp_path/'run').exists()


@pytest.mark.parametrize('change, said', [
    ('{"name": ', 'is not JSON'), ('[]', 'expected a JSON object'),
    (json.dumps(LAB | dict(partitons={})), 'unknown partitons; known: name, partitions'),
    (json.dumps(LAB | dict(partitions=dict(short=dict(limits='1-00')))),
     'partitions: short: unknown limits'),
    (json.dumps(LAB | dict(ask=dict(partition='short'))), '--time is not given, and the profile'),
], ids=['cut', 'list', 'name', 'limit', 'time'])
def test_a_profile_that_is_none(data, tmp_path, change, said):
    (tmp_path/'lab.json').write_text(change)
    with pytest.raises(ClusterError, match=said):
        submit('finetune', data, tmp_path/'run', on=tmp_path/'lab.json', dry_run=True)


def test_options_are_read_before_anything_waits(data, lab, tmp_path):
    for arguments, said in [(('--sett', 'a=1'), 'No such option'), (('--set', 'epoch=1'), 'epoch'),
                            (('--set', 'epochs'), 'expected NAME=VALUE')]:
        with pytest.raises(Exception, match=said):
            submit('finetune', data, tmp_path/'run', *arguments, on=lab, dry_run=True)
    with pytest.raises(ClusterError, match='found no such dataset'):
        submit('finetune', tmp_path/'gone', tmp_path/'run', on=lab, dry_run=True)
    with pytest.raises(ClusterError, match='expected 1 to 3, the number of scenes'):
        submit('render', tmp_path/'new', '--scenes', '3', parts=4, on=lab, dry_run=True)
    assert not (tmp_path/'run').exists() and not (tmp_path/'new').exists()


def test_folders_that_other_nodes_do_not_have(data):
    with pytest.raises(ClusterError, match='which every node has for itself'):
        submit('finetune', data, '/dev/shm/synthdepth-run', on='koa', dry_run=True)


def test_a_run_that_scratch_has_purged_in_part(data, lab, tmp_path):
    run = tmp_path/'run'
    run.mkdir()
    (run/'log.csv').write_text('epoch,train_loss\n1,0.5\n')
    with pytest.raises(ClusterError, match='has a log and no checkpoints'):
        submit('finetune', data, run, on=lab, dry_run=True)
    assert (run/'log.csv').exists()


def test_a_dry_run_can_be_read_and_replaced(data, lab, tmp_path):
    for _ in range(2):
        said = str(submit('finetune', data, tmp_path/'my run', on=lab, dry_run=True))
    assert '#SBATCH --time=2:00:00' in said and 'sbatch' in said.splitlines()[-1]
    assert [p.name for p in (tmp_path/'my run'/'jobs').glob('*-*')] == ['finetune-1']
    assert [r.state for r in jobs(tmp_path)] == ['not submitted']
    script = tmp_path/'my run'/'jobs'/'finetune-1'/'job.sh'
    assert subprocess.run(['bash', '-n', script]).returncode == 0


def test_without_slurm_it_is_done_here(data, tmp_path, no_slurm):
    out = tmp_path/'sweep'
    done = synthdepth('submit', 'sweep', data, out, '--over', 'seed=0,1', *SMALL)
    assert done.returncode == 0 and 'no SLURM here' in done.stdout, done.stdout + done.stderr
    rows = jobs(out/'jobs'/'sweep-1')
    assert [(r.name, r.state, str(r.progress)) for r in rows] == [
        ('seed-0', 'finished', '1/1 epochs'), ('seed-1', 'finished', '1/1 epochs')]
    table = collect(out)
    assert set(table.run) == {'seed-0', 'seed-1'}
    again = submit('sweep', data, out, *SMALL, over=('seed=0,1',), on='local')
    assert 'is complete' in str(again) and again.submission is None
    assert 'seed-0' in synthdepth('jobs', out).stdout
    assert cancel(out) == []


def test_a_signal_stops_it_and_the_same_command_goes_on(data, tmp_path, no_slurm):
    run, asked = tmp_path/'run', ('--set', 'epochs=3', *SMALL[2:])
    child = subprocess.Popen([sys.executable, '-m', 'synthdepth', 'submit', 'finetune', data, run,
                              *asked], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while child.poll() is None and not any((run/'checkpoints').glob('*')): time.sleep(.1)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == 75 and 'stopped by a signal' in said, said
    assert [r.state for r in jobs(run)] == ['interrupted']
    done = synthdepth('submit', 'finetune', data, run, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [r.state for r in jobs(run)] == ['interrupted', 'finished']
    assert (run/'model'/'model.json').exists()


def test_starts_that_get_nowhere_end(data, lab, tmp_path):
    dry = submit('finetune', data, tmp_path/'run', *SMALL, on=lab, dry_run=True)
    folder = dry.submission.folder
    stuck = dict(time=0., job='7', host='n1', pid=1, position='not begun')
    (folder/'task-0.json').write_text(json.dumps(dict(starts=[stuck]*3, code=None)))
    done = subprocess.run([sys.executable, '-m', 'synthdepth.cluster.tasks', folder, '0'],
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert '3 starts in a row got no further than not begun: give it more --time' in done.stderr
    assert not (tmp_path/'run'/'status.json').exists()


BLOCKED = '''
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('numpy', 'torch', 'pandas', 'PIL', 'psutil', 'scipy', 'mitsuba'):
            raise ImportError(f'{name}: failed to map segment from shared object')
sys.meta_path.insert(0, Refuse())
from synthdepth.__main__ import main
main()
'''


def test_from_a_login_node_that_imports_nothing_compiled(data, lab, tmp_path):
    def at_login(*arguments):
        return subprocess.run([sys.executable, '-c', BLOCKED, *map(str, arguments)],
                              capture_output=True, text=True)
    out = tmp_path/'sweep'
    for command in [('submit', 'finetune', data, tmp_path/'run', '--on', lab, '--dry-run'),
                    ('submit', 'sweep', data, out, '--over', 'seed=0,1', '--on', lab, '--dry-run'),
                    ('submit', 'render', tmp_path/'new', '--parts', 3, '--on', lab, '--dry-run'),
                    ('jobs', tmp_path), ('jobs', 'log', out), ('jobs', 'cancel', out)]:
        done = at_login(*command)
        assert done.returncode == 0, f'{command}: {done.stderr}'
    assert len(jobs(tmp_path)) == 1 + 2 + 4


def test_the_table_of_jobs_is_text(data, lab, tmp_path):
    submit('sweep', data, tmp_path/'sweep', over=('seed=0,1',), on=lab, dry_run=True)
    head, *rows = show_rows(jobs(tmp_path)).splitlines()
    assert head.split()[:4] == ['run', 'job', 'state', 'starts']
    assert [row.split()[0] for row in rows] == ['seed-0', 'seed-1']


def test_two_submissions_at_the_same_moment(data, tmp_path):
    "One submits, the other finds it on its way."
    tools = tmp_path/'bin'
    tools.mkdir()
    (tools/'sbatch').write_text('#!/bin/sh\nsleep 1; echo 7\n')
    (tools/'squeue').write_text("#!/bin/sh\necho '7|PENDING|1:00:00|Priority'\n")
    for name in ('sinfo', 'scontrol', 'sacct'): (tools/name).write_text('#!/bin/sh\nexit 1\n')
    for tool in tools.iterdir(): tool.chmod(0o755)
    (tmp_path/'lab.json').write_text(json.dumps(LAB))
    command = [sys.executable, '-m', 'synthdepth', 'submit', 'finetune', str(data),
               str(tmp_path/'run'), '--on', str(tmp_path/'lab.json')]
    path = f'{tools}{os.pathsep}{os.environ["PATH"]}'
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             env=os.environ | dict(PATH=path)) for _ in range(2)]
    said = sorted(p.communicate(timeout=60)[0] for p in both)
    assert said[0].startswith('job 7: ') and 'nothing to do: run is waiting as job 7' in said[1]
    assert len(list((tmp_path/'run'/'jobs').glob('finetune-*'))) == 1


def test_the_controller_does_not_answer(data, tmp_path, monkeypatch):
    tools = tmp_path/'bin'
    tools.mkdir()
    for name in ('sbatch', 'squeue', 'sinfo', 'scontrol', 'sacct'):
        says = 'echo "Unable to contact slurm controller" >&2; exit 1'
        (tools/name).write_text(f'#!/bin/sh\n{says}\n')
        (tools/name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tools}{os.pathsep}{os.environ["PATH"]}')
    (tmp_path/'lab.json').write_text(json.dumps(LAB))
    with pytest.raises(ClusterError, match='Unable to contact slurm controller'):
        submit('finetune', data, tmp_path/'run', on=tmp_path/'lab.json')
    assert not list((tmp_path/'run'/'jobs').glob('finetune-*'))
    assert Path(data).exists()
