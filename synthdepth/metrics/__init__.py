"Losses, alignment, metrics and the protocols they are computed under."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'losses': ['LOSSES', 'gradient_loss', 'masked_median', 'silog_loss', 'ssi_loss', 'standardise'],
    'alignment': ['align', 'fit_alignment'],
    'protocols': ['METRICS', 'PROTOCOLS', 'Protocol', 'apply_protocol', 'depth_metrics',
        'evaluate_batch', 'get_protocol', 'summarise'],
    'boundaries': ['GEOMETRY', 'RATIOS', 'boundary_f1', 'edge_metrics', 'geometry_metrics',
        'normal_metrics', 'ordinal_metrics'],
    'image_metric': ['ImageMetric'],
})
