"""Is a focal stack worth it? HybridDepth against its prior and against depth from focus alone.

Rooms with stacks that the renderer traces through its thin lens, all focused at the same five
distances, so that the distances tell nothing. The prior is `tiny`, which was trained on rooms of
this kind and never changes; depth from focus alone is the same network without prior and
refinement, trained as long, by the same objective. Every difference has a 95 % interval over the
scenes of the test set.

python tests/bench_focal.py    prints the table; about half an hour on one core
"""
import tempfile
import time

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthdepth.data import Augment, DepthData, Focus, Pairs, add_focal_stack, augment_batch
from synthdepth.data import open_data, usual_focus
from synthdepth.evaluation import differences, trivial_predictors
from synthdepth.evaluation.scores import score_batches
from synthdepth.metrics import get_protocol, weighted_loss
from synthdepth.models import Comparison, create_model, run_batch
from synthdepth.models.hybriddepth import expected_depth
from synthdepth.scenes import render_dataset

SIZE, LR, STEPS, BATCH = (96, 128), 2e-3, 900, 4
LOSSES = dict(silog=1., gradient=.5)
VARIED = Augment(flip=True, brightness=.2, contrast=.2, saturation=.2, gamma=.2)


class FocusAlone(nn.Module):
    "The depth from focus of a HybridDepth as a model of its own."
    predicts, needs, name = 'metric', ('rgb', 'focal', 'focus'), 'focus alone'

    def __init__(self, hybrid: nn.Module):
        super().__init__()
        self.own = hybrid.own

    def forward(self, rgb: Tensor, labels: dict | None = None, **inputs) -> Tensor | Comparison:
        focal, focus = inputs['focal'], inputs['focus']
        slices = self.own.encoder(focal.flatten(0, 1))
        scores = self.own.volume([f.unflatten(0, focal.shape[:2]) for f in slices], focus)
        depth = F.interpolate(expected_depth(scores, focus)[0], SIZE, mode='bilinear')[:, 0]
        if labels is None: return depth
        return Comparison(depth, torch.where(labels['valid'], labels['depth'], 0.), labels['valid'])


def all_of(data: DepthData) -> dict:
    "All captures with their stacks, as one batch."
    focus = usual_focus(data)
    assert focus.stored and focus.distances == Focus().distances
    batch = Pairs(data, SIZE, cache=True).__getitems__(list(range(len(data))))
    return add_focal_stack(batch, data, focus)


def part(batch: dict, at: list[int]) -> dict: return {k: v[at] for k, v in batch.items()}


def train(model: nn.Module, seen: dict, seed: int) -> nn.Module:
    "AdamW with a cosine, the recipe's objective, flips and colours."
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS, pct_start=.1)
    order = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        at = torch.randperm(len(seen['index']), generator=order)[:BATCH].tolist()
        batch = augment_batch(part(seen, at), VARIED, seed, step)
        found = run_batch(model.train(), batch, dict(depth=batch['depth'], valid=batch['valid']))
        loss = weighted_loss(*found[:3], LOSSES)
        if found.extra is not None: loss = loss + found.extra.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.)
        optimizer.step()
        schedule.step()
    return model.eval()


def measure(place: str, scenes: int, tests: int, seed: int = 0) -> tuple[pd.DataFrame, dict]:
    "Rows of all predictors, and the seconds that everything took."
    how = dict(size=SIZE, spp=8, workers=1, progress=False, extras=('focal',),
               focal=dict(distances=Focus().distances))
    took, start = {}, time.perf_counter()
    roots = [render_dataset(f'{place}/{name}', 'rooms', scenes=n, views=v, seed=s, **how)
             for name, n, v, s in (('train', scenes, 2, 101), ('test', tests, 1, 102))]
    took['render'] = time.perf_counter() - start
    known, asked = (open_data(root) for root in roots)
    seen, unseen = all_of(known), all_of(asked)
    models = dict(trivial_predictors(known))
    for name in ('focus alone', 'hybriddepth'):
        torch.manual_seed(seed)
        start, model = time.perf_counter(), create_model('hybriddepth', size=SIZE)
        if name == 'hybriddepth': models['its prior, tiny'] = model.prior
        models[name] = train(model if name == 'hybriddepth' else FocusAlone(model), seen, seed)
        took[name] = time.perf_counter() - start
    batches = [part(unseen, at.tolist()) for at in torch.arange(len(asked)).split(8)]
    return score_batches(models, asked, batches, get_protocol('metric')), took


def main(scenes: int = 60, tests: int = 30):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place: scores, took = measure(place, scenes, tests)
    metrics = ['d1', 'abs_rel', 'rmse']
    table = pd.DataFrame({name: rows[metrics].mean() for name, rows in scores.items()}).T
    print(table.round(3).to_string(), end='\n\n')
    for other in ('its prior, tiny', 'focus alone'):
        pair = {other: scores[other], 'hybriddepth': scores['hybriddepth']}
        print(f'better than {other} by', differences(pair, other, metrics).round(3).to_string(),
              sep='\n', end='\n\n')
    print({name: round(seconds) for name, seconds in took.items()}, 'seconds')


if __name__ == '__main__': main()
