-- What the store calls, one call per operation. In a function every statement sees what was committed
-- before it, so once the session's row is locked, all that follows is decided on the newest state.
-- A single statement of CTEs would decide on a snapshot that is older than the lock.

-- Settings for this transaction alone, so that nothing depends on a session's state (PgBouncer).
CREATE FUNCTION {schema}.use_settings(p_commit text, p_lock_timeout text) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    IF p_commit <> current_setting('synchronous_commit') THEN
        PERFORM set_config('synchronous_commit', p_commit, true);
    END IF;
    IF p_lock_timeout IS NOT NULL THEN
        PERFORM set_config('lock_timeout', p_lock_timeout, true);
    END IF;
END
$body$;

CREATE FUNCTION {schema}.epoch_at(p_at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS $body$
    SELECT (extract(epoch FROM p_at) * 1000000)::bigint
$body$;

-- Stores one turn, or says why not. p_epoch and p_sequence are the head that its history was loaded
-- at; NULL appends to whatever is there. p_subject_hash and p_audit: see the audit table.
CREATE FUNCTION {schema}.append_turn(
    p_session uuid, p_tenant text, p_subject text, p_conversation text,
    p_turn_id uuid, p_status text, p_at timestamptz, p_messages integer, p_bytes bigint, p_record json,
    p_epoch bigint, p_sequence bigint, p_strict boolean,
    p_ttl interval, p_keep_turns bigint, p_keep_bytes bigint,
    p_audit boolean, p_subject_hash text, p_commit text, p_lock_timeout text,
    OUT outcome text, OUT head_epoch bigint, OUT head_sequence bigint, OUT turn_sequence bigint, OUT stored json
) LANGUAGE plpgsql AS $body$
DECLARE
    s {schema}.session%ROWTYPE;
    v_now timestamptz;
    v_cut bigint;
    v_first bigint;
    v_trimmed record;
BEGIN
    PERFORM {schema}.use_settings(p_commit, p_lock_timeout);
    LOOP
        SELECT * INTO s FROM {schema}.session x WHERE x.session = p_session FOR NO KEY UPDATE;
        v_now := clock_timestamp();
        EXIT WHEN FOUND;
        IF p_epoch > 0 THEN
            outcome := 'gone';
            RETURN;
        END IF;
        head_epoch := {schema}.epoch_at(v_now);
        INSERT INTO {schema}.session (session, tenant, subject, conversation, subject_hash, epoch, sequence, messages,
                                      bytes, created_at, last_active, expires_at)
        VALUES (p_session, p_tenant, p_subject, p_conversation, p_subject_hash, head_epoch, 1, p_messages,
                p_bytes, v_now, v_now, v_now + p_ttl)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            INSERT INTO {schema}.turn VALUES
                (p_session, 1, p_turn_id, p_status, p_at, v_now, p_messages, p_bytes, 0, 0, p_record);
            IF p_audit THEN
                INSERT INTO {schema}.audit (action, subject_hash, session, epoch, first_turn, last_turn, turns, bytes)
                VALUES ('append', p_subject_hash, p_session, head_epoch, 1, 1, 1, p_bytes);
            END IF;
            outcome := 'stored';
            head_sequence := 1;
            turn_sequence := 1;
            RETURN;
        END IF;
        -- Another first turn was faster: go on as for a session that exists.
    END LOOP;

    IF s.expires_at <= v_now THEN
        IF p_epoch > 0 THEN
            outcome := 'gone';
            RETURN;
        END IF;
        IF p_audit AND s.sequence > 0 THEN
            INSERT INTO {schema}.audit (action, subject_hash, session, epoch, first_turn, last_turn, turns, bytes)
            VALUES ('expire', s.subject_hash, p_session, s.epoch, s.trimmed_turns + 1, s.sequence,
                    s.sequence - s.trimmed_turns, s.bytes);
        END IF;
        DELETE FROM {schema}.turn x WHERE x.session = p_session;
        s.epoch := greatest(s.epoch + 1, {schema}.epoch_at(v_now));
        s.sequence := 0;
        s.messages := 0;
        s.bytes := 0;
        s.trimmed_turns := 0;
        s.trimmed_messages := 0;
        s.trimmed_bytes := 0;
        s.reborn := false;
    ELSE
        SELECT x.sequence, x.record INTO turn_sequence, stored
        FROM {schema}.turn x WHERE x.session = p_session AND x.turn_id = p_turn_id;
        IF FOUND THEN
            -- A retry extends the session's life, and so its answer is as durable as the first one.
            UPDATE {schema}.session x SET expires_at = v_now + p_ttl WHERE x.session = p_session;
            outcome := 'duplicate';
            head_epoch := s.epoch;
            head_sequence := s.sequence;
            RETURN;
        END IF;
        IF s.epoch <> p_epoch AND (p_epoch <> 0 OR p_sequence <> 0 OR s.reborn) THEN
            outcome := 'gone';
        ELSIF s.sequence < p_sequence THEN
            outcome := 'rolled_back';
        ELSIF s.sequence > p_sequence AND p_strict THEN
            outcome := 'conflict';
        END IF;
        IF outcome IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;

    IF s.sequence = 0 THEN
        s.created_at := v_now;
    END IF;
    s.sequence := s.sequence + 1;
    INSERT INTO {schema}.turn VALUES
        (p_session, s.sequence, p_turn_id, p_status, p_at, v_now, p_messages, p_bytes,
         s.trimmed_messages + s.messages, s.trimmed_bytes + s.bytes, p_record);
    s.messages := s.messages + p_messages;
    s.bytes := s.bytes + p_bytes;
    IF p_audit THEN
        INSERT INTO {schema}.audit (action, subject_hash, session, epoch, first_turn, last_turn, turns, bytes)
        VALUES ('append', p_subject_hash, p_session, s.epoch, s.sequence, s.sequence, 1, p_bytes);
    END IF;

    -- Whole oldest turns go, never the new one.
    v_cut := s.trimmed_turns;
    IF p_keep_turns IS NOT NULL THEN
        v_cut := greatest(v_cut, s.sequence - greatest(p_keep_turns, 1));
    END IF;
    IF s.bytes > p_keep_bytes THEN
        SELECT x.sequence INTO v_first FROM {schema}.turn x
        WHERE x.session = p_session AND x.bytes_before + x.bytes >= s.trimmed_bytes + s.bytes - p_keep_bytes
        ORDER BY x.sequence LIMIT 1;
        v_cut := greatest(v_cut, least(v_first, s.sequence - 1));
    END IF;
    IF v_cut > s.trimmed_turns THEN
        WITH gone AS (
            DELETE FROM {schema}.turn x WHERE x.session = p_session AND x.sequence <= v_cut RETURNING x.messages, x.bytes
        )
        SELECT sum(g.messages) AS messages, sum(g.bytes) AS bytes INTO v_trimmed FROM gone g;
        IF p_audit THEN
            INSERT INTO {schema}.audit (action, subject_hash, session, epoch, first_turn, last_turn, turns, bytes)
            VALUES ('trim', p_subject_hash, p_session, s.epoch, s.trimmed_turns + 1, v_cut, v_cut - s.trimmed_turns,
                    v_trimmed.bytes);
        END IF;
        s.messages := s.messages - v_trimmed.messages;
        s.bytes := s.bytes - v_trimmed.bytes;
        s.trimmed_turns := v_cut;
        s.trimmed_messages := s.trimmed_messages + v_trimmed.messages;
        s.trimmed_bytes := s.trimmed_bytes + v_trimmed.bytes;
    END IF;

    UPDATE {schema}.session x SET
        tenant = p_tenant, subject = p_subject, conversation = p_conversation,
        subject_hash = coalesce(p_subject_hash, x.subject_hash),
        epoch = s.epoch, sequence = s.sequence, reborn = s.reborn, messages = s.messages, bytes = s.bytes,
        trimmed_turns = s.trimmed_turns, trimmed_messages = s.trimmed_messages, trimmed_bytes = s.trimmed_bytes,
        created_at = s.created_at, last_active = greatest(x.last_active, v_now), expires_at = v_now + p_ttl
    WHERE x.session = p_session;
    outcome := 'stored';
    head_epoch := s.epoch;
    head_sequence := s.sequence;
    turn_sequence := s.sequence;
END
$body$;

-- Deletes one session. What stays for p_fence is the fence against turns that were under way: an
-- epoch under the session's hash, without any name.
CREATE FUNCTION {schema}.delete_session(
    p_session uuid, p_fence interval, p_action text, p_audit boolean, p_commit text, p_lock_timeout text,
    OUT turns bigint, OUT bytes bigint
) LANGUAGE plpgsql AS $body$
DECLARE
    s {schema}.session%ROWTYPE;
    v_now timestamptz;
BEGIN
    PERFORM {schema}.use_settings(p_commit, p_lock_timeout);
    turns := 0;
    bytes := 0;
    SELECT * INTO s FROM {schema}.session x WHERE x.session = p_session FOR UPDATE;
    v_now := clock_timestamp();
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF p_audit AND s.sequence > 0 THEN
        INSERT INTO {schema}.audit (action, subject_hash, session, epoch, first_turn, last_turn, turns, bytes)
        VALUES (CASE WHEN s.expires_at <= v_now AND p_action = 'delete' THEN 'expire' ELSE p_action END, s.subject_hash, p_session, s.epoch,
                s.trimmed_turns + 1, s.sequence, s.sequence - s.trimmed_turns, s.bytes);
    END IF;
    IF s.expires_at <= v_now THEN
        DELETE FROM {schema}.session x WHERE x.session = p_session;
        RETURN;
    END IF;
    turns := s.sequence - s.trimmed_turns;
    bytes := s.bytes;
    DELETE FROM {schema}.turn x WHERE x.session = p_session;
    UPDATE {schema}.session x SET
        tenant = NULL, subject = NULL, conversation = NULL, subject_hash = NULL,
        epoch = greatest(s.epoch + 1, {schema}.epoch_at(v_now)), sequence = 0, reborn = true, messages = 0, bytes = 0,
        trimmed_turns = 0, trimmed_messages = 0, trimmed_bytes = 0, expires_at = v_now + p_fence
    WHERE x.session = p_session;
END
$body$;

-- Erases up to p_limit sessions of a subject, the expired ones too, in every tenant unless one is given.
CREATE FUNCTION {schema}.erase_subject(
    p_subject text, p_tenant text, p_limit integer, p_fence interval, p_audit boolean, p_commit text,
    p_lock_timeout text, OUT sessions bigint, OUT turns bigint, OUT bytes bigint, OUT at timestamptz
) LANGUAGE plpgsql AS $body$
DECLARE
    s record;
BEGIN
    PERFORM {schema}.use_settings(p_commit, p_lock_timeout);
    sessions := 0;
    turns := 0;
    bytes := 0;
    FOR s IN
        -- In one order, so that two erasures cannot wait for each other.
        SELECT x.session, x.sequence - x.trimmed_turns AS turns, x.bytes FROM {schema}.session x
        WHERE left(x.subject, 1000) = left(p_subject, 1000) AND x.subject = p_subject
          AND (p_tenant IS NULL OR x.tenant = p_tenant)
        ORDER BY x.session LIMIT p_limit FOR UPDATE
    LOOP
        PERFORM {schema}.delete_session(s.session, p_fence, 'erase', p_audit, p_commit, p_lock_timeout);
        sessions := sessions + 1;
        turns := turns + s.turns;
        bytes := bytes + s.bytes;
    END LOOP;
    at := clock_timestamp();
END
$body$;

-- Removes up to p_limit sessions whose life is over. Sessions in use are skipped, and so is the
-- whole purge while another one runs.
CREATE FUNCTION {schema}.purge_expired(
    p_limit integer, p_audit boolean, p_commit text, p_lock_timeout text,
    OUT busy boolean, OUT sessions bigint, OUT turns bigint, OUT bytes bigint
) LANGUAGE plpgsql AS $body$
DECLARE
    s {schema}.session%ROWTYPE;
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM {schema}.use_settings(p_commit, p_lock_timeout);
    sessions := 0;
    turns := 0;
    bytes := 0;
    busy := NOT pg_try_advisory_xact_lock(hashtextextended('{schema} purge', 0));
    IF busy THEN
        RETURN;
    END IF;
    FOR s IN
        SELECT * FROM {schema}.session x WHERE x.expires_at <= v_now
        ORDER BY x.expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    LOOP
        IF p_audit AND s.sequence > 0 THEN
            INSERT INTO {schema}.audit (action, subject_hash, session, epoch, first_turn, last_turn, turns, bytes)
            VALUES ('expire', s.subject_hash, s.session, s.epoch, s.trimmed_turns + 1, s.sequence,
                    s.sequence - s.trimmed_turns, s.bytes);
        END IF;
        DELETE FROM {schema}.session x WHERE x.session = s.session;
        sessions := sessions + 1;
        turns := turns + s.sequence - s.trimmed_turns;
        bytes := bytes + s.bytes;
    END LOOP;
END
$body$;
