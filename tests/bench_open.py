"""How long opening a dataset takes, and what it keeps: python tests/bench_open.py [CAPTURES ...]

Folders with descriptions and empty files for pictures. The baseline is a reader that does nothing:
json.loads of each line of metadata.jsonl, and os.scandir of the two folders of pictures.
"""
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = 3_000, 30_000, 300_000  # captures
VIEWS = 15                      # of each scene


def line(i: int) -> dict:
    "What `render` writes about a capture; numbers have as many digits as there."
    scene, view = divmod(i, VIEWS)
    x, focal = 1/(3 + i), 120 + 1/(3 + scene)
    return dict(rgb_file_name=f'rgb/rgb_{i:05d}.png', depth_file_name=f'depth/depth_{i:05d}.png',
                scene=f'rooms-0-{scene:05d}', view=view,
                intrinsics=dict(fx=focal, fy=focal, cx=80., cy=60., width=160, height=120),
                pose=[[x/(j + 4*k + 1) for j in range(4)] for k in range(4)],
                light=dict(direction=[x, x/2, -x], irradiance=1 + x, colour=[1.36, .94, .48]),
                background='studio', seed=0, index=scene, objects=26)


def write_pictures(out: Path, n: int):
    "Empty files, named as the published study's flat layout names them, too."
    for kind in ('rgb', 'depth'):
        (out/kind).mkdir(parents=True)
        for i in range(n): os.close(os.open(out/f'{kind}/{kind}_{i:05d}.png', os.O_CREAT))


def write_folder(out: Path, n: int):
    "A rendered folder of n captures; its pictures are empty files."
    write_pictures(out, n)
    with open(out/'metadata.jsonl', 'w') as f:
        for i in range(n): f.write(json.dumps(line(i)) + '\n')
    depth = dict(kind='z', metres_per_unit=.001, invalid=0, bit_depth=16)
    info = dict(format='synthdepth', format_version=1, captures=n, scenes=-(-n//VIEWS), depth=depth)
    (out/'dataset.json').write_text(json.dumps(info))


def baseline(folder: str):
    "os.scandir of both folders, and json.loads of every line."
    names = [[e.name for e in os.scandir(f'{folder}/{kind}')] for kind in ('rgb', 'depth')]
    with open(f'{folder}/metadata.jsonl') as f:
        for text in f: json.loads(text)
    return names


def measure(what: str, folder: str):
    "Prints seconds of processor and of clock, and the megabytes by which the process grew."
    from synthdepth.data import check_split, list_captures, open_data, split_by_scene
    data = open_data(folder) if what in ('scenes', 'subset', 'split') else None
    if data and what != 'scenes': data.scenes
    work = dict(
        open=lambda: open_data(folder), baseline=lambda: baseline(folder),
        list_files=lambda: list_captures(Path(folder), files=True),
        scenes=lambda: data.scenes, subset=lambda: data.subset(range(0, len(data), 2)),
        split=lambda: check_split(split_by_scene(data)))[what]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, clock = time.process_time(), time.perf_counter()
    kept = work()
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f'{cpu:.3f} {clock:.3f} {(peak - before)/1024:.0f} {peak/1024:.0f}')
    del kept


def measured(what: str, folder: str, times: int = 3) -> list[str]:
    "The quickest of some runs, each in a process of its own."
    runs = [subprocess.run([sys.executable, __file__, '--measure', what, folder], check=True,
                           capture_output=True, text=True).stdout.split() for _ in range(times)]
    return min(runs, key=lambda run: float(run[0]))


def main(sizes):
    print(f'{"captures":>8} {"what":>12} {"processor s":>12} {"clock s":>9} {"µs each":>8} '
          f'{"MB more":>8} {"MB in all":>9}')
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder, 'native'), n)
            write_pictures(Path(folder, 'flat'), n)
            whats = 'baseline', 'open', 'list_files', 'scenes', 'subset', 'split'
            for what, layout in [(what, 'native') for what in whats] + [('open', 'flat')]:
                cpu, clock, more, peak = measured(what, f'{folder}/{layout}')
                name = what if layout == 'native' else f'{what} {layout}'
                print(f'{n:8,} {name:>12} {cpu:>12} {clock:>9} {float(cpu)/n*1e6:8.1f} {more:>8} '
                      f'{peak:>9}', flush=True)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--measure']: measure(*sys.argv[2:])
    else: main([int(n) for n in sys.argv[1:]] or SIZES)
