"""Kill a training process with SIGKILL at random moments, start it again each time, compare with a
run left alone.

python tests/bench_resume.py [kills]    prints a table and draws figures/bench/resume.png
"""
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
import torch._dynamo  # the optimiser imports it, for a second; here once for all processes
from toy import write_synthdepth
from torch import nn

from synthdepth.training import list_checkpoints, finetune, make_recipe
from synthdepth.models import DepthModel, create_model, register

ROOT = Path(__file__).resolve().parents[1]


class Toy(DepthModel):
    "Two convolutions with batch normalisation and dropout: fast steps, every kind of state."
    def __init__(self, width=8, dropout=.1):
        super().__init__(width=width, dropout=dropout)
        conv = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.encoder = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout))
        self.decoder = nn.Conv2d(width, 1, 3, 1, 1)

    def encoder_layers(self): return [[self.encoder]]
    def encode(self, rgb): return [self.encoder(rgb - .5)]

    def decode(self, features, size):
        return nn.functional.interpolate(self.decoder(features[0]).exp(), size,
                                         mode='bilinear')[:, 0]


@register('toy')
def toy(weights=None, **config):
    torch.manual_seed(1)
    model = Toy(**config)
    if weights not in (None, 'none'):
        from synthdepth.models import load_weights, weight_file
        load_weights(model, weight_file(weights))
    return model


def weights_of(run: Path) -> str:
    return hashlib.sha256((run/'model'/'model.safetensors').read_bytes()).hexdigest()


def start(data: Path, run: Path, epochs: int) -> int:
    "The training in a process of its own; its id."
    if pid := os.fork(): return pid
    try:
        recipe = make_recipe('corrected', epochs=epochs, batch_size=2, height=48, width=64, lr=3e-3,
                             patience=99)
        finetune(create_model('toy'), data, recipe, run, progress=False, minutes=.02/60)
        os._exit(0)
    except BaseException as e:
        print(f'{type(e).__name__}: {e}', file=sys.stderr, flush=True)
        os._exit(1)


def finish(pid: int):
    if os.waitpid(pid, 0)[1]: raise RuntimeError('the training failed')


def attempt(data: Path, run: Path, epochs: int, delay: float, early: bool) -> tuple[bool, float]:
    """Train until the end, or until the delay is over: counted from the start if `early`, else from
    the first new checkpoint.

    Says whether it was killed, and after how many seconds."""
    before, begin, pid = position(run), time.perf_counter(), start(data, run, epochs)
    due = begin + delay if early else None
    while due is None or time.perf_counter() < due:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done and status: raise RuntimeError('the training failed')
        if done: return False, time.perf_counter() - begin
        if due is None and position(run) != before: due = time.perf_counter() + delay
        time.sleep(.002)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1]), time.perf_counter() - begin


def position(run: Path) -> str:
    return list_checkpoints(run)[-1].name if list_checkpoints(run) else 'nothing'


def measure(kills: int, folder: Path, epochs: int = 20, seed: int = 0) -> pd.DataFrame:
    "One row per kill."
    draw = random.Random(seed)
    data = write_synthdepth(folder/'data', scenes=20, views=3)
    alone = folder/'alone'
    begin = time.perf_counter()
    finish(start(data, alone, epochs))
    whole, rows = time.perf_counter() - begin, []
    for n in range(99):
        run = folder/f'killed-{n}'
        while len(rows) < kills:
            # One kill in four may come before anything is written; the others leave a run that
            # went on, on any machine.
            killed, seconds = attempt(data, run, epochs, draw.uniform(0, .3*whole),
                                      early=draw.random() < .25)
            if not killed: break
            halves = len([p for p in (run/'checkpoints').glob('*.part')]) if run.exists() else 0
            rows.append(dict(run=n, seconds=seconds, share=seconds/whole, found=position(run),
                             unfinished=halves))
        finish(start(data, run, epochs))
        same = weights_of(run) == weights_of(alone)
        logs = [pd.read_csv(r/'log.csv').drop(columns='images_per_s') for r in (run, alone)]
        for r in rows:
            if r['run'] == n: r |= dict(same_weights=same, same_log=logs[0].equals(logs[1]))
        if len(rows) >= kills:
            table = pd.DataFrame(rows)
            table.attrs['logs'] = logs
            return table


def draw_figure(rows: pd.DataFrame, path: Path, epochs: int = 20):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    steps = 24
    def at(name):
        numbers = [int(x) for x in name.split('_') if x.isdigit()]
        return numbers[0] + (numbers[1]/steps if len(numbers) > 1 else 0) if numbers else 0.
    fig, (ax, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
    for run, part in rows.groupby('run'):
        x = [at(name) for name in part.found]
        ax.plot(range(1, len(x)+1), x, 'o-', ms=4, lw=1, label=f'run {run+1}')
    ax.axhline(epochs, color='k', lw=.8, ls=':')
    runs, left_alone = rows.run.nunique(), 'to the bit the weights of the run left alone'
    same = left_alone if rows.same_weights.all() else 'OTHER WEIGHTS'
    ax.set(xlabel='kill (SIGKILL) within a run', ylabel='position of the last checkpoint (epochs)',
           xticks=range(0, len(rows)+1, 5), yticks=range(0, epochs+1, 5),
           title=f'{len(rows)} kills, {runs} run{"s"*(runs > 1)}: {same}',
           ylim=(-.2, epochs+.4))
    ax.title.set_fontsize(9)
    if rows.run.nunique() > 1: ax.legend(ncols=4, fontsize=7, frameon=False)
    for log, style, label in zip(rows.attrs['logs'], ('o', '-'),
                                 ('killed and resumed', 'left alone')):
        right.plot(log.epoch, log.train_loss, style, color='C0', ms=5, mfc='none',
                   label=f'training, {label}')
        right.plot(log.epoch, log.valid_loss, style, color='C1', ms=5, mfc='none',
                   label=f'validation, {label}')
    right.set(xlabel='epoch', ylabel='SILog', xticks=range(0, epochs+1, 5))
    right.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)


if __name__ == '__main__':
    torch.set_num_threads(1)
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as t: rows = measure(kills, Path(t))
    if len(sys.argv) > 2: Path(sys.argv[2]).write_text(json.dumps(rows.to_dict('list')))
    else: draw_figure(rows, ROOT/'figures'/'bench'/'resume.png')
    print(rows.round(3).to_string(index=False))
