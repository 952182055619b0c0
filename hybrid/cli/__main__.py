"""``python -m hybrid.cli`` is the `hybrid` command."""

from hybrid.cli import main

main()
