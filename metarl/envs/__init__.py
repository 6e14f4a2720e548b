"""Environments."""

from metarl.envs.pictures import choose_backend

choose_backend()  # before anything imports MuJoCo
