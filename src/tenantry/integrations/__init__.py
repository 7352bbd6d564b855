"""How does my framework know? One module per framework or library, imported by those who use it."""
