"""What is trained: a GPT whose dropout rate follows a schedule. Needs torch only."""
