"Rendering killed with SIGKILL at 20 random moments: are the bytes those of a quiet run?"
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
from synthdepth.scenes import render_dataset

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

KILLS = 20
ARGUMENTS = dict(preset='published', scenes=110, views=3, size=(96, 128), spp=4, seed=5, workers=2,
                 progress=False)
FIGURE = Path(__file__).resolve().parent.parent/'figures'/'bench'/'render_kills.png'


def digest(folder: Path) -> dict:
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def finished(out: Path) -> int:
    if (out/'dataset.json').exists(): return ARGUMENTS['scenes']
    return len(list(out.glob('.render/scene_*.jsonl')))


def killed(out: Path, script: Path, rng) -> tuple[list, list]:
    "Render with kills; (seconds, finished scenes) over time, and the seconds of the kills."
    start, seen, kills = time.perf_counter(), [], []
    while not (out/'dataset.json').exists():
        p = subprocess.Popen([sys.executable, script], start_new_session=True)
        end = time.perf_counter() + rng.uniform(.5, 9) if len(kills) < KILLS else float('inf')
        while p.poll() is None and time.perf_counter() < end:
            seen.append((time.perf_counter() - start, finished(out)))
            time.sleep(.1)
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
            kills.append(time.perf_counter() - start)
        elif p.wait(): raise SystemExit(f'the renderer failed with exit code {p.returncode}')
        p.wait()
    return [*seen, (time.perf_counter() - start, finished(out))], kills


def draw(seen, kills):
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    fig, ax = plt.subplots(figsize=(7, 3), layout='constrained')
    ax.plot(*zip(*seen), color='C0', label='finished scenes')
    ax.vlines(kills, 0, ARGUMENTS['scenes'], color='C3', lw=.8, label='SIGKILL')
    ax.set(xlabel='seconds since the first start', ylabel=f'of {ARGUMENTS["scenes"]} scenes',
           xlim=(0, None), ylim=(0, None))
    ax.legend(loc='upper left', fontsize=8)
    part = FIGURE.with_suffix('.part.png')
    fig.savefig(part, dpi=110)
    part.replace(FIGURE)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as tmp:
        quiet, out, script = Path(tmp)/'quiet', Path(tmp)/'killed', Path(tmp)/'go.py'
        script.write_text(f'from synthdepth.scenes import render_dataset\n'
                          f'if __name__ == "__main__":\n'
                          f'    render_dataset({str(out)!r}, **{ARGUMENTS!r})\n')
        render_dataset(quiet, **ARGUMENTS)
        seen, kills = killed(out, script, random.Random(7))
        wrong = [k for k, v in digest(quiet).items() if digest(out).get(k) != v]
        same = digest(out) == digest(quiet)
        draw(seen, kills)
        verdict = 'all' if same else 'NOT all'
        print(f'{len(kills)} kills, {len(digest(out))} files, '
              f'{verdict} byte-identical to a quiet run', *wrong[:3])
        if not same or len(kills) < KILLS: raise SystemExit(1)
