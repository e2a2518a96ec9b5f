import json
import os
import subprocess
import sys

import pytest
from toy import write_flat, write_synthdepth

COMMAND = [sys.executable, '-m', 'synthdepth']


def synthdepth(*args, **environment):
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True,
                          errors='replace',
                          env=os.environ | environment)


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
    (['finetune', '{tmp}/set', '{tmp}/run', '--set', 'learning_rate=1'], 'unknown parameter'),
    (['finetune', '{tmp}/set', '{tmp}/run', '--set', 'flip=no'], 'expected True or False'),
    (['finetune', '{tmp}/set', '{tmp}/run', '--set', 'loss=huber'], 'expected some of silog'),
    (['finetune', '{tmp}/set', '/dev/null/run'], 'cannot write into /dev/null/run'),
    (['render', '/dev/null/x'], 'cannot write into /dev/null/x'),
    (['check', '{tmp}/set', '--page', '/dev/null/x.png'], 'cannot write into /dev/null'),
    (['pack', '{tmp}/set', '/dev/null/x'], 'cannot write into /dev/null/x'),
    (['demo', '--out', '/dev/null/x'], 'cannot write into /dev/null/x'),
    (['train-tiny', '{tmp}/tiny', '--weights', '/dev/null/x/w'], 'cannot write into /dev/null/x'),
    (['runs', '{tmp}/nothing'], 'found no such folder'),
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


@pytest.mark.parametrize('args, message', [
    (['finetune', 'set', 'run', '--set', 'model=zoedepth'], 'an argument or option of its own'),
    (['finetune', 'set', 'run', '--set', 'recipe=published'], 'an argument or option of its own'),
    (['finetune', 'set', 'run', '--set', 'data=other'], 'an argument or option of its own'),
    (['finetune', 'set', 'run', '--set', 'out=other'], 'an argument or option of its own'),
    (['finetune', 'set', 'run', '--set', 'epochs=1', '--set', 'epochs=2'], 'epochs is given twice'),
    (['render', 'set', '--focal', 'slices=5'], 'give --extras focal as well'),
    (['render', 'set', '--workers', '0'], 'expected 1 or more'),
    (['rerender', 'set', 'x', '--height', '96'], 'go together')])
def test_options_that_exclude_each_other_are_refused(args, message):
    p = synthdepth(*args)
    said = ' '.join(p.stderr.split())
    assert p.returncode == 2 and message in said and 'Traceback' not in said


@pytest.mark.parametrize('model, name', [
    ('tiny', 'tiny'), ('lr=0.1', 'lr=0.1'), ('fastdepth=w/a=1.onnx', 'fastdepth=a=1.onnx'),
    ('runs/lr=0.1/model', 'lr=0.1-model'), ('run{1}', 'run{1}')])
def test_results_of_different_models_lie_in_different_folders(tmp_path, monkeypatch, model, name):
    from synthdepth.cli import results_folder
    monkeypatch.chdir(tmp_path)
    if model.startswith('runs'): (tmp_path/model).mkdir(parents=True)
    for data in ('rooms', 'lr=0.1', 'a{b}'):
        assert results_folder(model, tmp_path/data).name == f'{name}-on-{data}'


@pytest.mark.parametrize('environment', [dict(PYTHONIOENCODING='ascii'),
                                         dict(PYTHONIOENCODING='cp1252'),
                                         dict(LANG='C', LC_ALL='C', PYTHONUTF8='0',
                                              PYTHONCOERCECLOCALE='0')])
def test_a_console_that_knows_few_letters_loses_nothing(tmp_path, environment):
    folder = write_synthdepth(tmp_path/'ü → {x}=1')
    p = synthdepth('check', folder, **environment)
    assert p.returncode == 0 and '12' in p.stdout and not p.stderr


