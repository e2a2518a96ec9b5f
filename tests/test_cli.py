import json
import subprocess
import sys

import pytest
from toy import write_flat, write_synthdepth

COMMAND = [sys.executable, '-c', 'from synthdepth.cli import main; main()']


def synthdepth(*args):
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True)


def test_check_of_a_clean_and_a_broken_folder(tmp_path):
    folder = write_synthdepth(tmp_path/'set')
    p = synthdepth('check', folder)
    assert p.returncode == 0 and '12' in p.stdout
    (folder/'depth'/'depth_00003.png').unlink()
    p = synthdepth('check', folder)
    assert p.returncode == 1 and 'depth_00003.png' in p.stdout


def test_check_of_the_published_layout(tmp_path):
    p = synthdepth('check', write_flat(tmp_path/'flat'), '--max-depth', 10, '--fov', 60)
    assert p.returncode == 0 and 'distance' in p.stdout


@pytest.mark.parametrize('args, message', [
    (['render', '{tmp}/x', '--preset', 'attic'], 'unknown preset'),
    (['render', '{tmp}/x', '--set', 'colour=1'], 'unknown factor'),
    (['finetune', '{tmp}/nothing', '{tmp}/run'], 'no dataset folder'),
    (['finetune', '{tmp}/set', '{tmp}/run', '--recipe', 'perfect'], 'unknown recipe'),
    (['finetune', '{tmp}/set', '{tmp}/run', '--model', 'gpt'], 'gpt'),
    (['evaluate', '{tmp}/set'], 'not a run folder')])
def test_mistakes_are_one_line(tmp_path, args, message):
    write_synthdepth(tmp_path/'set')
    p = synthdepth(*(a.replace('{tmp}', str(tmp_path)) for a in args))
    assert p.returncode == 1
    lines = [x for x in p.stderr.splitlines() if x.startswith('error: ')]
    assert len(lines) == 1 and message in lines[0] and 'Traceback' not in p.stderr


def test_help_and_rendering_load_no_torch(tmp_path):
    "It takes seconds and half a gigabyte in each process."
    code = '''if True:
        import sys
        from typer.testing import CliRunner
        from synthdepth.cli import app
        small = '--scenes 1 --workers 1 --height 32 --width 32 --spp 1 --set views=1'.split()
        for arguments in (['--help'], ['render', sys.argv[1], *small]):
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, done.output
            assert 'torch' not in sys.modules, arguments
        import torch  # and it is still there for others
    '''
    p = subprocess.run([sys.executable, '-c', code, tmp_path/'set'], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    assert json.loads((tmp_path/'set'/'dataset.json').read_text())['generator']['denoise']


def test_render_finetune_evaluate(tmp_path):
    "The road from the command line, and the sentinel's own exit code."
    data, run = tmp_path/'data', tmp_path/'run'
    p = synthdepth('render', data, '--scenes', 10, '--height', 64, '--width', 96, '--spp', 2,
                   '--set', 'views=2')
    assert p.returncode == 0, p.stderr
    p = synthdepth('finetune', data, run, '--set', 'epochs=2', '--set', 'height=64', '--set',
                   'width=96')
    assert p.returncode == 0, p.stderr
    assert json.loads((run/'run.json').read_text())['asked']['recipe']['epochs'] == 2
    p = synthdepth('evaluate', run, '--out', tmp_path/'out', '--show-anyway')
    assert p.returncode == 0 and 'improvement' in p.stdout, p.stderr
    p = synthdepth('evaluate', run, '--protocol', 'published', '--out', tmp_path/'published')
    assert p.returncode == 3 and 'multiplies predictions by 10' in p.stderr
    assert not (tmp_path/'published').exists()
