"""The command line: thin over what the library does."""
