"""Beyond one machine: the instance on PostgreSQL, runs on Celery workers, and the command that starts both on one host."""
