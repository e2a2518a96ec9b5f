"Rendering speed: the LLVM build against the scalar build (the baseline), the whole path from scene to PNG."
import tempfile
import time
import warnings

from synthdepth.render import _usable, choose_variant, render_dataset


def captures_per_second(variant: str, scenes: int, views: int) -> float:
    import mitsuba as mi
    choose_variant.cache_clear()
    choose_variant((variant,))
    mi.set_variant(variant)
    arguments = dict(preset='abstract', views=views, size=(256, 256), workers=1, progress=False)
    with tempfile.TemporaryDirectory() as tmp:
        render_dataset(f'{tmp}/warm', scenes=1, seed=1, **arguments)
        start = time.perf_counter()
        render_dataset(f'{tmp}/set', scenes=scenes, seed=2, **arguments)
        return scenes*views/(time.perf_counter() - start)


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    scalar = captures_per_second('scalar_rgb', 2, 3)
    print(f'256x256, 16 samples, denoised, one process: scalar_rgb {scalar:.2f} captures/s (baseline)')
    if reason := _usable('llvm_ad_rgb'): print(f'llvm_ad_rgb: not measured, {reason}')
    else:
        llvm = captures_per_second('llvm_ad_rgb', 4, 3)
        print(f'llvm_ad_rgb {llvm:.2f} captures/s: {llvm/scalar:.2f} x the baseline')
