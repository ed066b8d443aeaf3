"""How the study is run, kept and shown."""
