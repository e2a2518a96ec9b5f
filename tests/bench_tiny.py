"""What each part of the small network's training brought, and how good the network is.

First `synthdepth train-tiny OUT` has to have rendered its scenes. Then, each as often as needed and
stopped at will (what is done is not done again):

python tests/bench_tiny.py OUT --ablation [--rows NAME,NAME] [--epochs 9] [--height 96 --width 128]
    Shortened trainings, all of the same number of steps, each without one part: encoder, camera,
    factors of the rooms, scenes, augmentation, loss. Tested on rendered rooms and homes with other
    seeds, on homes at 35 to 90 degrees with and without the camera, and on ten real pictures of
    SUN, TUM, DIODE and Redwood. Two cores: 5 to 10 minutes a row, and once 20 minutes of rendering.
    Writes figures/tiny/ablation.csv, ablation.md and scenes.png.

python tests/bench_tiny.py OUT --goals MODEL --former FILE
    The table of goals, once a network is chosen: NYU and 7-Scenes are looked at here alone.
    MODEL is a folder or a file of weights; FILE the weights of the network that was shipped before
    (git show 3daef8f:synthdepth/models/weights/tiny.safetensors).
    Writes figures/tiny/goals.csv, goals.md and real.png.

The real pictures are looked for in SYNTHDEPTH_REAL.
"""
import argparse
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from synthdepth.camera import Intrinsics
from synthdepth.data import Capture, DepthData, DepthFormat, open_data
from synthdepth.evaluation import bootstrap, compare, paired_differences, panel_page, score_models
from synthdepth.evaluation import show_table, to_markdown, trivial_predictors
from synthdepth.inspector import Comparisons
from synthdepth.metrics import PROTOCOLS
from synthdepth.models import create_model, load_model, save_weights
from synthdepth.scenes import render_dataset
from synthdepth.shipped_weights import TINY_RECIPE, start
from synthdepth.training import average_checkpoints, finetune, make_recipe

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get('SYNTHDEPTH_REAL', ROOT.parent/'shared'/'real'))
FIGURES = ROOT/'figures'/'tiny'
SIZE = (192, 256)                # (height, width) that predictions are compared at
FOVS = (35, 46, 60, 90)          # degrees, vertically
COUNTS = (15, 60, 240, 900)      # scenes of the curve
USUAL = 240                      # scenes of all other rows
VALID = 24                       # scenes, the same ones for all rows
VIEWS = 3                        # of a scene, as `train-tiny` renders it
AVERAGED = 3                     # epochs at the end
FACTORS = {                      # what homes lack -> factors that are nothing
    'windows': dict(windows=(0, 0)),
    'clutter': dict(clutter=(0, 0), smalls=(0., 0.)),
    'lens': dict(distortion=(0., 0.), vignetting=(0., 0.), noise=(0., 0.), exposure=(0., 0.))}
PLAIN = dict(jitter=0., saturation=0., hue=0., gamma=0., crop=1., resolution=1., noise=0.,
             flip=False)


@dataclass(frozen=True)
class Row:
    "A training that differs from the whole one in one thing."
    name: str
    start: dict = field(default_factory=dict)   # of `start`
    recipe: dict = field(default_factory=dict)  # of the recipe
    scenes: int = USUAL
    homes: str = 'homes'                        # dataset they come from; '': all are rooms


ALL = 'everything'
ROWS = [Row(ALL),
        Row('encoder from random weights', dict(weights='none'), dict(lr_scale=())),
        Row('no camera', dict(camera='none')),
        Row('bilinear edges', dict(upsample='bilinear')),
        Row('only rooms', homes=''),
        *(Row(f'homes without {name}', homes=f'homes without {name}') for name in FACTORS),
        *(Row(f'{n} scenes', scenes=n) for n in COUNTS if n != USUAL),
        Row('no augmentation', recipe=PLAIN),
        Row('no gradient loss', recipe=dict(loss='silog'))]


# Data

def rendered(out: Path, name: str, preset: str, scenes: int, changes=None, **how) -> DepthData:
    "A dataset beside those of `train-tiny`, rendered once."
    how = dict(size=SIZE, views=1, seed=2000, spp=16, progress=False) | how
    start = time.perf_counter()
    folder = render_dataset(out/name, preset, scenes, changes=changes, **how)
    if (took := time.perf_counter() - start) > 5: print(f'{folder}: {took:.0f} s', flush=True)
    return open_data(folder)


