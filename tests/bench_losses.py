"""The same losses: two processes against one, kept features against pictures.

Rounding alone lets two runs drift apart step by step; how far, a control says that differs in
nothing but the memory layout.

python tests/bench_losses.py    prints the largest differences and draws figures/bench/losses.png
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from toy import write_synthdepth

ROOT = Path(__file__).resolve().parents[1]
# Trains one model after the other; a job is NAME, WEIGHTS | run folder | changes to the recipe.
SCRIPT = '''
import sys, torch
torch.set_num_threads(1)
from bench_resume import toy
from synthdepth.training import finetune, make_recipe
from synthdepth.models import create_model
data, *jobs = sys.argv[1:]
for job in jobs:
    name, out, options = job.split('|')
    usual = dict(batch_size=4, height=48, width=64, lr=1e-3, patience=99, epochs=3)
    recipe = make_recipe('corrected', **usual | eval(options))
    model = create_model(*eval(name), **(dict(dropout=0) if 'toy' in name else dict(size=(64, 96))))
    finetune(model, data, recipe, out, progress='lines', minutes=0.)
'''
TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
ACCELERATE = ['-m', 'accelerate.commands.launch', '--multi_gpu', '--num_machines', '1',
              '--num_processes', '2',
              '--mixed_precision', 'no', '--dynamo_backend', 'no']


def launch(launcher: list, script: Path, *args, **options):
    "Start the script; with one of the launchers in two processes on the CPU."
    env = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='',
                            PYTHONPATH=f'{Path(__file__).parent}:{ROOT}')
    return subprocess.Popen([sys.executable, *launcher, script, *map(str, args)], env=env,
                            **options)


def measure(place: Path, epochs: int) -> dict[str, list[pd.DataFrame]]:
    "Logs of the two runs of each pair."
    data = write_synthdepth(place/'set', scenes=11, views=2)
    (place/'train.py').write_text(SCRIPT)
    start = f"('tiny',)|{place}/{{}}|dict(epochs={epochs}, lr=1e-4, {{}})"
    frozen = "frozen='encoder', jitter=0., cache_features={}"
    jobs = dict(one='', layout='channels_last=False', pictures=frozen.format(False),
                features=frozen.format(True))
    alone = launch([], place/'train.py', data, *(start.format(*job) for job in jobs.items()),
                   stdout=subprocess.DEVNULL)
    both = launch(TORCHRUN, place/'train.py', data, start.format('two', ''),
                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if alone.wait() or both.wait(): raise SystemExit('a training failed')
    logs = {name: pd.read_csv(place/name/'log.csv') for name in (*jobs, 'two')}
    return {'one process, two processes': [logs['one'], logs['two']],
            'pictures, features kept in half precision': [logs['pictures'], logs['features']],
            'control: one process, another memory layout': [logs['one'], logs['layout']]}


def differences(pairs: dict) -> pd.DataFrame:
    "Largest relative difference of each loss over the epochs; of the training loss in the first."
    def row(a, b):
        worst = {c: (b[c]/a[c] - 1).abs().max() for c in ('train_loss', 'valid_loss', 'abs_rel')}
        return {'train_loss, epoch 1': abs(b.train_loss[1]/a.train_loss[1] - 1)} | worst
    return pd.DataFrame({what: row(*logs) for what, logs in pairs.items()}).T


def draw(pairs: dict, path: Path):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
    for ax, (what, (a, b)), worst in zip(axes, pairs.items(), differences(pairs).train_loss):
        names = what.split(', ')
        for column, colour in (('train_loss', 'C0'), ('valid_loss', 'C1')):
            kind = dict(train_loss='training', valid_loss='validation')[column]
            ax.plot(a.epoch, a[column], '-', color=colour, label=f'{kind}, {names[0]}')
            ax.plot(b.epoch, b[column], 'o', color=colour, ms=6, mfc='none',
                    label=f'{kind}, {names[1]}')
        ax.set(xlabel='epoch', ylabel='SILog',
               title=f'largest relative difference of the training loss: {worst:.1e}')
        ax.title.set_fontsize(9)
        ax.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as t:
        os.environ['SYNTHDEPTH_CACHE'] = f'{t}/cache'
        pairs = measure(Path(t), 8)
    draw(pairs, ROOT/'figures'/'bench'/'losses.png')
    print(differences(pairs).to_string(float_format='{:.1e}'.format))
