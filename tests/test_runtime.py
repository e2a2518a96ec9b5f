"The notebooks that papermill runs need no more than `pip install .` brings."
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from toy import write_synthdepth

ROOT = Path(__file__).resolve().parents[1]


def runtime_distributions() -> dict:
    "What synthdepth requires without extras, and what that requires, by canonical name."
    found, waiting = {}, [Requirement('synthdepth')]
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        if name not in found: found[name] = distribution(name)
        for line in found[name].requires or ():
            needed = Requirement(line)
            marker, extras = needed.marker, ('', *asked.extras)
            if marker and not any(marker.evaluate(dict(extra=e)) for e in extras): continue
            if canonicalize_name(needed.name) not in found: waiting.append(needed)
    return found


@pytest.fixture(scope='module')
def python(tmp_path_factory) -> Path:
    "The interpreter of an environment that sees the runtime dependencies and nothing else."
    folder = tmp_path_factory.mktemp('runtime')/'env'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    site = Path(sysconfig.get_path('purelib', vars=dict(base=str(folder), platbase=str(folder))))
    installed = Path(sysconfig.get_path('purelib'))
    for name, found in runtime_distributions().items():
        if name == 'synthdepth': continue
        for top in {f.parts[0] for f in found.files} - {'..', '__pycache__'}:
            there = (site/top).exists() or not (installed/top).exists()
            if not there: (site/top).symlink_to(installed/top)
    (site/'synthdepth.pth').write_text(str(ROOT))
    return folder/'bin'/'python'


def test_the_environment_has_no_development_dependency(python):
    code = '''if True:
        from importlib.util import find_spec
        modules = 'torch', 'papermill', 'fastcore', 'nbdev', 'pytest'
        print([m for m in modules if find_spec(m)])
    '''
    done = subprocess.run([python, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['torch', 'papermill']"


def test_finetune_and_evaluate_need_the_runtime_dependencies_alone(python, tmp_path):
    data, run = write_synthdepth(tmp_path/'data'), tmp_path/'run'

    def synthdepth(*arguments):
        command = [python, '-m', 'synthdepth', *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]

    synthdepth('finetune', data, run, *'--set epochs=1 --set height=48 --set width=64'.split())
    assert (run/'finetune.ipynb').exists() and (run/'model'/'model.json').exists()
    code = '''if True:
        import sys
        from synthdepth.runner import run_notebook
        run, copy = sys.argv[1:]
        run_notebook('evaluate', copy, run=run, out=run + '/scores', show_anyway=True)
    '''
    command = [python, '-c', code, run, tmp_path/'evaluate.ipynb']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (run/'scores'/'table.md').exists()
