"""The command line, thin: it parses, calls ``sret_nas`` and prints."""
