"""What `study.search --task-help` prints."""

HELP = ""
