"Jobs on a real SLURM: whatever stops them, what they leave is that of a run that nobody stopped."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Cluster
from test_render import digest
from toy import write_synthdepth

from synthdepth.cluster.listing import cancel, job_rows
from synthdepth.cluster.profiles import ClusterError
from synthdepth.cluster.slurm import ask_slurm, forget_queue
from synthdepth.cluster.submission import submit
from synthdepth.cluster.tasks import Submission
from synthdepth.models import load_model

# A checkpoint after every step; the one before the last epoch is kept.
RUN = [x for option in ('epochs=4', 'height=64', 'width=64', 'batch_size=2', 'minutes=0',
                        'patience=99') for x in ('--set', option)]
RENDER = ['--scenes', 4, '--height', 48, '--width', 64, '--spp', 1, '--set', 'views=1',
          '--set', 'objects=[2,4]']
PROFILE = dict(
    name='test', ask=dict(partition='sandbox', time='0:10:00', memory='1G', cpus=1, warning=5),
    partitions={name: dict(limit=limit, gpus=['NV-A30']) for name, limit in (
        ('sandbox', '4:00:00'), ('kill-shared', '3-00:00:00'), ('kill-exclusive', '3-00:00:00'))})
PREEMPTED = dict(mem='40G', sbatch=('--nodelist=n1',))  # most of a node
ENDED = {'COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL', 'DEADLINE', 'OUT_OF_MEMORY'}


def wait(what: str, found: Callable, seconds: float = 150):
    "The first answer that is true; fails with what was waited for."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found(): return answer
        time.sleep(.05)
    raise AssertionError(f'waited {seconds} s for: {what}')


def read(file: Path) -> dict:
    try: return json.loads(file.read_text())
    except (OSError, ValueError): return {}


@dataclass
class Lab:
    "A folder with a dataset and a profile, beside a cluster."
    root: Path
    slurm: Cluster

    @property
    def data(self) -> Path: return self.root/'set'

    @property
    def profile(self) -> str: return str(self.root/'test.json')

    def train(self, name: str, **wishes) -> Submission:
        return submit('finetune', self.data, self.root/name, *RUN, on=self.profile,
                      **wishes).submission

    def job(self, number: str) -> str:
        said = self.slurm.ask('scontrol', '-o', 'show', 'job', number)
        return re.search(r'JobState=(\w+)', said)[1]

    def end(self, submission: Submission) -> str:
        "The state in which a job ends."
        def ended(): return (state := self.job(submission.id)) in ENDED and state
        return wait(f'the end of {submission.folder}', ended)

    def preempt(self):
        "Another job that needs the node."
        self.slurm.ask('sbatch', '-p', 'sandbox', '-w', 'n1', '--mem=40G', '-t', '1', '-o',
                       '/dev/null', '--wrap', 'sleep .1')


def command(*arguments, **options) -> subprocess.CompletedProcess:
    "Run `python -m synthdepth`."
    options = dict(capture_output=True, text=True, timeout=200) | options
    return subprocess.run([sys.executable, '-m', 'synthdepth', *map(str, arguments)], **options)


def log_of(submission: Submission) -> str: return (submission.folder/'log-0.txt').read_text()


def starts_of(submission: Submission, task: int = 0) -> list[dict]:
    return read(submission.folder/f'task-{task}.json').get('starts', [])


def freeze(run: Path, epoch: int) -> int:
    "Stop the process that trains once it has done so many epochs; its id."
    def trains():
        status = read(run/'status.json')
        if status.get('state') != 'running' or status['epoch'] < epoch: return None
        try: os.kill(status['pid'], signal.SIGSTOP)
        except ProcessLookupError: return None  # of an earlier start
        return status['pid']
    return wait(f'epoch {epoch} of {run}', trains)


def started(submission: Submission, times: int, task: int = 0):
    wait(f'start {times} of {submission.folder}, {task}',
         lambda: len(starts_of(submission, task)) >= times)


def assert_same(run: Path, whole: Path):
    "Weights, the last checkpoint and the log are those of the run that nobody stopped."
    last = sorted(p.name for p in (whole/'checkpoints').iterdir())[-1]
    parts = [f'checkpoints/{last}/{x}.safetensors' for x in ('model', 'optimizer')]
    for file in ('model/model.safetensors', 'model/model.json', *parts):
        assert (run/file).read_bytes() == (whole/file).read_bytes(), file
    one, two = (pd.read_csv(x/'log.csv').drop(columns='images_per_s') for x in (run, whole))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


# What happens to the jobs: several at a time, each ends in what is asserted further below.

