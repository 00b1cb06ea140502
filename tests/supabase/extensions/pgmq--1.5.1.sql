CREATE TABLE pgmq.meta (queue_name varchar UNIQUE NOT NULL, is_partitioned boolean NOT NULL,
  is_unlogged boolean NOT NULL, created_at timestamptz DEFAULT now() NOT NULL);
CREATE FUNCTION pgmq._create(queue_name text, kept text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE q text := 'q_' || lower(queue_name); a text := 'a_' || lower(queue_name);
BEGIN
  EXECUTE format('CREATE %s TABLE IF NOT EXISTS pgmq.%I (msg_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,'
    ' read_ct int DEFAULT 0 NOT NULL, enqueued_at timestamptz DEFAULT now() NOT NULL,'
    ' vt timestamptz NOT NULL, message jsonb, headers jsonb)', kept, q);
  EXECUTE format('CREATE TABLE IF NOT EXISTS pgmq.%I (msg_id bigint PRIMARY KEY, read_ct int DEFAULT 0 NOT NULL,'
    ' enqueued_at timestamptz DEFAULT now() NOT NULL, archived_at timestamptz DEFAULT now() NOT NULL,'
    ' vt timestamptz NOT NULL, message jsonb, headers jsonb)', a);
  EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON pgmq.%I (vt ASC)', q || '_vt_idx', q);
  INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged)
  VALUES (queue_name, false, kept <> '') ON CONFLICT DO NOTHING;
END $$;
CREATE FUNCTION pgmq.create(queue_name text) RETURNS void LANGUAGE sql AS $$ SELECT pgmq._create(queue_name, '') $$;
CREATE FUNCTION pgmq.create_unlogged(queue_name text) RETURNS void LANGUAGE sql AS $$
  SELECT pgmq._create(queue_name, 'UNLOGGED') $$;
CREATE FUNCTION pgmq.send(queue_name text, msg jsonb) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY EXECUTE format('INSERT INTO pgmq.%I (vt, message) VALUES (clock_timestamp(), $1) RETURNING msg_id',
    'q_' || lower(queue_name)) USING msg;
END $$;
CREATE FUNCTION pgmq.archive(queue_name text, msg_id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('WITH gone AS (DELETE FROM pgmq.%I WHERE msg_id = $1 RETURNING *) INSERT INTO pgmq.%I'
    ' (msg_id, read_ct, enqueued_at, vt, message, headers) SELECT msg_id, read_ct, enqueued_at, vt, message,'
    ' headers FROM gone', 'q_' || lower(queue_name), 'a_' || lower(queue_name)) USING msg_id;
  RETURN true;
END $$;
GRANT ALL ON SCHEMA pgmq TO postgres WITH GRANT OPTION;
GRANT ALL ON pgmq.meta TO postgres WITH GRANT OPTION;
SELECT pg_catalog.pg_extension_config_dump('pgmq.meta', '');
