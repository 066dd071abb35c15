"""A function elsewhere, that asks for a name which is taken."""


def second():
    pass
