"""What is trained beside the language model of `study.training`: tasks, each with one number to minimise."""
