"Stopped by a signal, from the first moment on: always 75, and the same command goes on."
import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
NAMES = ('SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGUSR2')
LIGHT = {'synthdepth', 'typer', 'click', 'rich', 'shellingham', 'typing_extensions', 'markdown_it',
         'mdurl', 'pygments', 'annotated_doc', 'colorama'}  # pure Python


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
