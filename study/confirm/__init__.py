"""`python -m study.confirm`: whether a schedule is really better, by runs with fresh seeds against controls."""
