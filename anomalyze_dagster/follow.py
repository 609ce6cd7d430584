"""The graph follows the files of batches while Dagster runs: what is new, gone or called otherwise is shown without a
restart.

`dagster api grpc` loads its definitions once. Here they are built again, put in the place of the old ones, and the server
takes another id, which is what webserver and daemon look at to load a location anew. Runs are processes of their own and
read the files by themselves.
"""

import threading
import uuid
from typing import Any

from anomalyze.log import get
from anomalyze.settings import Settings

__all__ = ["follow_batches", "reload"]

LOOK_EVERY_S = 5.0


def follow_batches(servicer: Any, ended: threading.Event) -> None:
    """Load the definitions again whenever the batches' files make another graph, until ``ended``.

    Parameters
    ----------
    servicer
        ``dagster._grpc.server.DagsterApiServer``, whose definitions were loaded just now.
    """
    from anomalyze.metrics.library import Library
    from anomalyze_dagster.metrics.assets import describe_graph

    library = Library(Settings().config_dir)
    shown = None
    while True:
        try:
            # A batch whose file has a mistake runs as it was, and keeps its place.
            if library.refresh() and not library.stale:
                graph = describe_graph()
                if shown not in (None, graph):
                    reload(servicer)
                    get().info("definitions_loaded_again")
                shown = graph
        except Exception as error:  # noqa: BLE001 - the loop's top: what is shown stays as it was
            get().error("definitions_not_loaded", error=f"{type(error).__name__}: {error}"[:500])
        if ended.wait(LOOK_EVERY_S):
            return


def reload(servicer: Any) -> None:
    """Build the definitions from the files as they are, and serve them; when they cannot be, the old ones stay."""
    from anomalyze_dagster import definitions as module

    made = module.build_definitions()
    repository = made.get_repository_def()
    # As at the start: nothing is built by threads that serve.
    repository.load_all_definitions()
    module.definitions = made
    loaded = servicer._loaded_repositories
    loaded.update_repo_defs(dict.fromkeys(loaded.definitions_by_name, repository))
    servicer._server_id = str(uuid.uuid4())