def from_inside_a_job(lab: Lab) -> Path:
    "The run that nobody stops; submitted from a job, whose variables would break it."
    command = [sys.executable, '-m', 'synthdepth', 'submit', 'finetune', lab.data,
               lab.root/'whole', *RUN, '--on', lab.profile]
    lab.slurm.ask('sbatch', '-p', 'sandbox', '--mem-per-cpu=200', '-t', '5', '-o',
                  lab.root/'inside.txt', '--wrap', ' '.join(map(str, command)))
    wait('the whole run', (lab.root/'whole'/'model'/'model.json').exists)
    return lab.root/'whole'


def preempted_twice(lab: Lab, partition: str) -> Submission:
    "While it trains, then while it still imports."
    done = lab.train(partition, partition=partition, **PREEMPTED)
    freeze(lab.root/partition, 1)
    lab.preempt()
    started(done, 2)
    time.sleep(1)
    lab.preempt()
    lab.end(done)
    return done


def preempted(lab: Lab) -> list[Submission]:
    "With a grace period, then without one; both need the same node."
    return [preempted_twice(lab, partition) for partition in ('kill-shared', 'kill-exclusive')]


def limited_and_requeued(lab: Lab) -> Submission:
    "Its minute is over; then it is given more time, and requeued by somebody."
    done = lab.train('limited', time='1')
    process = freeze(lab.root/'limited', 1)
    wait('the warning', lambda: 'nearly up' in log_of(done))
    os.kill(process, signal.SIGCONT)
    started(done, 2)
    lab.slurm.ask('scontrol', 'update', f'JobId={done.id}', 'TimeLimit=10')
    freeze(lab.root/'limited', 2)
    lab.slurm.ask('scontrol', 'requeue', done.id)
    lab.end(done)
    return done


def killed_and_cancelled(lab: Lab) -> dict:
    "SIGKILL; submitted again; cancelled."
    run, found = lab.root/'killed', {}
    first = lab.train('killed')
    process = freeze(run, 1)
    found['twice'] = str(submit('finetune', lab.data, run, *RUN, on=lab.profile))
    os.kill(process, signal.SIGKILL)  # as the system does for want of memory
    found['killed'] = lab.end(first)
    forget_queue()
    found['rows'] = job_rows(first.folder)
    second = lab.train('killed')
    freeze(run, 2)
    found['ids'] = cancel(run)
    found['cancelled'] = lab.end(second)
    time.sleep(8)  # longer than a requeued job waits
    found['later'], found['starts'] = lab.job(second.id), starts_of(second)
    forget_queue()
    found['last'] = job_rows(second.folder)
    return found


def on_two_gpus(lab: Lab) -> Submission:
    done = lab.train('two', gpu='NV-A30:2', partition='sandbox')
    lab.end(done)
    return done


def rendered_in_parts(lab: Lab) -> dict:
    "One of four is requeued; one fails twice, since a folder lies where its picture should."
    whole, out, found = lab.root/'rendered', lab.root/'parts', {}
    assert command('render', whole, *RENDER, '--workers', 1).returncode == 0
    begun = out/'.render'/'generator.json'
    begun.parent.mkdir(parents=True)
    begun.write_text(json.dumps(read(whole/'dataset.json')['generator']))
    in_the_way = out/'rgb'/'rgb_00002.png'
    in_the_way.mkdir(parents=True)

    def send() -> list:
        done = submit('render', out, *RENDER, on=lab.profile, parts=4)
        found.setdefault('said', []).append(str(done))
        if 'first' not in found:
            started(found.setdefault('first', done.submission), 1, task=1)
            lab.slurm.ask('scontrol', 'requeue', f'{done.submission.id}_1')
        wait('the last job', lambda: lab.job(done.submission.last) in ENDED, 200)
        forget_queue()
        return job_rows(done.submission.folder)
    found['rows'] = [send(), send()]
    in_the_way.rmdir()
    found['rest'] = send()
    return found


def without_slurm(lab: Lab) -> subprocess.CompletedProcess:
    (lab.root/'empty').mkdir()
    environment = os.environ | dict(PATH=str(lab.root/'empty'), OMP_NUM_THREADS='1')
    return command('submit', 'finetune', lab.data, lab.root/'here', *RUN, env=environment)


# In this order, two at a time: the minute of the first must suffice for a start.
SCENES = (limited_and_requeued, from_inside_a_job, preempted, killed_and_cancelled, on_two_gpus,
          rendered_in_parts, without_slurm)


@pytest.fixture(scope='module')
def lab(slurm, tmp_path_factory):
    root = tmp_path_factory.mktemp('slurm')
    write_synthdepth(root/'set', scenes=6, views=1)
    (root/'test.json').write_text(json.dumps(PROFILE))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm.environment.items(): patch.setenv(name, value)
        yield Lab(root, slurm)


