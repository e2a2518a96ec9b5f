"Rendering speed, from scene to PNG, against the scalar build and against the default samples."
import multiprocessing
import os
import resource
import tempfile
import time
import warnings

import numpy as np

from synthdepth.scenes import choose_variant, enough_samples, exposure, factors, pinhole_sensor
from synthdepth.scenes import radiance
from synthdepth.scenes import render_dataset, sample_scene, to_mitsuba, tone_map, variant_problem

CORES = min(2, os.cpu_count())


def _measure(send, variant: str, arguments: dict):
    import mitsuba as mi
    from synthdepth.scenes import dataset_folder, render
    warnings.simplefilter('ignore')
    if variant:  # render_dataset would choose the best one
        choose_variant((variant,))
        mi.set_variant(variant)
        for module in (dataset_folder, render): module.choose_variant = lambda: variant
    n, workers, views = arguments['scenes'], arguments['workers'], arguments['views']
    with tempfile.TemporaryDirectory() as tmp:
        if workers == 1:
            once = arguments | dict(scenes=1, seed=1, views=1)
            render_dataset(f'{tmp}/warm', progress=False, **once)
        who = resource.RUSAGE_SELF if workers == 1 else resource.RUSAGE_CHILDREN
        start, before = time.perf_counter(), resource.getrusage(who)
        render_dataset(f'{tmp}/set', progress=False, **arguments)
        took, after = time.perf_counter() - start, resource.getrusage(who)
        start = time.perf_counter()
        render_dataset(f'{tmp}/few', progress=False, **arguments | dict(scenes=workers))
        few = time.perf_counter() - start
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    later = (n - workers)*views/(took - few)
    send.send((n*views/took, after.ru_maxrss/1024, busy/(n*views), later))


def speed(variant='', **arguments) -> tuple[float, float, float, float]:
    """Captures per second with the workers' start, the largest worker's memory in MB, CPU seconds a
    capture, and captures per second after the start: those beyond the first scene of every worker;
    in a process of its own."""
    receive, send = multiprocessing.Pipe(False)
    standard = dict(preset='published', scenes=4, views=3, seed=2, size=(256, 256), workers=1)
    arguments = standard | arguments
    spawn = multiprocessing.get_context('spawn')
    p = spawn.Process(target=_measure, args=(send, variant, arguments))
    p.start()
    found = receive.recv()
    p.join()
    return found


def psnr(preset: str, spp: tuple, size=(256, 256), scenes=6, reference=512) -> dict:
    """Mean and least PSNR in dB of denoised pictures, at the exposure of the reference, and seconds
    a picture. The reference is denoised too: with 512 samples a room is itself only known to 33 dB,
    and a studio to 42 dB."""
    quality, took = {n: [] for n in spp}, {n: [] for n in spp}
    variant = choose_variant()
    for index in range(scenes):
        scene = sample_scene(factors(preset, views=1), 2, index)
        mi_scene = to_mitsuba(scene, variant)
        sensor = pinhole_sensor(scene.views[0], scene.fov, size)
        truth = radiance(mi_scene, sensor, reference, 1000, True)
        gain = exposure(truth)
        for n in spp:
            start = time.perf_counter()
            x = radiance(mi_scene, sensor, n, 7, True)
            took[n].append(time.perf_counter() - start)
            error = tone_map(x, gain).astype(float) - tone_map(truth, gain)
            quality[n].append(10*np.log10(255**2/np.mean(error**2)))
    def summary(n): return np.mean(quality[n]), np.min(quality[n]), np.median(took[n])
    return {n: tuple(map(float, summary(n))) for n in spp}


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    if reason := variant_problem('llvm_ad_rgb'): print(f'llvm_ad_rgb: not measured, {reason}')
    else:
        scalar, llvm = speed('scalar_rgb', scenes=2), speed('llvm_ad_rgb', scenes=2)
        print(f'256x256, 16 samples, denoised, one process: '
              f'scalar_rgb {scalar[0]:.2f} captures/s (baseline), '
              f'llvm_ad_rgb {llvm[0]/scalar[0]:.2f} x the baseline')
    for size, views in (((256, 256), 15), ((480, 640), 3)):
        base = None
        for spp in (16, enough_samples(size)):
            rate, memory, busy, later = speed(size=size, spp=spp, workers=CORES, views=views,
                                              scenes=5*CORES)
            base = base or later
            print(f'{size[1]}x{size[0]}, {spp} samples, {CORES} workers: {later:.2f} captures/s, '
                  f'{later/base:.2f} x 16 samples; '
                  f'with their start {rate:.2f}; {busy:.2f} CPU seconds a capture, '
                  f'{memory:.0f} MB a worker', flush=True)
    for preset, size, spp, scenes in (('published', (256, 256), (8, 12, 16), 12),
                                      ('published', (480, 640), (6, 9), 12),
                                      ('rooms', (256, 256), (8, 12, 16), 2)):
        for n, (mean, least, took) in psnr(preset, spp, size, scenes).items():
            print(f'{preset} {size[1]}x{size[0]}, {n:2} samples, denoised: PSNR {mean:.1f} dB '
                  f'(lowest {least:.1f}), {took:.2f} s', flush=True)
