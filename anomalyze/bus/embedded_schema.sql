-- The embedded event log. One row of `segment` holds the records that one append brought to one partition.

CREATE SCHEMA bus;

-- One row: the identity of this log, and the format that its readers must know.
CREATE TABLE bus.log (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    log_id uuid NOT NULL DEFAULT gen_random_uuid(),
    format integer NOT NULL DEFAULT 1
);
INSERT INTO bus.log DEFAULT VALUES;

CREATE TABLE bus.topic (
    topic_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    partitions integer NOT NULL
);

-- Where each partition ends. Its row lock orders the appends: held until commit, so that no offset becomes
-- visible before a smaller one. Room on each page keeps the many updates off the index.
CREATE TABLE bus.head (
    topic_id smallint NOT NULL REFERENCES bus.topic,
    partition integer NOT NULL,
    next_offset bigint NOT NULL DEFAULT 0,
    append_ms bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic_id, partition)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- The key ends with the last offset, so that "from offset x on" is one index range that also finds the segment
-- in whose middle x lies. Payloads of up to a page stay in the row; none is compressed by the server.
CREATE TABLE bus.segment (
    topic_id smallint NOT NULL,
    partition integer NOT NULL,
    last_offset bigint NOT NULL,
    append_ms bigint NOT NULL,
    records integer NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (topic_id, partition, last_offset)
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.5);
ALTER TABLE bus.segment ALTER COLUMN payload SET STORAGE EXTERNAL;

-- The last append of each writing program, so that one whose answer was lost is repeated without harm.
CREATE TABLE bus.writer (
    writer_id uuid PRIMARY KEY,
    last_append bigint NOT NULL,
    used_at timestamptz NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE bus.consumer_group (
    group_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic_id smallint NOT NULL REFERENCES bus.topic,
    name text NOT NULL,
    UNIQUE (topic_id, name)
);

-- Who takes part: a member lives as long as its session. Partitions are owned by session advisory locks.
CREATE TABLE bus.member (
    member_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_id integer NOT NULL REFERENCES bus.consumer_group,
    pid integer NOT NULL DEFAULT pg_backend_pid(),
    session_started timestamptz NOT NULL,
    heartbeat timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE bus.committed (
    group_id integer NOT NULL REFERENCES bus.consumer_group,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (group_id, partition)
) WITH (fillfactor = 50);

-- Append segments, given in the order of (topic, partition), which keeps two writers from waiting for each other
-- in a circle. Does nothing when this append of this writer is there already.
CREATE FUNCTION bus.append(writer uuid, append bigint, topic_ids smallint[], partitions integer[],
                           record_counts integer[], payloads bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    item record;
    end_offset bigint;
    at_ms bigint;
BEGIN
    INSERT INTO bus.writer AS w VALUES (writer, append, now())
        ON CONFLICT (writer_id) DO UPDATE SET last_append = EXCLUDED.last_append, used_at = EXCLUDED.used_at
        WHERE w.last_append < EXCLUDED.last_append;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR item IN SELECT * FROM unnest(topic_ids, partitions, record_counts, payloads) AS u(topic_id, partition, records, payload)
    LOOP
        UPDATE bus.head AS h
            SET next_offset = h.next_offset + item.records,
                append_ms = greatest(h.append_ms, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
            WHERE h.topic_id = item.topic_id AND h.partition = item.partition
            RETURNING h.next_offset, h.append_ms INTO end_offset, at_ms;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the log has no partition % of topic %', item.partition, item.topic_id
                USING ERRCODE = 'no_data_found';
        END IF;
        INSERT INTO bus.segment VALUES
            (item.topic_id, item.partition, end_offset - 1, at_ms, item.records, item.payload);
    END LOOP;
END
$$;

-- First offset appended at or after a time: a search by halves over the segments, which are in the order of both.
-- Offsets are without gaps but for those expired at the beginning.
CREATE FUNCTION bus.offset_at(topic smallint, part integer, at_ms bigint) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;   -- every segment that ends before this is older
    high bigint;       -- every segment from here on is not older
    middle bigint;
    answer bigint;
    found record;
BEGIN
    SELECT next_offset, next_offset INTO high, answer FROM bus.head WHERE topic_id = topic AND partition = part;
    WHILE low < high LOOP
        middle := (low + high) / 2;
        SELECT s.last_offset, s.last_offset - s.records + 1 AS first_offset, s.append_ms INTO found
            FROM bus.segment s
            WHERE s.topic_id = topic AND s.partition = part AND s.last_offset >= middle
            ORDER BY s.last_offset LIMIT 1;
        EXIT WHEN found IS NULL;
        IF found.append_ms >= at_ms THEN
            answer := found.first_offset;
            high := least(middle, found.first_offset);
        ELSE
            low := found.last_offset + 1;
        END IF;
    END LOOP;
    RETURN answer;
END
$$;
