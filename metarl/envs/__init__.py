"""Environments. Importing this registers those of ``conf/env`` with Gymnasium."""

from metarl.envs.pictures import choose_backend
from metarl.envs.registration import register

choose_backend()  # before anything imports MuJoCo
register()