def held_out(out: Path, scenes: int) -> dict[str, DepthData]:
    "Rooms and homes that no training has seen; the same homes through four lenses."
    tests = {kind: rendered(out/'held_out', kind, kind, scenes) for kind in ('rooms', 'homes')}
    return tests | {f'homes at {fov}': rendered(out/'held_out', f'fov_{fov}', 'homes', scenes,
                                                dict(fov=(fov, fov)), seed=2001) for fov in FOVS}


def blind(data: DepthData) -> DepthData:
    "The same captures, of whose camera nothing is known."
    captures = tuple(replace(c, intrinsics=None) for c in data.captures)
    return replace(data, captures=captures, known={})


def some(name: str, pairs: list, camera: Intrinsics, scene='', **format) -> DepthData:
    "Real pictures of one sensor; each is a scene of its own, unless one is named."
    captures = tuple(Capture(str(rgb), str(depth), scene or f'{name} {rgb.stem}', n, camera)
                     for n, (rgb, depth) in enumerate(pairs))
    return DepthData(REAL, captures, DepthFormat(**format), name)


def development() -> dict[str, DepthData]:
    "The ten real pictures that may be looked at while a network is made."
    samples, sun = REAL/'samples', REAL/'sunrgbd_2'
    prime = Intrinsics(525., 525., 320., 240.)  # both sensors' own; 525 pixels are 49.1 degrees
    return dict(
        sun=some('sun', [(sun/f'img-{n:06d}.jpg', sun/f'{n}.png') for n in (3, 189)],
                 Intrinsics(529.5, 529.5, 365., 265.), rotated=True),  # Kinect 2, cut to 730x530
        sun_xtion=some('sun_xtion', [(samples/'other_formats_SUN_color.jpg',
                                      samples/'other_formats_SUN_depth.png')], prime, rotated=True),
        tum=some('tum', [(samples/'other_formats_TUM_color.png',
                          samples/'other_formats_TUM_depth.png')], prime, metres_per_unit=1/5000),
        diode=open_data(REAL/'diode_sample'),
        redwood=some('redwood', [(samples/f'color_{n:05d}.jpg', samples/f'depth_{n:05d}.png')
                                 for n in range(5)], prime, scene='redwood'))


def first_scenes(data: DepthData, n: int) -> list[int]:
    "The captures of its first scenes."
    if n > len(data.scenes):
        raise SystemExit(f'{data.root}: found {len(data.scenes)} scenes, expected {n} or more; '
                         '`synthdepth train-tiny` renders them')
    return [i for scene in list(data.scenes)[:n] for i in data.scenes[scene]]


def together(*parts: DepthData) -> DepthData:
    "Several datasets of one format as one."
    captures = tuple(c for part in parts for c in part.captures)
    return replace(parts[0], captures=captures, known={})


def splits(row: Row, out: Path) -> dict[str, DepthData]:
    "As many training pictures for every row, however few differ; the same ones to validate on."
    homes, rooms = (open_data(out/'scenes'/kind) for kind in ('homes', 'rooms'))
    last = [list(x.scenes)[-VALID//2:] for x in (homes, rooms)]
    valid = together(*(x.subset(i for scene in names for i in x.scenes[scene])
                       for x, names in zip((homes, rooms), last)))
    n = row.scenes if not row.homes else max(1, row.scenes//4)
    parts = [rooms.subset(first_scenes(rooms, n))]
    if row.homes:
        source = homes if row.homes == 'homes' else without(out, row.homes)
        parts = [source.subset(first_scenes(source, row.scenes - n)), *parts]
    data = together(*parts)
    pictures = max(COUNTS)*VIEWS
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(data)), pictures))
    return dict(train=data.subset(order.tolist()), valid=valid)


def without(out: Path, name: str) -> DepthData:
    "The same homes, but for one factor."
    changes = FACTORS[name.removeprefix('homes without ')]
    return rendered(out/'ablation', name.replace(' ', '_'), 'homes', USUAL - USUAL//4, changes,
                    seed=1000, views=VIEWS, spp=4)


# Ablation

