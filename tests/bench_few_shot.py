"""What a handful of pictures teaches: clip-depth against `tiny` and predictors that never look.

All are given 1, 5 or 25 pictures of each of six rooms, as many steps, and mirrored pictures
besides. They are asked about other pictures of these rooms, and about rooms never seen. `tiny`
works at the size of the pictures and is fine-tuned from the weights that it ships with, which know
such rooms, and from random ones, which know no more than the pictures given. The differences have
95 % intervals over the rooms.

python tests/bench_few_shot.py [CLIP]    CLIP: hub id or folder of a CLIP with real weights

Without CLIP, and with none in the hub's cache, its towers are random: then its rows say that the
machinery runs, and nothing about CLIP. Under four minutes on one core so; with real weights longer.
"""
import sys
import tempfile
import time

import pandas as pd
import torch
from torch import nn

from synthdepth.data import DepthData, Pairs, open_data
from synthdepth.evaluation import differences, trivial_predictors
from synthdepth.evaluation.scores import score_batches
from synthdepth.metrics import get_protocol, silog_loss
from synthdepth.models import DepthModel, FeatureCache, create_model, run_batch, turn
from synthdepth.models.clip_depth import HUB_ID
from synthdepth.models.hub import is_cached
from synthdepth.scenes import render_dataset

SIZE, SHOTS, ROOMS, UNSEEN, ASKED = (96, 128), (1, 5, 25), 6, 8, 2
STEPS, BATCH = 64, 4
TOWER = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4)
RANDOM = dict(size=SIZE, clip=dict(
    text_config=TOWER, vision_config=dict(TOWER, image_size=112, patch_size=8), projection_dim=128))


def render(place: str) -> tuple[DepthData, DepthData]:
    "The rooms that are learned from, and rooms never seen."
    how = dict(size=SIZE, spp=8, denoise=False, workers=1, progress=False)
    return tuple(open_data(render_dataset(f'{place}/{seed}', 'rooms', scenes=n, views=v, seed=seed,
                                          **how))
                 for seed, n, v in ((201, ROOMS, max(SHOTS) + ASKED), (202, UNSEEN, ASKED)))


def of_each_room(data: DepthData, views: slice) -> list[int]:
    "The captures of some views of every room."
    return [i for captures in data.scenes.values() for i in captures[views]]


def train(model: DepthModel, pictures: Pairs | FeatureCache, known: list[int], rates: dict,
          seed: int) -> DepthModel:
    "AdamW with one cycle, SILog, half of the pictures mirrored."
    groups = [dict(params=params, lr=rates[name.split('.')[0]])
              for name, params in model.parameter_groups().items() if name != 'fixed']
    groups = [g for g in groups if g['params']]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g['lr'] for g in groups], STEPS,
                                                   pct_start=.1)
    parameters = [p for g in groups for p in g['params']]
    order = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        at = torch.randint(len(known), (BATCH,), generator=order)
        at, turned = [known[i] for i in at], torch.rand(BATCH, generator=order) < .5
        kept = isinstance(pictures, FeatureCache)
        batch = (pictures.__getitems__(at, turned) if kept
                 else turn(pictures.__getitems__(at), turned))
        loss = silog_loss(run_batch(model.train(), batch), batch['depth'], batch['valid'])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.)
        optimizer.step()
        schedule.step()
    return model.eval()


def learners(data: DepthData, source: str | None, name: str) -> dict:
    "Name -> what makes it anew, what it is shown, and its learning rates."
    pictures, clip = Pairs(data, SIZE, cache=True), create_model(
        'clip-depth', source or 'none', **({} if source else RANDOM))
    first = {k: v.clone() for k, v in clip.own.state_dict().items()}

    def fresh() -> DepthModel:
        clip.own.load_state_dict(first)
        return clip

    with tempfile.TemporaryDirectory() as folder:
        kept = FeatureCache(clip, pictures, folder, torch.float32, flip=True)
    all_of_it = dict(encoder=3e-4, decoder=1e-3)
    return {name: (fresh, kept, dict(neck=3e-3, decoder=3e-2)),
            'tiny, fine-tuned': (lambda: create_model('tiny', size=SIZE), pictures, all_of_it),
            'tiny, from nothing': (lambda: create_model('tiny', 'none', size=SIZE), pictures,
                                   dict(encoder=1e-3, decoder=1e-3))}


def measure(place: str, source: str | None, name: str, seed: int = 0) -> tuple[dict, dict]:
    "(place asked about, shots) -> rows of all predictors; and the seconds that everything took."
    torch.manual_seed(seed)
    took, start = {}, time.perf_counter()
    rooms, unseen = render(place)
    took['render'], start = time.perf_counter() - start, time.perf_counter()
    makers = learners(rooms, source, name)
    took['features'] = time.perf_counter() - start
    asked = {'same rooms': rooms.subset(of_each_room(rooms, slice(max(SHOTS), None))),
             'new rooms': unseen}
    batches = {where: [Pairs(data, SIZE, cache=True).__getitems__(at.tolist())
                       for at in torch.arange(len(data)).split(8)] for where, data in asked.items()}
    scores = {(where, n): {} for where in asked for n in SHOTS}
    for n in SHOTS:
        known = of_each_room(rooms, slice(n))
        trivial = trivial_predictors(rooms.subset(known))
        trivial = {k: trivial[k] for k in ('training median', 'mean depth map')}
        models = trivial | {'tiny, as shipped': create_model('tiny', size=SIZE)}
        for who, (make, pictures, rates) in makers.items():
            torch.manual_seed(seed)
            start, models[who] = time.perf_counter(), train(make(), pictures, known, rates, seed)
            took[who] = took.get(who, 0) + time.perf_counter() - start
        for where, data in asked.items():
            scores[where, n] = score_batches(models, data, batches[where], get_protocol('metric'))
    return scores, took


def main(source: str | None = None):
    torch.set_num_threads(1)
    if source is None and is_cached(HUB_ID): source = HUB_ID
    name = 'clip-depth' if source else 'clip-depth, random towers'
    if not source: print('no weights of CLIP are given or cached: its towers are random, '
                         'so its rows test the machinery and say nothing about CLIP\n')
    with tempfile.TemporaryDirectory() as place: scores, took = measure(place, source, name)
    for metric in ('abs_rel', 'd1'):
        table = pd.DataFrame({key: {who: rows[metric].mean() for who, rows in found.items()}
                              for key, found in scores.items()})
        print(f'{metric} after so many pictures of each room', table.round(3).to_string(), sep='\n',
              end='\n\n')
    better = {}
    for (where, n), found in scores.items():
        for other in [who for who in found if who != name]:
            pair = {other: found[other], name: found[name]}
            row = differences(pair, other, ['abs_rel']).iloc[0]
            text = f'{row["difference"]:+.3f} [{row["low"]:+.3f}, {row["high"]:+.3f}]'
            better.setdefault((where, n), {})[other] = text
    print(f'{name} is better in abs_rel than', pd.DataFrame(better).to_string(), sep='\n',
          end='\n\n')
    print({who: round(seconds) for who, seconds in took.items()}, 'seconds')


if __name__ == '__main__': main(*sys.argv[1:2])
