"""From job and cluster to a plan; pure, except for what workspace.py reads of this machine."""