def trained(row: Row, out: Path, epochs: int, size: tuple):
    "The network of a row."
    recipe = make_recipe('corrected', **TINY_RECIPE | dict(epochs=epochs, t_max=epochs, size=size)
                         | row.recipe)
    run, last = out/'ablation'/'runs'/row.name.replace(' ', '_'), min(AVERAGED, epochs)
    finetune(start(**row.start, size=size), splits(row, out), recipe, run, weights=row.name,
             progress=60., keep=last)
    return average_checkpoints(run, last)


def tested(model, tests: dict, real: dict) -> dict[str, pd.DataFrame]:
    "Its scores, picture by picture, on each test."
    def rows(data, protocol='metric', **options):
        return score_models({'model': model}, data, protocol, SIZE, **options)['model']
    found = {name: rows(data, geometry=name in ('rooms', 'homes')) for name, data in tests.items()}
    for name, data in tests.items():
        if ' at ' in name: found[f'{name}, blind'] = rows(blind(data))
    for name, protocol in (('real', 'metric'), ('real, aligned', 'median')):
        if real: found[name] = by_scene([rows(data, protocol) for data in real.values()])
    return found


def by_scene(parts: list[pd.DataFrame]) -> pd.DataFrame:
    "A row for each scene: five of the ten real pictures show the same room."
    rows = pd.concat(parts, ignore_index=True)
    return rows.groupby('scene', as_index=False).mean(numeric_only=True).assign(view=0, rgb='')


SHOWN = {  # column -> test, metric
    'rooms': ('rooms', 'd1'), 'homes': ('homes', 'd1'), 'edges': ('homes', 'boundary_f1'),
    **{f'{fov}°': (f'homes at {fov}', 'd1') for fov in FOVS},
    **{f'{fov}° blind': (f'homes at {fov}, blind', 'd1') for fov in FOVS},
    'real': ('real', 'd1'), 'real aligned': ('real, aligned', 'd1')}


def ablation_table(scores: Path) -> pd.DataFrame:
    "A row per training, test and metric: mean, its interval over scenes, change against all of it."
    def read(name, test): return pd.read_csv(scores/f'{name}-{test}.csv'.replace(' ', '_'))
    rows = []
    for row in ROWS:
        if not (scores/f'{row.name}-homes.csv'.replace(' ', '_')).exists(): continue
        for column, (test, metric) in SHOWN.items():
            if not (scores/f'{row.name}-{test}.csv'.replace(' ', '_')).exists(): continue
            one, base = read(row.name, test), read(ALL, test)
            mean, low, high = bootstrap(one, one[metric])
            change = bootstrap(one, paired_differences(base, one, metric))
            rows.append(dict(training=row.name, scenes=row.scenes, column=column, test=test,
                             metric=metric, mean=mean, low=low, high=high)
                        | dict(zip(('change', 'change_low', 'change_high'), change)))
    return pd.DataFrame(rows)


def ablation(out: Path, names: list[str], epochs: int, size: tuple, scenes: int):
    "Train and test what is not done yet, and write the table anew after each row."
    tests, real = held_out(out, scenes), development() if REAL.is_dir() else {}
    scores = out/'ablation'/'scores'
    scores.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        if names and row.name not in (*names, ALL): continue
        if not (scores/f'{row.name}-homes.csv'.replace(' ', '_')).exists():
            begin = time.perf_counter()
            found = tested(trained(row, out, epochs, size), tests, real)
            for test, rows in reversed(found.items()):  # homes, by which it is done, among the last
                rows.to_csv(scores/f'{row.name}-{test}.csv'.replace(' ', '_'), index=False)
            print(f'{row.name}: {time.perf_counter() - begin:.0f} s', flush=True)
        table = ablation_table(scores)
        FIGURES.mkdir(parents=True, exist_ok=True)
        table.round(4).to_csv(FIGURES/'ablation.csv', index=False)
    text = table.assign(shown=[f'{r["mean"]:.3f} ({r.change:+.3f})' for _, r in table.iterrows()])
    page = text.pivot(index='training', columns='column', values='shown')
    page = page.reindex(index=table.training.unique(), columns=table.column.unique())
    (FIGURES/'ablation.md').write_text(to_markdown(page) + '\n')
    draw_scenes(table)
    print(page.to_string())


