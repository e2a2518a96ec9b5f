"Widgets to look at every depth map."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'comparison': ['GAP', 'HEAD', 'Looks', 'compose'],
    'session': ['Browser', 'look_at_picture'],
    'page': ['COLOUR_MAPS', 'LAYOUTS', 'has_frontend', 'unpack'],
    'inspect': ['DepthInspector'],
    'monitor': ['PredictPanel', 'TrainingMonitor', 'open_run', 'serve', 'show_folder',
        'write_page'],
})
