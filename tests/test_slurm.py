"Jobs on a real SLURM, which these tests start and stop."
import re


def test_the_cluster_has_two_nodes_and_both_kinds_of_preemption(slurm):
    nodes = slurm.ask('sinfo', '-h', '-N', '-p', 'sandbox', '-o', '%N %G').splitlines()
    assert [line.split()[0] for line in nodes] == ['n1', 'n2']
    assert all('gpu:NV-A30:2' in line for line in nodes)
    said = slurm.ask('scontrol', 'show', 'partition')
    grace = dict(re.findall(r'PartitionName=(\S+)[^$]*?GraceTime=(\d+)', said))
    assert grace['kill-shared'] == '20' and grace['kill-exclusive'] == '0'


def test_a_job_runs_with_the_gpus_it_asked_for(slurm):
    said = slurm.ask('srun', '--gres=gpu:NV-A30:2', '--mem=100', 'printenv', 'CUDA_VISIBLE_DEVICES')
    assert said == '0,1\n'