@pytest.fixture(scope='module')
def scenes(lab):
    "What came of each scene, by its name."
    with ThreadPoolExecutor(2) as pool:
        futures = {scene.__name__: pool.submit(scene, lab) for scene in SCENES}
        yield lambda scene: futures[scene.__name__].result()


@pytest.fixture
def whole(scenes): return scenes(from_inside_a_job)


def test_the_cluster_has_two_nodes_and_both_kinds_of_preemption(slurm):
    nodes = slurm.ask('sinfo', '-h', '-N', '-p', 'sandbox', '-o', '%N %G').splitlines()
    assert [line.split()[0] for line in nodes] == ['n1', 'n2']
    assert all('gpu:NV-A30:2' in line for line in nodes)
    said = slurm.ask('scontrol', 'show', 'partition')
    grace = dict(re.findall(r'PartitionName=(\S+)[^$]*?GraceTime=(\d+)', said))
    assert grace['kill-shared'] == '20' and grace['kill-exclusive'] == '0'


KOA = Path(__file__).resolve().parents[1]/'synthdepth'/'profiles'/'koa.json'
SCRIPTS = Path(__file__).parent/'slurm'


@pytest.mark.usefixtures('scenes')  # which go on meanwhile
@pytest.mark.parametrize('name, gpu, partition', [
    ('v100', 'NV-V100-SXM2', 'gpu'), ('h200', 'nvidia_h200_nvl:2', 'kill-shared')])
def test_scripts_for_koa(lab, tmp_path, name, gpu, partition):
    "As they are kept here; bash and the real sbatch take them."
    from synthdepth import __version__
    profile = json.loads(KOA.read_text())
    del profile['own_folders']  # the tests write to /tmp
    (tmp_path/'koa.json').write_text(json.dumps(profile))
    done = command('submit', 'finetune', lab.data, 'run', '--gpu', gpu, '--partition', partition,
                   '--on', 'koa.json', '--dry-run', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    script = tmp_path/'run'/'jobs'/'finetune-1'/'job.sh'
    text = script.read_text()
    assert text in done.stdout
    for what, word in ((tmp_path, '/scratch/me'), (lab.data, '/scratch/me/set'),
                       (sys.executable, '/scratch/me/env/bin/python'), (__version__, 'VERSION')):
        text = text.replace(str(what), word)
    (tmp_path/f'{name}.sh').write_text(text)  # to be compared, and kept when it should differ
    assert text == (SCRIPTS/f'{name}.sh').read_text()
    assert subprocess.run(['bash', '-n', script]).returncode == 0
    number = lab.slurm.ask('sbatch', '--parsable', '--hold', script).strip()
    assert lab.job(number) == 'PENDING'
    lab.slurm.ask('scancel', number)


@pytest.fixture
def noexec(tmp_path):
    "This environment where nothing may be executed, as on the login nodes of KOA."
    place, packages = tmp_path/'noexec', Path(pd.__file__).parents[1]
    place.mkdir()
    mounted = []

    def mount(*arguments):
        done = subprocess.run(['mount', *arguments], capture_output=True, text=True)
        if done.returncode: pytest.skip(f'cannot mount: {done.stderr.strip()}')
        mounted.append(arguments[-1])

    try:
        mount('-t', 'tmpfs', '-o', 'noexec', 'tmpfs', place)
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', place/'env'], check=True)
        inside = next(place.glob('env/lib/python3*/site-packages'))
        mount('--bind', packages, inside)
        mount('-o', 'remount,bind,noexec', inside)
        yield place/'env'/'bin'/'python'
    finally:
        for path in dict.fromkeys(reversed(mounted)): subprocess.run(['umount', path])


def test_from_a_mount_that_executes_nothing(lab, noexec, tmp_path):
    def run(*command):
        return subprocess.run([noexec, *map(str, command)], capture_output=True, text=True)
    assert 'ImportError' in run('-c', 'import numpy').stderr, 'this mount executes libraries'
    submitted = run('-m', 'synthdepth', 'submit', 'finetune', lab.data, tmp_path/'run', '--on',
                    lab.profile, '--sbatch=--hold')
    assert submitted.returncode == 0, submitted.stderr
    number = re.match(r'job (\d+)', submitted.stdout)[1]
    assert lab.job(number) == 'PENDING'
    listed = run('-m', 'synthdepth', 'jobs', tmp_path/'run')
    assert re.search(rf'run +{number} +waiting', listed.stdout), listed.stderr
    assert run('-m', 'synthdepth', 'jobs', 'cancel', tmp_path/'run').returncode == 0
    assert lab.job(number) == 'CANCELLED'
    about = run('-m', 'synthdepth', 'jobs', 'about', '--on', lab.profile)
    assert 'KillWait' in about.stdout, about.stderr


def test_the_controller_does_not_answer(lab, whole, tmp_path):
    conf = (lab.slurm.folder/'slurm.conf').read_text()
    (tmp_path/'slurm.conf').write_text(re.sub('SlurmctldPort=.*', 'SlurmctldPort=1', conf))
    environment = os.environ | dict(SLURM_CONF=str(tmp_path/'slurm.conf'))
    done = command('submit', 'finetune', lab.data, tmp_path/'run', '--on', lab.profile,
                   env=environment)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith('error: sbatch: ') and 'ontact' in done.stderr
    assert not list(tmp_path.glob('run/jobs/finetune*')), 'nothing is left of it'
    listed = command('jobs', whole, env=environment)
    assert listed.returncode == 0 and re.search(r'whole +\d+ +finished +1', listed.stdout)


def test_preempted_with_and_without_a_grace_period(lab, scenes, whole):
    for done in scenes(preempted):
        assert lab.job(done.id) == 'COMPLETED', log_of(done)
        positions = [start['position'] for start in starts_of(done)]
        assert len(positions) == 3 and positions[0] == 'not begun'
        assert positions[1] == positions[2] != 'not begun', 'the second start got nowhere'
        assert_same(Path(done.folder).parents[1], whole)


def test_time_limit_then_requeued_by_hand(lab, scenes, whole):
    done = scenes(limited_and_requeued)
    assert lab.job(done.id) == 'COMPLETED', log_of(done)
    begun = [tuple(map(int, re.findall(r'\d+', start['position']))) for start in starts_of(done)]
    assert len(begun) >= 3 and begun == sorted(begun), 'each start goes on from the one before'
    assert begun[0] == () < begun[-1]
    assert 'the time is nearly up' in log_of(done)
    assert_same(lab.root/'limited', whole)


def test_killed_is_failed_and_cancelled_stays_so(scenes):
    found = scenes(killed_and_cancelled)
    assert 'is running as job' in found['twice']
    assert found['killed'] == 'FAILED' and [r.state for r in found['rows']] == ['failed']
    assert 'the kernel died' in found['rows'][0].reason
    assert len(found['ids']) == 1 and found['starts'][0]['position'] != 'not begun'
    assert found['cancelled'] == found['later'] == 'CANCELLED' and len(found['starts']) == 1
    assert [r.state for r in found['last']] == ['cancelled']


def test_two_processes_are_as_one(lab, scenes, whole):
    done = scenes(on_two_gpus)
    assert lab.job(done.id) == 'COMPLETED', log_of(done)
    assert read(lab.root/'two'/'run.json')['processes'] == 2
    one, two = (load_model(run/'model').state_dict() for run in (whole, lab.root/'two'))
    for name in one:
        if 'num_batches' in name: continue
        assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-3), name


