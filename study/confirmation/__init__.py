"""Whether a schedule is really better: runs with fresh seeds, against controls, and what they say."""
