"Jobs on a SLURM cluster: submitted, listed, followed, collected."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'profiles': ['ClusterError', 'load_profile'],
    'slurm': ['ask_slurm', 'queued'],
    'listing': ['cancel', 'chosen_rows', 'follow_log', 'job_rows', 'show_rows'],
    'collecting': ['collect'],
    'about': ['describe_cluster'],
    'kernel': ['install_kernel'],
    'watching': ['jobs'],
    'submission': ['submit'],
})
