"""Files are forgotten in time; what a crash leaves behind goes too, and a file that comes in stays."""

from __future__ import annotations

import uuid
from pathlib import Path

from anomalyze.ingestion.receive import part_path
from anomalyze.ingestion.retention import Forgotten, forget_uploads
from anomalyze.storage.objects import open_objects
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch
from anomalyze.storage.upload import add_upload, insert_errors, load_upload, new_upload_id


def test_old_files_are_forgotten_and_the_rest_is_not(database: str, tmp_path: Path) -> None:
    objects = open_objects(tmp_path.as_uri())
    made: dict[tuple[str, int], str] = {}
    with connect(database) as connection:
        for state in ("waiting", "started", "running", "done", "failed"):
            for days in (1, 40):
                upload_id = made[state, days] = new_upload_id()
                fetch(connection, add_upload(
                    upload_id=upload_id, account_id="a", name="n", sha256=uuid.uuid4().hex, size=2, parts=2, created_by="k",
                ))  # fmt: skip
                for part in range(2):
                    objects.put(part_path(upload_id, part), b"x")
                insert_errors(connection, upload_id, [(1, "", "why", "raw")])
                connection.execute(
                    "UPDATE uploads SET state = %(s)s, created_at = now() - make_interval(days => %(d)s), finished_at = "
                    "CASE WHEN %(s)s IN ('done', 'failed') THEN now() - make_interval(days => %(d)s) END WHERE upload_id = %(i)s",
                    {"s": state, "d": days, "i": upload_id},
                )
        objects.put("uploads/up_coming/part-00000", b"x")

        assert forget_uploads(connection, objects, 30) == Forgotten(1, 2, 0)
        kept = {path.split("/")[1] for path in objects.list("uploads")}
        gone = {made["done", 40], made["waiting", 40], made["failed", 40]}
        assert kept == {*made.values(), "up_coming"} - gone
        done = fetch(connection, load_upload("a", made["done", 40]))
        assert done is not None
        assert (done.state, done.parts) == ("done", 0)
        assert fetch(connection, load_upload("a", made["waiting", 40])) is None
        left = connection.execute("SELECT count(*) FROM upload_errors").fetchone()
        assert left == (7,)

        # What has no upload in a second night is of a crash, unless it has come to be one meanwhile.
        objects.put("uploads/up_stray/part-00000", b"x")
        assert forget_uploads(connection, objects, 30) == Forgotten(0, 0, 1)
        assert not [path for path in objects.list("uploads") if "up_coming" in path]
        assert forget_uploads(connection, objects, 30) == Forgotten(0, 0, 1)
        assert {path.split("/")[1] for path in objects.list("uploads")} == {*made.values()} - gone