def draw_scenes(table: pd.DataFrame):
    "d1 over the number of scenes."
    import matplotlib.pyplot as plt
    curve = table[table.training.isin([ALL, *(f'{n} scenes' for n in COUNTS)])]
    fig, ax = plt.subplots(figsize=(6, 3.4), layout='constrained')
    for k, (name, part) in enumerate(curve[curve.metric == 'd1'].groupby('column', sort=False)):
        if name not in ('rooms', 'homes', 'real', 'real aligned'): continue
        part = part.sort_values('scenes')
        ax.errorbar(part.scenes*1.02**k, part['mean'], [part['mean'] - part.low,
                    part.high - part['mean']], fmt='o-', ms=3, capsize=2, label=name)
    ax.set(xscale='log', xlabel='scenes', ylabel='d1', xticks=COUNTS, xticklabels=COUNTS)
    ax.minorticks_off()
    ax.legend()
    fig.savefig(FIGURES/'scenes.png', dpi=120)


# Goals

GOALS = [  # what, test, protocol, metric, goal (None: twice the former network's)
    ('NYU, metric, d1', 'NYU', 'metric', 'd1', .60),
    ('NYU, aligned by median, d1', 'NYU', 'median', 'd1', .75),
    ('7-Scenes, aligned, d1', '7-Scenes', 'median', 'd1', 'FastDepth'),
    ('rendered rooms, held out, d1', 'rooms', 'metric', 'd1', .92),
    ('boundary F1 on rooms', 'rooms', 'metric', 'boundary_f1', 'twice')]


def networks(model: str, former: str) -> dict:
    "The networks that are compared; FastDepth where its file is."
    new = load_model(model) if Path(model).is_dir() else create_model('tiny', model)
    found = {'former tiny': create_model('tiny', former), 'tiny': new}
    files = sorted((REAL/'fastdepth').glob('*.onnx'))
    return found | ({'FastDepth': create_model('fastdepth', files[0])} if files else {})


def goal_tests(out: Path, scenes: int) -> dict[str, DepthData]:
    tests = {'NYU': open_data(REAL/'nyuv2'), '7-Scenes': open_data(REAL/'7scenes_redkitchen')}
    return tests | development() | held_out(out, scenes)


def milliseconds(run, repeats: int = 20) -> float:
    "The median time of a call, after a few."
    for _ in range(3): run()
    took = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        took.append(time.perf_counter() - begin)
    return 1e3*float(np.median(took))


@torch.no_grad()
def speeds(model, place: Path) -> dict[str, float]:
    "Milliseconds for one picture on one core, by torch and by ONNX Runtime."
    torch.set_num_threads(1)
    rgb, camera = torch.rand(1, 3, *SIZE), torch.full((1, 4), torch.nan)
    given = dict(intrinsics=camera) if 'intrinsics' in getattr(model, 'needs', ()) else {}
    found = dict(torch=milliseconds(lambda: model(rgb, **given)))
    try:
        import onnxruntime
        from synthdepth.models import export_model
    except ImportError as e: print(f'not timed by ONNX Runtime: {e}')
    else:
        file = place/'timed.onnx'
        export_model(model, file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, ['CPUExecutionProvider'])
        feed = {x.name: (rgb if len(x.shape) == 4 else camera).numpy()
                for x in session.get_inputs()}
        found['ONNX Runtime'] = milliseconds(lambda: session.run(None, feed))
    return found


def goals(out: Path, model: str, former: str, scenes: int):
    "Score everything once, and say which goals are met."
    models, parts, shown = networks(model, former), [], {}
    tests = goal_tests(out, scenes)
    for name, data in tests.items():
        for protocol in ('metric', 'median'):
            trivial = trivial_predictors(data, protocol)
            named = {"test set's median": trivial['training median'],
                     "test set's mean map": trivial['mean depth map']}
            every, geometry = models | named, name in ('rooms', 'homes') and protocol == 'metric'
            table = compare(score_models(every, data, protocol, SIZE, geometry=geometry),
                            ['d1', 'abs_rel', 'rmse', *['boundary_f1']*geometry], ())
            shown[f'{name}, {len(data)} pictures, {PROTOCOLS[protocol]}'] = show_table(table)
            parts.append(table.reset_index().assign(test=name, protocol=protocol))
        print(name, flush=True)
    lens = [row for name, data in tests.items() if ' at ' in name
            for row in through(name, data, models['tiny'])]
    table = pd.concat(parts, ignore_index=True)
    FIGURES.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(FIGURES/'goals.csv', index=False)
    size = save_weights(models['tiny'], out/'measured.safetensors', half=True).stat().st_size
    page = [to_markdown(judged(table, speeds(models['tiny'], out), size/1e6)), '',
            to_markdown(pd.DataFrame(lens).set_index('homes at')), '']
    for title, text in shown.items(): page += [title, '', to_markdown(text), '']
    (FIGURES/'goals.md').write_text('\n'.join(page))
    draw_real(models)
    print('\n'.join(page[:1]))


