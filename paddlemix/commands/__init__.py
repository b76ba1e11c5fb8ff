"""A command is a module with `add_arguments` and `run`, listed in `cli.COMMANDS`. The other modules serve commands."""
