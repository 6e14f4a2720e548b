"""Hydra's search path with the user's own configurations, see ``metarl.configuration.search_path``."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class OwnConfigurations(SearchPathPlugin):
    """Has Hydra look into the folders that the user named, after metarl's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from metarl.configuration.search_path import folders

        for folder in folders():
            search_path.append("own", f"file://{folder}")
