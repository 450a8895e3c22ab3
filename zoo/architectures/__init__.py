"""One architecture a file; `zoo.registry` finds them here."""
