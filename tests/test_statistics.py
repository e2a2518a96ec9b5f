"Intervals and tests against theory, by simulation; rows on disk."
import numpy as np
import pandas as pd
import pytest

from synthdepth.evaluation import MIN_BOOTSTRAP_SCENES, bootstrap, combine_seeds, differences
from synthdepth.evaluation import paired_differences, paired_test, scores_table, show_difference
from synthdepth.evaluation import sign_flip_p, write_rows


def rows(x, views=1, **columns):  # (scenes*views,) values of d1
    n = len(x)//views
    return pd.DataFrame(dict(scene=np.repeat(np.arange(n), views),
                             view=np.tile(np.arange(views), n),
                             rgb=[f'{i}.png' for i in range(len(x))], d1=x, **columns))


def test_sign_flips_by_hand_and_exact_against_drawn():
    assert sign_flip_p([1., 2., 3.]) == 2/8 and sign_flip_p([1., -1.]) == 1
    assert sign_flip_p([0., 0., 0.]) == 1
    x = np.random.default_rng(0).normal(.4, 1, 15)
    bits = 1 - 2*(np.arange(2**15)[:, None] >> np.arange(15) & 1)
    exact = (abs(bits @ x) >= abs(x.sum()) - 1e-12).mean()
    assert sign_flip_p(x) == pytest.approx(exact, abs=.01)


@pytest.mark.parametrize('n', [6, 12, 30])
def test_test_is_right_as_often_as_it_says(n):
    rng = np.random.default_rng(n)
    p = np.array([sign_flip_p(rng.normal(size=n), 1000, k) for k in range(300)])
    assert (p < .05).mean() <= .085 and .12 < (p < .2).mean() < .28


@pytest.mark.parametrize('n', [3, 5, MIN_BOOTSTRAP_SCENES - 1, MIN_BOOTSTRAP_SCENES])
def test_interval_of_few_scenes_holds_the_truth(n):
    rng = np.random.default_rng(n)
    found = [bootstrap(rows(rng.normal(size=n).repeat(2), 2), rng.normal(size=n).repeat(2), 300, k)
             for k in range(300)]
    assert .88 <= np.mean([low <= 0 <= high for _, low, high in found]) <= .99


def test_interval_of_few_scenes_is_students():
    x = np.array([.1, .4, .3, .7])
    mean, low, high = bootstrap(rows(x), x)
    assert (high - low)/2 == pytest.approx(3.18245*x.std(ddof=1)/2, rel=1e-5)
    assert mean == pytest.approx(x.mean())
    # fifty equal views say no more than one
    views = bootstrap(rows(x.repeat(50), 50), x.repeat(50))
    assert views == pytest.approx((mean, low, high), rel=1e-9)


def test_paired_test_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.normal(.7, .2, 25)
    one, other = rows(hard), rows(hard + .02 + rng.normal(0, .02, 25))
    found = paired_test(one, other, 'd1')
    assert found['low'] > 0 and found['p'] < .01 and found['p_wilcoxon'] < .01
    assert found['scenes'] == 25
    assert bootstrap(one, one.d1)[2] > bootstrap(other, other.d1)[1]
    worse = paired_test(other, one, 'd1')
    assert worse['difference'] == pytest.approx(-found['difference'])
    assert worse['p'] == pytest.approx(found['p'], abs=.01)


def test_differences_are_signed_so_that_above_zero_is_better():
    one, other = (rows(np.zeros(3), abs_rel=x, normal_mean=x) for x in (.4, .3))
    for metric in ('abs_rel', 'normal_mean'):
        assert (paired_differences(one, other, metric) > 0).all()
    with pytest.raises(ValueError, match="unknown metric 'd9'"):
        paired_differences(one, other, 'd9')


def test_only_what_was_scored_alike_is_compared():
    one, other = rows(np.zeros(3)), rows(np.zeros(3))
    with pytest.raises(ValueError, match='different pictures'):
        paired_differences(one, other[:2], 'd1')
    one.attrs['protocol'], other.attrs['protocol'] = 'metric: a', 'nyu: b'
    with pytest.raises(ValueError, match='different protocols: '):
        paired_differences(one, other, 'd1')