def test_a_rendering_in_parts(lab, scenes):
    found = scenes(rendered_in_parts)
    for rows in found['rows']:
        assert [r.state for r in rows] == ['finished', 'finished', 'failed', 'finished', 'failed']
        assert 'cannot write' in rows[2].reason and '00002' in rows[4].reason
    assert [r.starts for r in found['rows'][0]] == [1, 2, 1, 1, 1], 'one was requeued'
    first, second, third = found['said']
    assert 'has failed' not in first + second and 'it has failed 2 times' in third
    assert {r.state for r in found['rest']} == {'finished'}
    shutil.rmtree(lab.root/'parts'/'jobs')
    assert digest(lab.root/'parts') == digest(lab.root/'rendered')


def test_states_without_squeue_and_without_anybody(scenes):
    "One after the other is asked, until the folder itself is all there is."
    row = scenes(killed_and_cancelled)['last'][0]

    def no_squeue(command):
        if command[0] == 'squeue': raise ClusterError('squeue: not here')
        return ask_slurm(command)

    def nobody(command): raise ClusterError(f'{command[0]}: not here')
    assert job_rows(row.folder, no_squeue)[0].state == 'cancelled'
    assert job_rows(row.folder, nobody)[0].state == 'interrupted', 'it left with exit code 75'


def test_without_slurm_it_is_done_here_with_the_same_result(lab, scenes, whole):
    done = scenes(without_slurm)
    assert done.returncode == 0, done.stderr
    assert 'there is no SLURM here' in done.stdout and 'epoch 4 done' in done.stdout
    assert_same(lab.root/'here', whole)
