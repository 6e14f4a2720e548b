"""Environments."""

from metarl.envs.rendering import choose_backend

choose_backend()  # before anything imports MuJoCo