def through(name: str, data: DepthData, model) -> list[dict]:
    "d1 on homes of one field of view, with the camera and without."
    def cell(x):
        scores = score_models({'tiny': model}, x, 'metric', SIZE)
        return show_table(compare(scores, ['d1'], ())).iloc[0, 0]
    return [{'homes at': name.removeprefix('homes at ') + '°', 'camera known': cell(data),
             'unknown, 60° assumed': cell(blind(data))}]


def judged(table: pd.DataFrame, took: dict, megabytes: float) -> pd.DataFrame:
    "The issue's table: before, goal, now, and whether the goal is met."
    at = table.set_index(['test', 'protocol', 'metric', 'model']).sort_index()
    rows = {}
    for what, *place, goal in GOALS:
        found = at.loc[tuple(place)]
        before, now = found.loc['former tiny', 'mean'], found.loc['tiny']
        if goal == 'twice': goal = 2*before
        if goal == 'FastDepth':
            goal = found.loc['FastDepth', 'mean'] if 'FastDepth' in found.index else np.nan
        said = 'yes' if now['mean'] >= goal else f'no, by {goal - now["mean"]:.3f}'
        if what.startswith('NYU, metric'):
            best = found.loc[[m for m in found.index if m.startswith('test')]].high.max()
            said += f'; trivial predictors reach {best:.3f} at most: ' + (
                'intervals apart' if now.low > best else 'intervals overlap')
        rows[what] = dict(before=f'{before:.3f}', goal=f'{goal:.3f}', met=said,
                          now=f'{now["mean"]:.3f} ' + (
                              f'[{now.low:.3f}, {now.high:.3f}]' if now.low == now.low
                              else '[one scene]'))
    for name, most in (('torch', 80), ('ONNX Runtime', 40)):
        if name in took: rows[f'one picture, one core, {name}'] = dict(
            before='', goal=f'{most} ms', now=f'{took[name]:.0f} ms',
            met='yes' if took[name] <= most else 'no')
    rows['file, half precision'] = dict(before='5.6 MB', goal='10 MB', now=f'{megabytes:.1f} MB',
                                        met='yes' if megabytes <= 10 else 'no')
    return pd.DataFrame(rows).T[['before', 'goal', 'now', 'met']]


def draw_real(models: dict):
    "Ten real pictures, their truth, and what each network makes of them."
    nyu, scenes7 = open_data(REAL/'nyuv2'), open_data(REAL/'7scenes_redkitchen')
    some = development() | dict(nyu=nyu.subset([40, 140, 240]), scenes7=scenes7.subset([12]))
    some['redwood'] = some['redwood'].subset([0])
    captures = [Comparisons(data, models, size=SIZE)[k]
                for data in some.values() for k in range(len(data))]
    panel_page(captures, width=200).save(FIGURES/'real.png')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, nargs='?', default=Path('data/tiny'),
                        help='folder of `synthdepth train-tiny`')
    parser.add_argument('--ablation', action='store_true')
    parser.add_argument('--goals', metavar='MODEL', help='folder or file of weights')
    parser.add_argument('--former', help='weights of the network that was shipped before')
    parser.add_argument('--rows', default='', help=f'some of: {", ".join(r.name for r in ROWS)}')
    parser.add_argument('--epochs', type=int, default=9)
    parser.add_argument('--height', type=int, default=96)
    parser.add_argument('--width', type=int, default=128)
    parser.add_argument('--scenes', type=int, default=40, help='of each held-out set')
    a = parser.parse_args()
    names = [name for name in a.rows.split(',') if name]
    if wrong := set(names) - {row.name for row in ROWS}: parser.error(f'no such row: {wrong}')
    if a.ablation: ablation(a.out, names, a.epochs, (a.height, a.width), a.scenes)
    if a.goals and not a.former: parser.error('--goals needs --former')
    if not a.ablation and not a.goals: print('nothing asked: --ablation, --goals MODEL (hours)')
    if a.goals: goals(a.out, a.goals, a.former, a.scenes)
