"""The evaluators of this package, a file each; ``sret_nas.evaluate`` has their names."""
