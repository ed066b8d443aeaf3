"""What a study trains beside the language model: supernet, sentences, or the user's own function. Needs torch only."""
