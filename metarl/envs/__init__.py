"""Environments. Importing this registers those of ``conf/env`` with Gymnasium."""

from metarl.envs.registration import register

register()
