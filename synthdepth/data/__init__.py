"Datasets on disk: read, checked, split, shared, and turned into tensors."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'dataset': ['LAYOUTS', 'DataError', 'DepthData', 'DepthFormat', 'Sample', 'check_split',
        'open_data', 'read_depth', 'read_rgb', 'show_pairs', 'split_by_scene', 'split_over_images'],
    'layouts': ['associate'],
    'doctor': ['agreement', 'duplicates', 'exchanged', 'misfit', 'shrink', 'signs'],
    'check': ['check_data'],
    'shards': ['IGNORED', 'files_of', 'open_packed', 'pack', 'publish', 'render_command', 'unpack',
        'write_card'],
    'cache': ['CacheError', 'cache_folder', 'cached_arrays', 'clear_caches', 'files_state',
        'list_caches', 'spec_bytes'],
    'preprocessing': ['MAX_DEPTH', 'MIN_DEPTH', 'Pairs', 'collate', 'crop_centre', 'loader',
        'preprocess', 'resize_depth', 'resize_rgb'],
    'augment': ['Augment', 'augment_batch', 'crop_resize', 'draw', 'flips', 'recolour'],
})
