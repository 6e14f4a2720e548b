"""A module with an import side effect: it records that it was imported."""

import os

if (place := os.environ.get("METARL_FAULTS_CANARY")) is not None:
    with open(place, "a") as file:
        file.write("imported\n")


class Anything:
    """A class whose construction has the same side effect."""

    def __init__(self, *_: object, **__: object):
        if place is not None:
            with open(place, "a") as file:
                file.write("made\n")
