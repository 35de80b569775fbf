"""What a person writes: job, cluster and pipeline files."""
