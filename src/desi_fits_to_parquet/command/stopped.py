"""What ends a command with a sentence."""


class Stopped(Exception):
    """A command cannot do what it was asked for; the message says what, where, what to do."""
