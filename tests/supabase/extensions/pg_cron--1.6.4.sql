CREATE SCHEMA cron;
GRANT USAGE ON SCHEMA cron TO PUBLIC;
CREATE SEQUENCE cron.jobid_seq;
CREATE TABLE cron.job (
  jobid bigint PRIMARY KEY DEFAULT nextval('cron.jobid_seq'), schedule text NOT NULL,
  command text NOT NULL, nodename text NOT NULL DEFAULT 'localhost', nodeport int NOT NULL DEFAULT 5432,
  database text NOT NULL DEFAULT current_database(), username text NOT NULL DEFAULT current_user,
  active boolean NOT NULL DEFAULT true, jobname text
);
CREATE UNIQUE INDEX jobname_username_uniq ON cron.job (jobname, username);
ALTER TABLE cron.job ENABLE ROW LEVEL SECURITY;
CREATE POLICY cron_job_policy ON cron.job USING (username = CURRENT_USER);
CREATE TABLE cron.job_run_details (jobid bigint, runid bigint PRIMARY KEY, status text);
ALTER TABLE cron.job_run_details ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION cron._add(name text, at text, what text, db text, who text, on_ boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE made bigint;
BEGIN
  IF who <> session_user THEN
    RAISE EXCEPTION 'must be superuser to create a job for another role' USING ERRCODE = '42501';
  END IF;
  IF at !~ '^(\S+ ){4}\S+$' AND at !~ '^\d+ seconds$' AND at !~ '^@' THEN
    RAISE EXCEPTION 'invalid schedule: %', at USING ERRCODE = '22023';
  END IF;
  INSERT INTO cron.job (jobname, schedule, command, database, username, active)
  VALUES (name, at, what, db, who, on_)
  ON CONFLICT (jobname, username) DO UPDATE SET schedule = at, command = what, active = on_
  RETURNING jobid INTO made;
  RETURN made;
END $$;
CREATE FUNCTION cron.schedule(schedule text, command text) RETURNS bigint LANGUAGE sql AS $$
  SELECT cron._add(NULL, schedule, command, current_database()::text, session_user::text, true) $$;
CREATE FUNCTION cron.schedule(job_name text, schedule text, command text) RETURNS bigint LANGUAGE sql AS $$
  SELECT cron._add(job_name, schedule, command, current_database()::text, session_user::text, true) $$;
CREATE FUNCTION cron.schedule_in_database(job_name text, schedule text, command text, database text,
  username text DEFAULT NULL, active boolean DEFAULT true) RETURNS bigint LANGUAGE sql AS $$
  SELECT cron._add(job_name, schedule, command, database, COALESCE(username, session_user::text), active) $$;
CREATE FUNCTION cron.alter_job(job_id bigint, schedule text DEFAULT NULL, command text DEFAULT NULL,
  database text DEFAULT NULL, username text DEFAULT NULL, active boolean DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  UPDATE cron.job j SET schedule = COALESCE(alter_job.schedule, j.schedule),
    command = COALESCE(alter_job.command, j.command), active = COALESCE(alter_job.active, j.active)
   WHERE j.jobid = job_id AND j.username = session_user;
  IF NOT FOUND THEN RAISE EXCEPTION 'Job % does not exist or you don''t own it', job_id; END IF;
END $$;
CREATE FUNCTION cron.unschedule(job_name text) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$
  WITH gone AS (DELETE FROM cron.job WHERE jobname = job_name AND username = session_user RETURNING 1)
  SELECT EXISTS (SELECT FROM gone) $$;
GRANT USAGE ON SCHEMA cron TO postgres WITH GRANT OPTION;
GRANT SELECT ON cron.job, cron.job_run_details TO postgres WITH GRANT OPTION;
SELECT pg_catalog.pg_extension_config_dump('cron.job', '');
SELECT pg_catalog.pg_extension_config_dump('cron.jobid_seq', '');
SELECT pg_catalog.pg_extension_config_dump('cron.job_run_details', '');
