"""What a study trains beside the project's own GPT: the user's own task, a function in a file. Needs torch only."""
