-- The audit trail: who, when, which turns, how many bytes; never what was said.

CREATE TABLE {schema}.audit (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- append, trim, delete, expire or erase.
    action       text NOT NULL,
    subject_hash text COLLATE "C",
    session      uuid NOT NULL,
    epoch        bigint NOT NULL,
    first_turn   bigint,
    last_turn    bigint,
    turns        bigint NOT NULL,
    bytes        bigint NOT NULL
);

CREATE INDEX audit_by_subject ON {schema}.audit (subject_hash, at);
CREATE INDEX audit_by_time ON {schema}.audit (at);

CREATE FUNCTION {schema}.audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION 'the audit trail can only be appended to' USING ERRCODE = 'insufficient_privilege';
END
$body$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {schema}.audit
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.audit_is_append_only();