@pytest.mark.parametrize('name', ['lr=1e-3', '1e-3', 'run{1} x=[1] ü#%'])
def test_any_name_does_for_data_and_runs(tmp_path, name):
    data, run = write_synthdepth(tmp_path/name/'data', scenes=10, views=1), tmp_path/name/'run'
    small = '--set epochs=1 --set size=[48,64] --set batch_size=8'.split()
    p = synthdepth('finetune', data, run, *small)
    assert p.returncode == 0 and 'unknown parameter' not in p.stderr, p.stderr
    about = json.loads((run/'run.json').read_text())
    assert about['asked']['recipe']['size'] == [48, 64]
    p = synthdepth('runs', tmp_path)
    assert p.returncode == 0 and f'{name}/run' in p.stdout
    p = synthdepth('evaluate', run, '--show-anyway')
    assert p.returncode == 0 and (run/'table.md').exists(), p.stderr
    p = synthdepth('pack', data, tmp_path/name/'packed')
    assert p.returncode == 0, p.stderr


def test_what_was_computed_is_written_though_printing_fails(tmp_path):
    "A reader that has gone away, as with `| head`."
    data, run = write_synthdepth(tmp_path/'data', scenes=10, views=1), tmp_path/'run'
    small = '--set epochs=1 --set size=[48,64] --set batch_size=8'.split()
    assert synthdepth('finetune', data, run, *small).returncode == 0
    with open('/dev/full', 'w') as full:
        p = subprocess.run([*COMMAND, 'evaluate', str(run), '--out', str(tmp_path/'out'),
                            '--show-anyway'], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (tmp_path/'out'/'table.md').exists() and p.returncode == 1


def test_a_file_that_states_what_a_folder_does_not_say_serves_every_command(tmp_path):
    write_flat(tmp_path/'flat', scenes=10, views=2)
    stated = tmp_path/'mine.json'
    stated.write_text('{"folder": "flat", "max_depth": 20, "views": 2}')
    p = synthdepth('check', stated)
    assert p.returncode == 0 and '20 in 10 scenes (flat layout)' in p.stdout
    p = synthdepth('finetune', stated, tmp_path/'run', '--set', 'epochs=1', '--set', 'size=[32,48]')
    assert p.returncode == 0, p.stderr[-2000:]
    assert str(stated) in (tmp_path/'run'/'run.json').read_text()
    p = synthdepth('evaluate', tmp_path/'run', '--show-anyway')
    assert p.returncode == 0 and '2 pictures of 1 scene' in p.stdout, p.stderr[-2000:]
    p = synthdepth('evaluate', 'tiny', stated, '--show-anyway', '--out', tmp_path/'out')
    assert p.returncode == 0 and '20 pictures of 10 scenes' in p.stdout, p.stderr[-2000:]
    for command in (['card', stated], ['pack', stated, tmp_path/'packed']):
        p = synthdepth(*command)
        assert p.returncode == 1 and f'error: cannot write into {stated}' in p.stderr or (
            f'{stated}: found a file, expected a dataset folder' in p.stderr)


def test_check_keeps_what_is_stated(tmp_path):
    write_flat(tmp_path/'flat', scenes=4, views=2)
    p = synthdepth('check', tmp_path/'flat', '--set', 'views=2', '--max-depth', 20, '--save')
    assert p.returncode == 0 and 'synthdepth.json' in p.stdout
    stated = json.loads((tmp_path/'flat'/'synthdepth.json').read_text())
    assert stated == dict(views=2, max_depth=20)
    assert '8 in 4 scenes' in synthdepth('check', tmp_path/'flat').stdout
    p = synthdepth('check', tmp_path/'flat', '--set', 'vews=2')
    assert p.returncode == 1 and "found 'vews', expected some of layout" in p.stdout


def test_another_question_gets_another_folder(tmp_path):
    from synthdepth.cli import folder_for
    folders = dict(a='on-x', b='on-x-2', c='on-x-3')
    for place in ('a', 'b', 'a', 'c', 'b'):
        asked = dict(data=f'{place}/x')
        out = folder_for(tmp_path/'on-x', asked)
        assert out.name == folders[place]
        out.mkdir(exist_ok=True)
        (out/'asked.json').write_text(json.dumps(asked))
