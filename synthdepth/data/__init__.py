"Datasets on disk: read, checked, split, shared, and turned into tensors."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'stored': ['DataError', 'Member', 'picture_size', 'read_rgb', 'read_stored'],
    'dataset': ['Capture', 'DepthData', 'DepthFormat', 'Sample', 'read_depth'],
    'native': ['LAYOUTS'],
    'stated': ['save_stated'],
    'layouts': ['associate'],
    'card': ['render_command', 'write_card'],
    'shards': ['IGNORED', 'files_of', 'index_shards', 'open_packed', 'pack_dataset',
        'read_manifest', 'unpack_dataset'],
    'hub': ['publish'],
    'open': ['keep_apart', 'list_captures', 'open_data', 'show_pairs'],
    'splits': ['check_split', 'split_by_scene', 'split_over_images'],
    'readings': ['misfit', 'misreading'],
    'pairing': ['agreement', 'duplicates', 'exchanged', 'shrink', 'signs'],
    'check': ['check_data'],
    'cache': ['CARD', 'CacheError', 'cache_folder', 'cached_arrays', 'clear_caches', 'files_state',
        'list_caches', 'spec_bytes'],
    'preprocessing': ['MAX_DEPTH', 'MIN_DEPTH', 'camera_after', 'crop_centre', 'preprocess',
        'resize_depth', 'resize_rgb'],
    'decoding': ['keep_captures'],
    'batches': ['FreshPairs', 'Pairs', 'collate', 'loader'],
    'augment': ['Augment', 'add_noise', 'augment_batch', 'crop_resize', 'draw', 'flips',
        'picture_seeds', 'recolour', 'soften', 'with_slices'],
    'focal': ['USUAL_FOV', 'Focus', 'add_focal_stack', 'add_inputs', 'even_dioptres',
        'focal_lengths', 'focus_of',
        'made_stacks', 'stored_distances', 'usual_focus'],
})
