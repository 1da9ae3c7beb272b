-- Sessions and their turns.

CREATE TABLE {schema}.session (
    -- The first 16 bytes of the key's hash. Logs show the first 8, so a log line leads to its row.
    session          uuid PRIMARY KEY,
    -- Percent-escaped, as in SessionKey::encoded. NULL once deleted: what remains names nobody.
    tenant           text COLLATE "C",
    subject          text COLLATE "C",
    conversation     text COLLATE "C",
    -- Hashed subject for the audit trail; NULL while no trail is kept.
    subject_hash     text COLLATE "C",
    -- Which life of the session, and how many turns that life has had; 0 turns: deleted.
    epoch            bigint NOT NULL,
    sequence         bigint NOT NULL,
    -- Whether this life follows a delete.
    reborn           boolean NOT NULL DEFAULT false,
    -- What is kept: turns (sequence - trimmed_turns), messages, bytes of messages.
    messages         bigint NOT NULL,
    bytes            bigint NOT NULL,
    -- What was trimmed in this life.
    trimmed_turns    bigint NOT NULL DEFAULT 0,
    trimmed_messages bigint NOT NULL DEFAULT 0,
    trimmed_bytes    bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL,
    last_active      timestamptz NOT NULL,
    expires_at       timestamptz
);

CREATE INDEX session_by_activity ON {schema}.session (last_active DESC, session DESC);
-- By the beginning of the name: an index row holds 2,700 bytes, a name may have several times that.
CREATE INDEX session_by_tenant ON {schema}.session (left(tenant, 1000), last_active DESC) WHERE tenant IS NOT NULL;
CREATE INDEX session_by_subject ON {schema}.session (left(subject, 1000), last_active DESC) WHERE subject IS NOT NULL;
CREATE INDEX session_by_expiry ON {schema}.session (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE {schema}.turn (
    session         uuid NOT NULL REFERENCES {schema}.session ON DELETE CASCADE,
    sequence        bigint NOT NULL,
    turn_id         uuid NOT NULL,
    status          text NOT NULL,
    -- When it was made, by the clock of the instance, and when it was stored, by the clock of the database.
    at              timestamptz NOT NULL,
    stored_at       timestamptz NOT NULL,
    messages        integer NOT NULL,
    bytes           bigint NOT NULL,
    -- Messages and bytes of all earlier turns of this life, so that a window is a range of rows.
    messages_before bigint NOT NULL,
    bytes_before    bigint NOT NULL,
    -- json, not jsonb: kept byte for byte.
    record          json NOT NULL,
    PRIMARY KEY (session, sequence),
    UNIQUE (session, turn_id)
);

CREATE INDEX turn_by_time ON {schema}.turn (stored_at);

-- For people: the sessions of a subject, by the index.
CREATE FUNCTION {schema}.sessions_of(p_subject text) RETURNS SETOF {schema}.session LANGUAGE sql STABLE AS $body$
    SELECT * FROM {schema}.session s WHERE left(s.subject, 1000) = left(p_subject, 1000) AND s.subject = p_subject
$body$;

-- For people: one row per stored message. A NUL, which JSON may spell and a text of this database may
-- not hold, is shown as U+FFFD; the record itself keeps it.
CREATE VIEW {schema}.history AS
SELECT s.tenant, s.subject, s.conversation, t.sequence AS turn, m.ordinal AS message, t.status, t.stored_at,
       m.body ->> 'role' AS role, m.body AS message_json
FROM {schema}.session s
JOIN {schema}.turn t USING (session)
CROSS JOIN LATERAL json_array_elements(
    regexp_replace(t.record::text, '(?<!\\)((\\\\)*)\\u0000', '\1\\ufffd', 'g')::json -> 'messages') WITH ORDINALITY AS m (body, ordinal)
WHERE s.expires_at IS NULL OR s.expires_at > now();