def test_a_single_scene_shows_no_difference():
    one, other = rows(np.zeros(4), 4), rows(np.ones(4), 4)
    found = paired_test(one, other, 'd1')
    assert np.isnan([found['low'], found['high'], found['p'], found['p_wilcoxon']]).all()
    assert '1.0' not in show_difference(found) and 'one scene' in show_difference(found)


def test_differences_of_every_model_to_one():
    rng = np.random.default_rng(0)
    scores = {name: rows(x + rng.normal(0, .01, 8))
              for name, x in (('base', .5), ('a', .6), ('b', .4))}
    table = differences(scores, 'base', ['d1'])
    assert list(table.index) == [('a', 'd1'), ('b', 'd1')]
    assert table.loc[('a', 'd1'), 'low'] > 0 > table.loc[('b', 'd1'), 'high']
    assert all('[' in show_difference(r) and 'p=' in show_difference(r)
               for _, r in table.iterrows())
    with pytest.raises(ValueError, match="no scores of 'basis'"):
        differences(scores, 'basis', ['d1'])


@pytest.mark.parametrize('seeds, scenes, of_seed, of_scene',
                         [(2, 12, .1, .1), (5, 20, .1, .1), (5, 20, 0., .3), (1, 12, 0., .2)])
def test_interval_over_seeds_and_scenes_holds_the_truth(seeds, scenes, of_seed, of_scene):
    rng, hits = np.random.default_rng(seeds), []
    for k in range(150):
        x = rng.normal(0, of_seed, seeds)[:, None] + rng.normal(0, of_scene, scenes)
        x = x + rng.normal(0, .1, (seeds, scenes))
        found = combine_seeds([rows(row) for row in x], None, 'd1', 500, k)
        hits.append(found['low'] <= 0 <= found['high'])
    assert np.mean(hits) >= .89
    assert (found['seeds'], found['scenes']) == (seeds, scenes)
    assert found['mean'] == pytest.approx(x.mean())


def test_seeds_are_compared_with_one_baseline_or_each_with_its_own():
    rng = np.random.default_rng(0)
    base, tuned = rows(rng.normal(size=9)), [rows(rng.normal(size=9)) for _ in range(3)]
    found = combine_seeds([base], tuned, 'd1')
    assert found['mean'] == pytest.approx(np.mean([t.d1 - base.d1 for t in tuned]))
    assert found == combine_seeds([base]*3, tuned, 'd1')
    with pytest.raises(ValueError, match='found 2 and 3 seeds'):
        combine_seeds([base]*2, tuned, 'd1')
    with pytest.raises(ValueError, match='different pictures'):
        combine_seeds([base, base[:4]], None, 'd1')
    with pytest.raises(ValueError, match='no seeds'): combine_seeds([], None, 'd1')
    assert np.isnan(combine_seeds([rows(np.zeros(4), 4)]*2, None, 'd1')['low'])


def test_rows_come_back_from_disk(tmp_path, monkeypatch):
    scores = {name: rows(np.arange(4)/3) for name in ('a', 'b')}
    for x in scores.values(): x.attrs['protocol'] = 'metric: x'
    table = scores_table(scores)
    assert list(table.columns[:5]) == ['model', 'protocol', 'scene', 'view', 'rgb']
    assert len(table) == 8
    files = write_rows(table, tmp_path/'rows')
    pd.testing.assert_frame_equal(pd.read_csv(files[0]), table)
    if len(files) == 2: pd.testing.assert_frame_equal(pd.read_parquet(files[1]), table)

    def absent(*_, **__): raise ImportError('no parquet here')
    monkeypatch.setattr(pd.DataFrame, 'to_parquet', absent)
    assert [f.name for f in write_rows(table, tmp_path/'other')] == ['other.csv']
    assert not list(tmp_path.glob('*.part'))
